//! Segments, the results of chunks, and transcripts.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::domain::chunk::AudioChunk;
use crate::domain::error::FallbackError;
use crate::domain::ids::LaneKind;

/// Whisper's task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Text in the language of the speech.
    #[default]
    Transcribe,
    /// Text in English.
    Translate,
}

impl Task {
    /// Whisper's name for the task.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
        }
    }
}

/// A segment of text with its times, as in OpenAI's `verbose_json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Index in the transcript, from 0.
    pub id: usize,
    /// Start of the decoded window on the time line, in frames of 10 ms.
    pub seek: u64,
    /// Start, in seconds.
    pub start: f64,
    /// End, in seconds; never before `start`.
    pub end: f64,
    /// The text, with whisper's leading space.
    pub text: String,
    /// Ids of the text tokens, without special tokens.
    pub tokens: Vec<i32>,
    /// Bytes and log-probability of each token.
    pub logprobs: Vec<TokenLogprob>,
    /// The temperature at which the text was sampled.
    pub temperature: f32,
    /// Mean natural logarithm of the tokens' probabilities.
    pub avg_logprob: f32,
    /// Length of the text's UTF-8 bytes over their length after zlib.
    pub compression_ratio: f32,
    /// The model's own probability that there is no speech in the window.
    pub no_speech_prob: f32,
    /// The words of the text; may be empty.
    pub words: Vec<Word>,
}

/// A token of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// UTF-8 bytes; they may begin or end in the middle of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Length of the text in bytes over its length after zlib compression, as OpenAI defines it. Repetition
/// makes the ratio large.
pub fn compression_ratio(text: &str) -> f32 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    match compressed {
        Ok(compressed) if !text.is_empty() => text.len() as f32 / compressed.len() as f32,
        Ok(_) | Err(_) => 0.0,
    }
}

#[cfg(test)]
impl Segment {
    /// A segment that passes all tests of its text.
    pub(crate) fn said(start: f64, end: f64, text: &str) -> Self {
        Self {
            id: 0,
            seek: 0,
            start,
            end,
            text: text.to_owned(),
            tokens: vec![1],
            logprobs: vec![TokenLogprob {
                bytes: text.as_bytes().to_vec(),
                logprob: -0.1,
            }],
            temperature: 0.0,
            avg_logprob: -0.1,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: Vec::new(),
        }
    }
}

/// A word with the space before it; in scripts without spaces, a character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The text, as in the segment.
    pub text: String,
    /// Start in seconds; whisper's times of words are rough.
    pub start: f64,
    /// End in seconds; as rough as the start.
    pub end: f64,
    /// Number of tokens.
    pub tokens: usize,
    /// Sum of their log-probabilities.
    pub logprob: f32,
}

impl Word {
    /// The geometric mean of its tokens' probabilities; `None` without tokens.
    pub fn probability(&self) -> Option<f32> {
        (self.tokens > 0).then(|| (self.logprob / self.tokens as f32).exp().min(1.0))
    }
}

/// Text that was removed as hallucinated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Start, in seconds.
    pub start: f64,
    /// End, in seconds.
    pub end: f64,
    /// The text.
    pub text: String,
    /// Why it was removed.
    pub reason: Reason,
}

impl Removed {
    pub(crate) fn of(segment: &Segment, text: String, reason: Reason) -> Self {
        Self {
            start: segment.start,
            end: segment.end,
            text,
            reason,
        }
    }

    /// Moves its times from the chunk's time line to the request's.
    pub(crate) fn place(mut self, chunk: &AudioChunk) -> Self {
        self.start = chunk.begins_at(self.start);
        self.end = chunk.ends_at(self.end).max(self.start);
        self
    }
}

/// Why an engine doubts a text that it made with a shortened window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Doubt {
    /// There is no text.
    Empty,
    /// A phrase is repeated immediately.
    Repetition,
    /// The compression ratio is too high: the text repeats itself.
    Compression,
    /// The mean log-probability is too low.
    LowProbability,
    /// The text is longer than speech can be in that time.
    Rate,
}

impl Doubt {
    /// All variants.
    pub const ALL: [Self; 5] = [
        Self::Empty,
        Self::Repetition,
        Self::Compression,
        Self::LowProbability,
        Self::Rate,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Repetition => "repetition",
            Self::Compression => "compression",
            Self::LowProbability => "low_probability",
            Self::Rate => "rate",
        }
    }
}

