// The waveform of a recording, with its segments.

/** Longer or larger recordings are drawn by their segments only: decoding them would take much memory. */
const LONGEST_SECONDS = 10 * 60;
const LARGEST_BYTES = 64 * 1024 * 1024;
/** The rate at which the waveform is decoded. */
const RATE = 8000;
const BARS = 1500;

/** One recording is decoded at a time. */
let before = Promise.resolve();

/** The loudness of the recording in BARS steps, 0 to 1; null if it is too long, or if this browser cannot decode it. */
export function peaksOf(audio, seconds) {
  if (audio.size > LARGEST_BYTES || seconds > LONGEST_SECONDS) return Promise.resolve(null);
  before = before.then(() => decode(audio));
  return before;
}

async function decode(audio) {
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const samples = (await context.decodeAudioData(await audio.arrayBuffer())).getChannelData(0);
    const step = samples.length / BARS;
    const peaks = new Float32Array(BARS);
    for (let bar = 0; bar < BARS; bar++) {
      let peak = 0;
      for (let at = Math.floor(bar * step); at < (bar + 1) * step && at < samples.length; at++) {
        peak = Math.max(peak, Math.abs(samples[at]));
      }
      peaks[bar] = peak;
    }
    const loudest = Math.max(0.05, ...peaks);
    return peaks.map(peak => peak / loudest);
  } catch {
    return null;
  }
}

export class Wave {
  peaks = null;

  constructor(canvas, segments, seconds) {
    Object.assign(this, {canvas, segments, seconds, at: 0});
    const end = new AbortController();
    const observer = new ResizeObserver(() => this.draw());
    observer.observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(), {signal: end.signal});
    this.dispose = () => { observer.disconnect(); end.abort(); };
  }

  /** The time at a position of the pointer. */
  timeAt(event) {
    const {left, width} = this.canvas.getBoundingClientRect();
    return (event.clientX - left) / width * this.seconds;
  }

  draw(at = this.at) {
    this.at = at;
    const {canvas} = this;
    const scale = globalThis.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (width === 0) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    const style = getComputedStyle(canvas);
    const color = name => style.getPropertyValue(name);
    const paint = canvas.getContext("2d");
    paint.clearRect(0, 0, width, height);
    const x = seconds => seconds / this.seconds * width;
    for (const {start, end} of this.segments) {
      const isNow = at >= start && at < end;
      paint.fillStyle = color(isNow ? "--accent" : "--accent-soft");
      paint.globalAlpha = isNow ? 0.35 : 1;
      paint.fillRect(x(start), 0, Math.max(x(end) - x(start) - scale, scale), height);
    }
    paint.globalAlpha = 1;
    if (this.peaks) {
      const bars = Math.min(BARS, Math.floor(width / (2 * scale)));
      for (let bar = 0; bar < bars; bar++) {
        const from = Math.floor(bar / bars * BARS);
        const to = Math.max(from + 1, Math.floor((bar + 1) / bars * BARS));
        const loud = Math.max(...this.peaks.subarray(from, to), 0.02) * height * 0.9;
        paint.fillStyle = color(bar / bars * this.seconds < at ? "--accent" : "--wave");
        paint.fillRect(bar / bars * width, (height - loud) / 2, Math.max(width / bars - scale, 1), loud);
      }
    }
    paint.fillStyle = color("--live");
    if (at > 0) paint.fillRect(Math.min(x(at), width - 2 * scale), 0, 2 * scale, height);
  }
}
