//! What comes out: segments, transcripts, and the merging of a request's chunks into one.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::domain::chunk::{AudioChunk, samples_to_seconds};
use crate::domain::error::FallbackError;
use crate::domain::ids::{ChunkIndex, LaneKind};

/// What whisper is asked to do with speech.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Write it down in its own language.
    #[default]
    Transcribe,
    /// Write it down in English.
    Translate,
}

impl Task {
    /// whisper's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
        }
    }
}

/// A stretch of text with its times, as OpenAI's `verbose_json` has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Place in the transcript, from 0.
    pub id: usize,
    /// Start of the decoded window on the time line, in frames of 10 ms.
    pub seek: u64,
    /// Start, in seconds.
    pub start: f64,
    /// End, in seconds; never before `start`.
    pub end: f64,
    /// The words, with whisper's leading space.
    pub text: String,
    /// Text token ids, special ones left out.
    pub tokens: Vec<i32>,
    /// What each of the tokens says, and how likely it was.
    pub logprobs: Vec<TokenLogprob>,
    /// The temperature that the text was really sampled at.
    pub temperature: f32,
    /// Mean natural logarithm of the tokens' probabilities.
    pub avg_logprob: f32,
    /// Length of the text's UTF-8 bytes over their length after zlib.
    pub compression_ratio: f32,
    /// The model's own probability that there is no speech in the window.
    pub no_speech_prob: f32,
    /// What the text consists of.
    pub words: Vec<Word>,
}

/// A token of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// A piece of UTF-8, which may begin or end in the middle of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Bytes of the text over bytes of it after zlib: repetition makes it large. OpenAI's definition.
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
    /// One that nothing is to be said against.
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

/// A word with the blank before it; in scripts without blanks, a character.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// As in the segment's text.
    pub text: String,
    /// Start in seconds, by whisper's rough account.
    pub start: f64,
    /// End in seconds, likewise.
    pub end: f64,
    /// Tokens that it takes.
    pub tokens: usize,
    /// Sum of their log-probabilities.
    pub logprob: f32,
}

/// Text that was taken out because whisper made it up.
#[derive(Clone, Debug, PartialEq)]
pub struct Removed {
    /// Where it stood, in seconds.
    pub start: f64,
    /// In seconds.
    pub end: f64,
    /// The text.
    pub text: String,
    /// Why.
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

    /// From its chunk's time line to the request's.
    pub(crate) fn place(mut self, chunk: &AudioChunk) -> Self {
        self.start = chunk.begins_at(self.start);
        self.end = chunk.ends_at(self.end).max(self.start);
        self
    }
}

/// What looked wrong about a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Doubt {
    /// There is no text at all.
    Empty,
    /// It says a phrase again, at once.
    Repetition,
    /// It compresses too well: it repeats itself in other ways.
    Compression,
    /// The model was guessing.
    LowProbability,
    /// It says more than anybody can in that time.
    Rate,
}

impl Doubt {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Empty,
        Self::Repetition,
        Self::Compression,
        Self::LowProbability,
        Self::Rate,
    ];

    /// As in metrics.
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
    /// ISO 639-1 code of what was spoken: given or detected.
    pub language: String,
    /// Probability of that language when it was detected.
    pub language_probability: Option<f32>,
    /// Encoder passes that were run, detection included.
    pub encoder_passes: u32,
    /// Why the engine did it once more, with all of the model's window instead of the part that the
    /// audio needs; `None`: it did not.
    pub doubt: Option<Doubt>,
    /// Wall-clock seconds that the engine worked on it.
    pub inference_seconds: f64,
}

/// Which lanes did the work: the value of the header `X-Route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// All of it on the hot lane.
    Hot,
    /// All or part of it on cold lanes.
    ColdPool,
    /// A cold lane failed and the hot one rescued the work.
    ColdPoolThenHot,
}

impl Route {
    /// The route of a request when one more chunk was done by a lane of this kind; `rescued`: by
    /// the hot lane, after a cold one had failed on it.
    pub(crate) fn with(self, lane: LaneKind, rescued: bool) -> Self {
        match (self, lane) {
            (Self::ColdPoolThenHot, _) => self,
            (_, LaneKind::Hot) if rescued => Self::ColdPoolThenHot,
            (_, LaneKind::Cold) => Self::ColdPool,
            (_, LaneKind::Hot) => self,
        }
    }

    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "HOT",
            Self::ColdPool => "COLD-POOL",
            Self::ColdPoolThenHot => "COLD-POOL>HOT",
        }
    }
}