/// One chunk's result; times count from the chunk's first sample.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChunkTranscript {
    /// In order of time.
    pub segments: Vec<Segment>,
    /// ISO 639-1 code of the language: given or detected.
    pub language: String,
    /// Probability of the language, if it was detected.
    pub language_probability: Option<f32>,
    /// Number of encoder passes, those of language detection included.
    pub encoder_passes: u32,
    /// Why the engine transcribed the chunk a second time with the model's whole window, not only the
    /// part that the audio needs; `None`: it did not.
    pub doubt: Option<Doubt>,
    /// Wall-clock seconds of the engine's work.
    pub inference_seconds: f64,
}

/// The lanes that did the work: the value of the header `X-Route`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Route {
    /// The hot lane did all of it.
    #[default]
    Hot,
    /// Cold lanes did all or part of it.
    ColdPool,
    /// A cold lane failed on a chunk, and the hot lane did it.
    ColdPoolThenHot,
}

impl Route {
    /// The route after one more chunk was done by this kind of lane. `rescued`: the hot lane did the
    /// chunk after a cold lane failed on it.
    pub(crate) fn with(self, lane: LaneKind, rescued: bool) -> Self {
        match (self, lane) {
            (Self::ColdPoolThenHot, _) => self,
            (_, LaneKind::Hot) if rescued => Self::ColdPoolThenHot,
            (_, LaneKind::Cold) => Self::ColdPool,
            (_, LaneKind::Hot) => self,
        }
    }

    /// The value in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "HOT",
            Self::ColdPool => "COLD-POOL",
            Self::ColdPoolThenHot => "COLD-POOL>HOT",
        }
    }
}

/// How long the steps of a request took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From admission until a lane took the first chunk.
    pub queue_wait: f64,
    /// Waiting for decoded audio.
    pub decode: f64,
    /// The engines' work, summed over the chunks.
    pub inference: f64,
    /// Waiting for the fallback, summed over the escalated chunks.
    pub fallback: f64,
    /// From admission to the end.
    pub total: f64,
}

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// In order of time, with ids from 0.
    pub segments: Vec<Segment>,
    /// Hallucinated text that was removed, in order of time.
    pub removed: Vec<Removed>,
    /// ISO 639-1 code: forced or detected.
    pub language: String,
    /// Probability of the language, if it was detected.
    pub language_probability: Option<f32>,
    /// Length of the audio, in seconds.
    pub duration: f64,
    /// The model that made the text; two names joined by `+` if the fallback made a part of it.
    pub model: String,
    /// The lanes that did the work.
    pub route: Route,
    /// How long the steps took.
    pub timings: Timings,
    /// Whether and why texts were escalated; `None`: the request has no fallback.
    pub escalation: Option<Escalation>,
}

/// Which confidence tests a request failed, and what the fallback did about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Escalation {
    /// The tests that its texts failed.
    pub below: Weaknesses,
    /// Whether the language was detected, so that its probability was tested.
    pub language_was_tested: bool,
    /// Whether any of the text is from the fallback.
    pub used: bool,
    /// Why the fallback returned no text for an escalated chunk. The chunk's text is this node's then.
    pub error: Option<FallbackError>,
}

impl Transcript {
    /// The text of all segments, trimmed.
    pub fn text(&self) -> String {
        self.untrimmed_text().trim().to_owned()
    }

    /// The text of all segments, with the spaces before and after it.
    pub(crate) fn untrimmed_text(&self) -> String {
        self.segments.iter().map(|s| s.text.as_str()).collect()
    }

    /// Moves all times by this many seconds.
    #[must_use]
    pub fn delayed_by(mut self, seconds: f64) -> Self {
        for segment in &mut self.segments {
            segment.seek += (seconds * 100.0) as u64;
            segment.start += seconds;
            segment.end += seconds;
            for word in &mut segment.words {
                word.start += seconds;
                word.end += seconds;
            }
        }
        for removed in &mut self.removed {
            removed.start += seconds;
            removed.end += seconds;
        }
        self
    }

