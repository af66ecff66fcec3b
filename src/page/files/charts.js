// Charts of the history: bars from the oldest step to the newest.

const [WIDTH, HEIGHT] = [360, 96];
const SVG = "http://www.w3.org/2000/svg";

/** Draws bars. `layers`: lists of values with the class of their colour, each drawn over the one before it. */
function draw(chart, layers, most) {
  const bars = layers.flatMap(([name, values]) => values.map((value, index) => {
    if (!value) return null;
    const width = WIDTH / values.length;
    // A small value is visible as well.
    const height = Math.max(HEIGHT * value / most, 1.5);
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("class", name);
    bar.setAttribute("x", index * width + width * 0.1);
    bar.setAttribute("y", HEIGHT - height);
    bar.setAttribute("width", width * 0.8);
    bar.setAttribute("height", height);
    return bar;
  }));
  chart.replaceChildren(...bars.filter(bar => bar !== null));
}

/** Bars of which each has parts. Returns the largest sum. */
export function stacked(chart, parts) {
  const sums = parts[0][1].map((_, index) => parts.reduce((sum, [, values]) => sum + values[index], 0));
  const most = Math.max(1, ...sums);
  // From the whole bar down to its first part.
  const layers = parts.map(([name], last) =>
    [name, sums.map((_, index) => parts.slice(0, last + 1).reduce((sum, [, values]) => sum + values[index], 0))]);
  draw(chart, layers.reverse(), most);
  return most;
}

/** Bars of one list in front of those of another. Returns the largest value; null without any. */
export function overlaid(chart, behind, front) {
  const known = behind[1].filter(value => value !== null);
  const most = Math.max(0, ...known);
  draw(chart, [behind, front], most);
  return known.length > 0 ? most : null;
}