/// Where a request's time went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// From admission until the first chunk was taken by a lane.
    pub queue_wait: f64,
    /// Waiting for decoded audio.
    pub decode: f64,
    /// The engines' own work, summed over chunks.
    pub inference: f64,
    /// Waiting for the larger model, summed over the chunks that it was asked for.
    pub fallback: f64,
    /// From admission to the end.
    pub total: f64,
}

/// A whole request's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// In order of time, ids from 0.
    pub segments: Vec<Segment>,
    /// What was taken out, in order of time.
    pub removed: Vec<Removed>,
    /// ISO 639-1 code: forced or detected.
    pub language: String,
    /// Probability of the language when it was detected, not forced.
    pub language_probability: Option<f32>,
    /// Length of the audio, in seconds.
    pub duration: f64,
    /// The model that did it.
    pub model: String,
    /// The lanes that did it.
    pub route: Route,
    /// Where the time went.
    pub timings: Timings,
    /// What became of it where a larger model stands by; `None`: none does.
    pub escalation: Option<Escalation>,
}

/// Whether a request's text was trusted, and what the larger model made of it otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Escalation {
    /// The tests that its texts failed.
    pub below: Weaknesses,
    /// Whether the language was detected, so that its probability was a test.
    pub language_was_tested: bool,
    /// Whether any of the text is the larger model's.
    pub used: bool,
    /// Why it gave none, where it should have. The text is this node's own then.
    pub error: Option<FallbackError>,
}

impl Transcript {
    /// The segments' text joined, without the blank at either end.
    pub fn text(&self) -> String {
        let joined: String = self.segments.iter().map(|s| s.text.as_str()).collect();
        joined.trim().to_owned()
    }

    /// Whether some of it should be the larger model's, and is not.
    pub fn lacks_fallback(&self) -> bool {
        let escalation = self.escalation.as_ref();
        escalation.is_some_and(|escalation| escalation.error.is_some())
    }

    /// exp(mean log-probability over all tokens); `None` without a segment.
    pub fn confidence(&self) -> Option<f32> {
        confidence(&self.segments)
    }
}

/// exp(mean log-probability over all tokens); `None` without a segment.
pub fn confidence(segments: &[Segment]) -> Option<f32> {
    // Another server's segments may come without their tokens.
    let tokens = |segment: &Segment| segment.tokens.len().max(1) as f64;
    let sum = (segments.iter())
        .map(|segment| f64::from(segment.avg_logprob) * tokens(segment))
        .sum::<f64>();
    let tokens = segments.iter().map(tokens).sum::<f64>();
    (tokens > 0.0).then(|| (sum / tokens).exp() as f32)
}

/// Collects chunks' results, which may arrive in any order, into one growing row of segments.
#[derive(Debug, Default)]
pub struct Merger {
    waiting: std::collections::BTreeMap<ChunkIndex, (AudioChunk, ChunkTranscript)>,
    next_index: usize,
    next_id: usize,
    /// No segment starts before the end of the one before it.
    last_end: f64,
}

impl Merger {
    /// Takes one chunk's result. Returns the segments that are now in their final place: those of
    /// every chunk up to the first one still missing, on the request's time line.
    pub fn push(&mut self, chunk: AudioChunk, result: ChunkTranscript) -> Vec<Segment> {
        self.waiting.insert(chunk.index, (chunk, result));
        let mut ready = Vec::new();
        while let Some((chunk, result)) = self.waiting.remove(&ChunkIndex::Whole(self.next_index)) {
            self.next_index += 1;
            for segment in result.segments {
                ready.push(self.place(&chunk, segment));
            }
        }
        ready
    }

    /// Moves a segment from its chunk's time line to the request's, inside the chunk's audio.
    fn place(&mut self, chunk: &AudioChunk, mut segment: Segment) -> Segment {
        let chunk_end = samples_to_seconds(chunk.end_sample());
        let start = chunk.begins_at(segment.start);
        let start = start.clamp(self.last_end.min(chunk_end), chunk_end);
        segment.end = chunk.ends_at(segment.end).clamp(start, chunk_end);
        segment.start = start;
        for word in &mut segment.words {
            word.start = chunk.begins_at(word.start).clamp(start, segment.end);
            word.end = chunk.ends_at(word.end).clamp(word.start, segment.end);
        }
        segment.seek = (chunk.begins_at(segment.seek as f64 / 100.0) * 100.0).round() as u64;
        segment.id = self.next_id;
        self.next_id += 1;
        self.last_end = segment.end;
        segment
    }
}

