// A transcript as a file: the same formats as the server's, made here because the text may have been edited.

const oneLine = text => text.split(/\s+/).filter(Boolean).join(" ").replaceAll("-->", "->");

function time(seconds, separator) {
  const millis = Math.round(Math.max(0, seconds) * 1000);
  const pad = (number, digits) => String(number).padStart(digits, "0");
  const parts = [Math.floor(millis / 3_600_000), Math.floor(millis / 60_000) % 60, Math.floor(millis / 1000) % 60];
  return parts.map(part => pad(part, 2)).join(":") + separator + pad(millis % 1000, 3);
}

const cues = transcript => transcript.segments
  .map(segment => ({...segment, line: oneLine(segment.text)}))
  .filter(segment => segment.line !== "");

/** The text; in languages without spaces, segments are joined without one. */
export const plainText = transcript => transcript.segments.map(segment => segment.text).join("").trim();

/** The formats, by the extension of the file: the content type and the content. */
export const formats = {
  txt: {type: "text/plain", make: transcript => plainText(transcript) + "\n"},
  srt: {
    type: "application/x-subrip",
    make: transcript => cues(transcript).map((cue, index) =>
      `${index + 1}\n${time(cue.start, ",")} --> ${time(cue.end, ",")}\n${cue.line}\n\n`).join(""),
  },
  vtt: {
    type: "text/vtt",
    make: transcript => "WEBVTT\n\n" + cues(transcript).map(cue =>
      `${time(cue.start, ".")} --> ${time(cue.end, ".")}\n${cue.line.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}\n\n`).join(""),
  },
  json: {
    type: "application/json",
    make: transcript => JSON.stringify({
      task: transcript.task,
      language: transcript.language,
      duration: transcript.duration,
      text: plainText(transcript),
      segments: transcript.segments.map(({start, end, text}, id) => ({id, start, end, text})),
      words: transcript.segments.flatMap(segment => segment.words ?? [])
        .filter(word => word.start !== undefined)
        .map(({word, start, end, probability}) => ({word, start, end, probability})),
    }, null, 2) + "\n",
  },
};