    /// Appends the transcript of the audio that follows.
    pub fn append(&mut self, next: Self) {
        let first = self.segments.len();
        let segments = next.segments.into_iter().enumerate();
        self.segments
            .extend(segments.map(|(place, segment)| Segment {
                id: first + place,
                ..segment
            }));
        self.removed.extend(next.removed);
        self.duration += next.duration;
        self.route = self.route.max(next.route);
        let (own, other) = (&mut self.timings, next.timings);
        own.decode += other.decode;
        own.inference += other.inference;
        own.fallback += other.fallback;
        own.total += other.total;
        self.escalation = match (self.escalation.take(), next.escalation) {
            (Some(one), Some(other)) if other.used || other.error.is_some() => Some(Escalation {
                used: one.used || other.used,
                error: one.error.or(other.error),
                ..other
            }),
            (one, other) => one.or(other),
        };
    }

    /// Whether a chunk was escalated and the fallback failed.
    pub fn lacks_fallback(&self) -> bool {
        let escalation = self.escalation.as_ref();
        escalation.is_some_and(|escalation| escalation.error.is_some())
    }

    /// See [`confidence`].
    pub fn confidence(&self) -> Option<f32> {
        confidence(&self.segments)
    }
}

/// exp(mean log-probability over all tokens); `None` if there is no segment.
pub fn confidence(segments: &[Segment]) -> Option<f32> {
    // Segments from another server may lack their tokens: each counts as one token.
    let tokens = |segment: &Segment| segment.tokens.len().max(1) as f64;
    let sum = (segments.iter())
        .map(|segment| f64::from(segment.avg_logprob) * tokens(segment))
        .sum::<f64>();
    let tokens = segments.iter().map(tokens).sum::<f64>();
    (tokens > 0.0).then(|| (sum / tokens).exp() as f32)
}

/// Why text was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Whisper's probability of "no speech" is high, and there is hardly any speech.
    NoSpeech,
    /// A low log-probability, where there is hardly any speech.
    LowLogprob,
    /// A high compression ratio, where there is hardly any speech.
    Compression,
    /// The text repeats itself.
    Repetition,
    /// A phrase that whisper often hallucinates, where there is hardly any speech.
    KnownPhrase,
}

impl Reason {
    /// All variants.
    pub const ALL: [Self; 5] = [
        Self::NoSpeech,
        Self::LowLogprob,
        Self::Compression,
        Self::Repetition,
        Self::KnownPhrase,
    ];

    /// The name in logs, metrics and replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSpeech => "no_speech",
            Self::LowLogprob => "low_logprob",
            Self::Compression => "compression",
            Self::Repetition => "repetition",
            Self::KnownPhrase => "known_phrase",
        }
    }
}

/// The confidence tests that a text failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weaknesses {
    /// The confidence of the text is too low.
    pub logprob: bool,
    /// The probability of the detected language is too low.
    pub langprob: bool,
    /// The request has too few words for its confidence to mean much.
    pub min_words: bool,
}

impl Weaknesses {
    /// Whether no test failed.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The tests that failed in either.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            logprob: self.logprob || other.logprob,
            langprob: self.langprob || other.langprob,
            min_words: self.min_words || other.min_words,
        }
    }

    /// The names in the header `X-Conf-Below`.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.logprob, "logprob"),
            (self.langprob, "langprob"),
            (self.min_words, "min_words"),
        ];
        let failed = all.into_iter().filter(|(failed, _)| *failed);
        failed.map(|(_, name)| name).collect()
    }
}

/// A finished chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkDone {
    /// The text.
    pub transcript: ChunkTranscript,
    /// The kind of lane that did it.
    pub lane: LaneKind,
    /// The hot lane did it after a cold lane failed.
    pub rescued: bool,
    /// The result is from an earlier, equal request.
    pub reused: bool,
}

/// A character of a syllabic or logographic script counts as this many letters of an alphabet.
const LETTERS_IN_A_SYLLABLE: f64 = 3.0;

/// The length of a text in letters, comparable between scripts.
pub fn letters(text: &str) -> f64 {
    let weight = |letter: char| match letter {
        // Thai and Lao, Burmese to Ethiopic, Chinese, Japanese and Korean.
        '\u{0e00}'..='\u{0eff}'
        | '\u{1000}'..='\u{11ff}'
        | '\u{2e80}'..='\u{d7ff}'
        | '\u{20000}'.. => LETTERS_IN_A_SYLLABLE,
        _ => 1.0,
    };
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .map(weight)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_compresses_and_speech_does_not() {
        assert!(compression_ratio(&"thank you ".repeat(40)) > 2.4);
        assert!(compression_ratio("The quick brown fox jumps over the lazy dog.") < 1.5);
        assert!(compression_ratio("").abs() < f32::EPSILON);
    }
}