/// Why text was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Whisper itself takes it for silence.
    NoSpeech,
    /// A guess, where hardly anybody speaks.
    LowLogprob,
    /// Text without content, where hardly anybody speaks.
    Compression,
    /// The same again and again.
    Repetition,
    /// What whisper is known to make up, where hardly anybody speaks.
    KnownPhrase,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::NoSpeech,
        Self::LowLogprob,
        Self::Compression,
        Self::Repetition,
        Self::KnownPhrase,
    ];

    /// As in logs, metrics and replies.
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

/// The tests that a text failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weaknesses {
    /// The model was guessing.
    pub logprob: bool,
    /// It was guessing the language.
    pub langprob: bool,
    /// So few words say little about what the model knows.
    pub min_words: bool,
}

impl Weaknesses {
    /// Whether it failed none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            logprob: self.logprob || other.logprob,
            langprob: self.langprob || other.langprob,
            min_words: self.min_words || other.min_words,
        }
    }

    /// As in the header `X-Conf-Below`.
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

/// A chunk's result.
#[derive(Clone, Debug)]
pub struct ChunkDone {
    /// The text.
    pub transcript: ChunkTranscript,
    /// Who made it.
    pub lane: LaneKind,
    /// The hot lane did it after a cold one had failed.
    pub rescued: bool,
    /// It was done for an earlier request, which was the same.
    pub reused: bool,
}

/// A letter of a script that writes syllables or words stands for so many of an alphabet.
const LETTERS_IN_A_SYLLABLE: f64 = 3.0;

/// How much a text says, in letters of an alphabet.
pub fn letters(text: &str) -> f64 {
    let weight = |letter: char| match letter {
        // Thai to Korean and beyond, with Chinese and Japanese.
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
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn chunk(index: usize, start_sample: u64, samples: usize) -> AudioChunk {
        AudioChunk::contiguous(index, start_sample, Arc::from(vec![0; samples]))
    }

    fn result(segments: Vec<Segment>) -> ChunkTranscript {
        ChunkTranscript {
            segments,
            ..ChunkTranscript::default()
        }
    }

    #[test]
    fn a_late_first_chunk_holds_back_the_second() {
        let mut merger = Merger::default();
        let later = merger.push(
            chunk(1, 16_000, 16_000),
            result(vec![Segment::said(0.0, 1.0, " b")]),
        );
        assert!(later.is_empty());
        let both = merger.push(
            chunk(0, 0, 16_000),
            result(vec![Segment::said(0.0, 0.5, " a")]),
        );
        let texts: Vec<_> = both
            .iter()
            .map(|s| (s.id, s.text.as_str(), s.start))
            .collect();
        assert_eq!(texts, [(0, " a", 0.0), (1, " b", 1.0)]);
    }

    #[test]
    fn times_never_leave_the_audio() {
        let mut merger = Merger::default();
        let placed = merger.push(
            chunk(0, 0, 8_000),
            result(vec![Segment::said(0.2, 29.98, " a")]),
        );
        assert!((placed[0].end - 0.5).abs() < 1e-9);
    }

    #[test]
    fn repetition_compresses_and_speech_does_not() {
        assert!(compression_ratio(&"thank you ".repeat(40)) > 2.4);
        assert!(compression_ratio("The quick brown fox jumps over the lazy dog.") < 1.5);
        assert!(compression_ratio("").abs() < f32::EPSILON);
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_monotonic_transcript(
            lengths in prop::collection::vec(1_u64..40_000, 1..8),
            times in prop::collection::vec((0.0_f64..35.0, 0.0_f64..35.0), 8),
            order in Just((0_usize..8).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut start = 0;
            let chunks: Vec<_> = lengths.iter().enumerate().map(|(index, &length)| {
                let made = chunk(index, start, length as usize);
                start += length;
                made
            }).collect();
            let give = |index: usize| {
                let (start, end) = times[index];
                result(vec![Segment::said(start, end, &format!(" {index}"))])
            };
            let mut straight = Merger::default();
            let expected: Vec<_> = chunks.iter().cloned()
                .flat_map(|c| { let i = c.index.number(); straight.push(c, give(i)) }).collect();
            let mut shuffled = Merger::default();
            let got: Vec<_> = order.iter().filter(|&&i| i < chunks.len())
                .flat_map(|&i| shuffled.push(chunks[i].clone(), give(i))).collect();
            prop_assert_eq!(&got, &expected);
            let total = samples_to_seconds(start);
            let mut last = 0.0;
            for segment in &got {
                prop_assert!(last <= segment.start && segment.start <= segment.end);
                prop_assert!(segment.end <= total + 1e-9);
                last = segment.end;
            }
        }
    }
}
