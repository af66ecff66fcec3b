//! Renders transcripts as json, text, verbose_json, srt and vtt.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stt_actors::domain::transcript::{Removed, Segment, Task, Transcript, Word};

use crate::language;

/// `response_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `{"text", "usage"}`.
    Json,
    /// The text and a newline.
    Text,
    /// All known fields as JSON.
    VerboseJson,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

/// Optional parts of a JSON reply: `timestamp_granularities[]` and `include[]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of its own")]
pub struct Details {
    /// Segments, in verbose_json.
    pub segments: bool,
    /// Words with their times, in verbose_json.
    pub words: bool,
    /// Log-probability of each token.
    pub logprobs: bool,
    /// Events for segments and the progress, in a streamed reply.
    pub streamed_segments: bool,
}

impl Default for Details {
    /// The defaults of OpenAI's API.
    fn default() -> Self {
        Self {
            segments: true,
            words: false,
            logprobs: false,
            streamed_segments: false,
        }
    }
}

/// All formats with their names.
const FORMATS: [(&str, Format); 5] = [
    ("json", Format::Json),
    ("text", Format::Text),
    ("srt", Format::Srt),
    ("verbose_json", Format::VerboseJson),
    ("vtt", Format::Vtt),
];

impl Format {
    /// The format with this name.
    pub fn parse(name: &str) -> Option<Self> {
        let known = FORMATS.iter().find(|(known, _)| *known == name);
        known.map(|(_, format)| *format)
    }

    /// The names of all formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|(name, _)| *name)
    }

    /// The name in a request.
    pub fn name(self) -> &'static str {
        let known = FORMATS.iter().find(|(_, format)| *format == self);
        known.map_or("json", |(name, _)| name)
    }

    /// The content type of the reply.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::VerboseJson => "application/json",
            Self::Text => "text/plain; charset=utf-8",
            Self::Srt => "application/x-subrip; charset=utf-8",
            Self::Vtt => "text/vtt; charset=utf-8",
        }
    }

    /// Renders the body of the reply.
    pub fn render(self, transcript: &Transcript, task: Task, details: Details) -> String {
        match self {
            Self::Json => brief(transcript, details).to_string(),
            Self::Text => transcript.text() + "\n",
            Self::VerboseJson => verbose(transcript, task, details).to_string(),
            Self::Srt => srt(&transcript.segments),
            Self::Vtt => vtt(&transcript.segments),
        }
    }
}

/// OpenAI's unit of billing: the length of the audio, rounded up to whole seconds.
pub fn usage(transcript: &Transcript) -> Value {
    json!({"type": "duration", "seconds": transcript.duration.ceil() as u64})
}

fn brief(transcript: &Transcript, details: Details) -> Value {
    let mut body = json!({
        "text": transcript.text(),
        "usage": usage(transcript),
    });
    if details.logprobs {
        body["logprobs"] = logprobs(&transcript.segments);
    }
    body
}

fn verbose(transcript: &Transcript, task: Task, details: Details) -> Value {
    let mut body = json!({
        "task": task.as_str(),
        "language": language::name_of(&transcript.language),
        "duration": sample_precise(transcript.duration),
        "text": transcript.text(),
        "usage": usage(transcript),
    });
    let until = transcript.duration;
    if details.segments {
        body["segments"] = segments(transcript, false);
    }
    if details.words {
        let words = transcript
            .segments
            .iter()
            .flat_map(|segment| &segment.words);
        body["words"] = words.filter_map(|word| self::word(word, until)).collect();
    }
    if details.logprobs {
        body["logprobs"] = logprobs(&transcript.segments);
    }
    if !transcript.removed.is_empty() {
        body["removed"] = transcript.removed.iter().map(removed).collect();
    }
    body
}

/// All segments, with their words if `words` is set.
pub fn segments(transcript: &Transcript, words: bool) -> Value {
    let until = transcript.duration;
    let segments = transcript.segments.iter().map(|segment| {
        let mut value = self::segment(segment, until);
        if words {
            let words = segment.words.iter();
            value["words"] = words.filter_map(|word| self::word(word, until)).collect();
        }
        value
    });
    segments.collect()
}

