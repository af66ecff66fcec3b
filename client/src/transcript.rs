//! `POST /v1/transcribe`: what is asked and what comes back.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::call::Fields;
use crate::headers::ServerHeaders;

/// What to ask for beside the audio.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranscribeOptions {
    /// The language spoken; detected without one.
    pub language: Option<String>,
    /// What the model is to take as what came before: names, spelling.
    pub prompt: Option<String>,
    /// 0 to 1.
    pub temperature: Option<f32>,
    /// Whether words with their times are wanted.
    pub words: bool,
    /// Further fields of the form, for what this crate does not know.
    pub fields: Vec<(String, String)>,
    /// `X-Request-Id`, the same for every attempt.
    pub request_id: Option<String>,
    /// The time for the call with all its attempts, in place of the client's.
    pub timeout: Option<Duration>,
}

impl TranscribeOptions {
    /// As fields of a form.
    pub(crate) fn form_fields(&self) -> Vec<(String, String)> {
        let mut fields = Fields::default();
        fields.add("language", self.language.as_ref());
        fields.add("prompt", self.prompt.as_ref());
        fields.add("temperature", self.temperature);
        fields.add("timestamp_granularities[]", self.words.then_some("word"));
        fields.0.extend(self.fields.iter().cloned());
        fields.0
    }
}

/// A transcript with all that the server knows about it. What an older server does not tell is
/// `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The text.
    pub text: String,
    /// ISO 639-1.
    pub language: Option<String>,
    /// How sure the model is of the language; `None` also where it was given.
    pub language_probability: Option<f64>,
    /// exp of the mean log-probability of a token.
    pub confidence: Option<f64>,
    /// Seconds of audio.
    pub duration: Option<f64>,
    /// The model that the text is of.
    pub model: Option<String>,
    /// Whether that is the larger node's.
    #[serde(default, deserialize_with = "or_default")]
    pub fallback_used: bool,
    /// The request's name in the server's log.
    pub request_id: Option<String>,
    /// The text in pieces with times.
    #[serde(default, deserialize_with = "or_default")]
    pub segments: Vec<Segment>,
    /// Words, where the server tells them beside the segments and not within.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
    /// Where the time went.
    #[serde(default, deserialize_with = "or_default")]
    pub timings: Timings,
    /// What the reply's headers say.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

impl Transcript {
    /// All words, wherever the server told them.
    pub fn all_words(&self) -> impl Iterator<Item = &Word> {
        let within = self.segments.iter().flat_map(|segment| &segment.words);
        self.words.iter().chain(within)
    }
}

/// A piece of the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Its place, from 0.
    pub id: Option<u64>,
    /// Where the model's window began, in frames of 10 ms.
    pub seek: Option<i64>,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// With the blank before it.
    pub text: String,
    /// Mean log-probability of a token.
    pub avg_logprob: Option<f64>,
    /// The model's own probability that nobody speaks.
    pub no_speech_prob: Option<f64>,
    /// Bytes of the text over its bytes after zlib.
    pub compression_ratio: Option<f64>,
    /// At which the text was sampled.
    pub temperature: Option<f64>,
    /// The model's tokens.
    #[serde(default, deserialize_with = "or_default")]
    pub tokens: Vec<u32>,
    /// When asked for.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
}

/// A word and its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// With its punctuation.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// Where the time went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for a lane.
    pub queue_wait_ms: Option<f64>,
    /// The first model's work.
    pub primary_infer_ms: Option<f64>,
    /// The larger node's answer.
    pub fallback_infer_ms: Option<f64>,
    /// All of it.
    pub total_ms: Option<f64>,
}

/// `null` is as good as nothing.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
