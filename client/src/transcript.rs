//! `POST /v1/transcribe`: request and reply.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::call::Fields;
use crate::headers::ServerHeaders;

/// Options of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranscribeOptions {
    /// The spoken language. Default: the server detects it.
    pub language: Option<String>,
    /// Text that the model treats as preceding text, to suggest names and spelling.
    pub prompt: Option<String>,
    /// Sampling temperature, 0 to 1.
    pub temperature: Option<f32>,
    /// Whether to return word timestamps.
    pub words: bool,
    /// Additional form fields that this crate does not know.
    pub fields: Vec<(String, String)>,
    /// Value of `X-Request-Id`, the same for every attempt.
    pub request_id: Option<String>,
    /// Additional headers of this request, for example `traceparent`.
    pub headers: Vec<(String, String)>,
    /// Overrides the client's time limit for the call.
    pub timeout: Option<Duration>,
}

impl TranscribeOptions {
    /// The options as form fields.
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

/// A transcript with all information from the server. A field that an older server does not send is
/// `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The text.
    pub text: String,
    /// ISO 639-1.
    pub language: Option<String>,
    /// Probability of the detected language; `None` if the language was given.
    pub language_probability: Option<f64>,
    /// Confidence: exp(mean log-probability of the tokens).
    pub confidence: Option<f64>,
    /// Seconds of audio.
    pub duration: Option<f64>,
    /// The model that wrote the text.
    pub model: Option<String>,
    /// Whether the fallback wrote any of the text.
    #[serde(default, deserialize_with = "or_default")]
    pub fallback_used: bool,
    /// The request's id in the server's log.
    pub request_id: Option<String>,
    /// The segments of the text.
    #[serde(default, deserialize_with = "or_default")]
    pub segments: Vec<Segment>,
    /// Words, if the server sends them beside the segments instead of inside.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
    /// Durations of the steps.
    #[serde(default, deserialize_with = "or_default")]
    pub timings: Timings,
    /// The reply's headers.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

impl Transcript {
    /// All words, from the segments or from `words`.
    pub fn all_words(&self) -> impl Iterator<Item = &Word> {
        let within = self.segments.iter().flat_map(|segment| &segment.words);
        self.words.iter().chain(within)
    }
}

/// A segment of the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Index, from 0.
    pub id: Option<u64>,
    /// Start of the model's window, in frames of 10 ms.
    pub seek: Option<i64>,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// The text, including the leading space.
    pub text: String,
    /// Mean log-probability of the tokens.
    pub avg_logprob: Option<f64>,
    /// The model's probability that the window contains no speech.
    pub no_speech_prob: Option<f64>,
    /// Size of the text in bytes divided by its size after zlib compression.
    pub compression_ratio: Option<f64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Tokens of the text.
    #[serde(default, deserialize_with = "or_default")]
    pub tokens: Vec<u32>,
    /// Only if requested.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
}

/// A word with its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word with its punctuation.
    pub word: String,
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
}

/// Durations of the steps of a request, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Wait for a lane.
    pub queue_wait_ms: Option<f64>,
    /// Inference of the primary model.
    pub primary_infer_ms: Option<f64>,
    /// Answer of the fallback.
    pub fallback_infer_ms: Option<f64>,
    /// Total.
    pub total_ms: Option<f64>,
}

/// Treats `null` like a missing field.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