fn segment(segment: &Segment, until: f64) -> Value {
    json!({
        "id": segment.id,
        "seek": segment.seek,
        "start": rounded(segment.start).min(until),
        "end": rounded(segment.end).min(until),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": short(segment.temperature),
        "avg_logprob": short(segment.avg_logprob),
        "compression_ratio": short(segment.compression_ratio),
        "no_speech_prob": short(segment.no_speech_prob),
    })
}

/// A segment as an event of a streamed reply. Its words have their probability, which `verbose_json` does not have.
pub fn streamed_segment(segment: &Segment, details: Details) -> Value {
    let mut value = json!({
        "type": "transcript.text.segment",
        "id": segment.id,
        "start": rounded(segment.start),
        "end": rounded(segment.end),
        "text": segment.text,
        "avg_logprob": short(segment.avg_logprob),
        "no_speech_prob": short(segment.no_speech_prob),
    });
    if details.words {
        let words = segment.words.iter().filter_map(|word| {
            let mut value = self::word(word, f64::INFINITY)?;
            value["probability"] = word.probability().map(short).into();
            Some(value)
        });
        value["words"] = words.collect();
    }
    value
}

/// A word without the blank before it, with its punctuation; `None` if it is empty.
fn word(word: &Word, until: f64) -> Option<Value> {
    let text = word.text.trim();
    (!text.is_empty()).then(|| {
        json!({
            "word": text,
            "start": rounded(word.start).min(until),
            "end": rounded(word.end).min(until),
        })
    })
}

/// Tokens with their log-probabilities. A token may end inside a character: `bytes` is exact, `token` is
/// for people.
pub fn logprobs(segments: &[Segment]) -> Value {
    let tokens = segments.iter().flat_map(|segment| &segment.logprobs);
    tokens
        .map(|token| {
            json!({
                "token": String::from_utf8_lossy(&token.bytes),
                "logprob": short(token.logprob),
                "bytes": token.bytes,
            })
        })
        .collect()
}

/// Removed text. OpenAI's API has no such field; replies contain it only if text was removed.
pub fn removed(removed: &Removed) -> Value {
    json!({
        "start": rounded(removed.start),
        "end": rounded(removed.end),
        "text": removed.text,
        "reason": removed.reason.as_str(),
    })
}

/// Seconds rounded so that every sample of 16 kHz stays exact (multiples of 62.5 µs).
pub fn sample_precise(seconds: f64) -> f64 {
    (seconds * 1e7).round() / 1e7
}

/// Seconds rounded to milliseconds.
pub fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// An `f32` as `f64` without the digits that the conversion adds.
pub fn short(value: f32) -> f64 {
    (f64::from(value) * 1e6).round() / 1e6
}

/// Segments that are not blank, with their text on one line.
fn cues(segments: &[Segment]) -> impl Iterator<Item = (&Segment, String)> {
    segments.iter().filter_map(|segment| {
        let text = segment
            .text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        (!text.is_empty()).then_some((segment, text))
    })
}

fn srt(segments: &[Segment]) -> String {
    let mut out = String::new();
    for (number, (segment, text)) in (1..).zip(cues(segments)) {
        let (start, end) = (clock(segment.start, ','), clock(segment.end, ','));
        // Writing to a string cannot fail.
        let _ = write!(out, "{number}\n{start} --> {end}\n{}\n\n", no_arrow(&text));
    }
    out
}

fn vtt(segments: &[Segment]) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for (segment, text) in cues(segments) {
        let (start, end) = (clock(segment.start, '.'), clock(segment.end, '.'));
        let text = no_arrow(&text).replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(out, "{start} --> {end}\n{text}\n\n");
    }
    out
}

/// Replaces the arrow that separates times, which would confuse players inside a text.
fn no_arrow(text: &str) -> String {
    text.replace("-->", "->")
}

/// Formats `HH:MM:SS,mmm` with the separator of the format.
fn clock(seconds: f64, separator: char) -> String {
    let millis = (seconds.max(0.0) * 1000.0).round() as u64;
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, millis) = (millis / 1000 % 60, millis % 1000);
    format!("{hours:02}:{minutes:02}:{seconds:02}{separator}{millis:03}")
}

#[cfg(test)]
mod tests {
    use stt_actors::domain::transcript::{Route, Timings, TokenLogprob};

    use super::*;

    fn transcript() -> Transcript {
        let segment = |id: usize, start: f64, end: f64, text: &str| Segment {
            id,
            seek: 0,
            start,
            end,
            text: text.to_owned(),
            tokens: vec![50_364, 7],
            logprobs: Vec::new(),
            temperature: 0.2,
            avg_logprob: -0.25,
            compression_ratio: 1.1,
            no_speech_prob: 0.01,
            words: Vec::new(),
        };
        Transcript {
            removed: Vec::new(),
            segments: vec![
                segment(0, 0.0, 1.5, " Hello \"there\","),
                segment(1, 1.5, 2.0, "  "),
                segment(2, 3_661.999_6, 3_663.04, " A --> B & <C>\nD. ñ"),
            ],
            language: "es".to_owned(),
            language_probability: Some(0.9),
            duration: 3663.04,
            model: "base".to_owned(),
            route: Route::Hot,
            timings: Timings::default(),
            escalation: None,
        }
    }

    #[test]
    fn every_format_equals_its_snapshot() {
        for (name, format) in FORMATS {
            let body = format.render(&transcript(), Task::Transcribe, Details::default());
            insta::assert_snapshot!(name, body);
        }
    }

    #[test]
    fn silence_is_an_empty_reply_in_every_format() {
        let silence = Transcript {
            segments: Vec::new(),
            ..transcript()
        };
        for (name, format) in FORMATS {
            let body = format.render(&silence, Task::Translate, Details::default());
            insta::assert_snapshot!(format!("silent_{name}"), body);
        }
    }

    /// A transcript with two words; the second has two tokens that split a character.
    fn with_words() -> Transcript {
        let mut transcript = transcript();
        let words = [(" Hello,", 0.0, 0.700_4, 1), (" señor", 0.8, 1.5, 2)];
        let word = |(text, start, end, tokens): (&str, f64, f64, usize)| Word {
            text: text.to_owned(),
            start,
            end,
            tokens,
            logprob: -0.5,
        };
        let tokens: [&[u8]; 3] = [b" Hello,", b" se\xc3", b"\xb1or"];
        let segment = &mut transcript.segments[0];
        segment.words = words.map(word).to_vec();
        segment.logprobs = tokens
            .map(|bytes| TokenLogprob {
                bytes: bytes.to_vec(),
                logprob: -0.25,
            })
            .to_vec();
        transcript.segments.truncate(1);
        transcript
    }

    #[test]
    fn words_and_logprobs_are_present_on_request() {
        let details = Details {
            streamed_segments: false,
            segments: false,
            words: true,
            logprobs: true,
        };
        for format in [Format::Json, Format::VerboseJson] {
            let body = format.render(&with_words(), Task::Transcribe, details);
            let name = format!("details_{}", format.name());
            insta::assert_snapshot!(name, body);
        }
        let both = Details {
            segments: true,
            ..details
        };
        let body = Format::VerboseJson.render(&with_words(), Task::Transcribe, both);
        let body: Value = serde_json::from_str(&body).expect("is JSON");
        assert_eq!(body["words"].as_array().map(Vec::len), Some(2));
        assert_eq!(body["segments"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn the_duration_is_exact_and_no_segment_ends_after_it() {
        let mut transcript = with_words();
        // 16,007 samples.
        transcript.duration = 16_007.0 / 16_000.0;
        transcript.segments[0].end = transcript.duration;
        let body = Format::VerboseJson.render(&transcript, Task::Transcribe, Details::default());
        let body: Value = serde_json::from_str(&body).expect("is JSON");
        assert_eq!(body["duration"], 1.000_437_5);
        transcript.duration = 16_009.0 / 16_000.0;
        transcript.segments[0].end = transcript.duration;
        let body = Format::VerboseJson.render(&transcript, Task::Transcribe, Details::default());
        let body: Value = serde_json::from_str(&body).expect("is JSON");
        assert!(body["segments"][0]["end"].as_f64() <= body["duration"].as_f64());
    }
}
