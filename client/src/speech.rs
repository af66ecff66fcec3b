//! `POST /v1/audio/transcriptions` and `/v1/audio/translations`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audio::Audio;
use crate::call::{Call, Fields, Read};
use crate::error::Error;
use crate::events::{self, EventStream};
use crate::headers::ServerHeaders;
use crate::reply;
use crate::run::{Limits, Nodes, run};
use crate::transcript::{Segment, Word, or_default};

/// Options of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeechOptions {
    /// Model name. Default: `whisper-1`; uttera-stt accepts any name.
    pub model: Option<String>,
    /// The spoken language. Default: the server detects it.
    pub language: Option<String>,
    /// Text that the model treats as preceding text, to suggest names and spelling.
    pub prompt: Option<String>,
    /// Sampling temperature, 0 to 1.
    pub temperature: Option<f32>,
    /// Which timestamps `verbose_json` contains. Default: segments.
    pub granularities: Vec<Granularity>,
    /// Whether to return the log-probability of each token.
    pub logprobs: bool,
    /// `auto`, or a JSON object.
    pub chunking_strategy: Option<String>,
    /// Target language of a translation.
    pub to_language: Option<String>,
    /// Whether the server leaves out audio without speech.
    pub vad_filter: Option<bool>,
    /// Whether the server removes hallucinated text.
    pub hallucination_guard: Option<bool>,
    /// Whether the audio contains several languages.
    pub multilingual: Option<bool>,
    /// Additional form fields that this crate does not know.
    pub fields: Vec<(String, String)>,
    /// Value of `X-Request-Id`, the same for every attempt.
    pub request_id: Option<String>,
    /// Overrides the client's time limit for the call.
    pub timeout: Option<Duration>,
}

/// What a timestamp refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// `segment`.
    Segment,
    /// `word`.
    Word,
}

/// The format of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFormat {
    /// Text and usage.
    Json,
    /// Only the text.
    Text,
    /// Segments and all other information.
    VerboseJson,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

impl ResponseFormat {
    /// The value in the request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::VerboseJson => "verbose_json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }
}

impl SpeechOptions {
    pub(crate) fn form_fields(&self, format: ResponseFormat) -> Vec<(String, String)> {
        let mut fields = Fields::default();
        fields.add("model", Some(self.model.as_deref().unwrap_or("whisper-1")));
        fields.add("response_format", Some(format.name()));
        fields.add("language", self.language.as_ref());
        fields.add("prompt", self.prompt.as_ref());
        fields.add("temperature", self.temperature);
        for granularity in &self.granularities {
            let name = match granularity {
                Granularity::Segment => "segment",
                Granularity::Word => "word",
            };
            fields.add("timestamp_granularities[]", Some(name));
        }
        fields.add("include[]", self.logprobs.then_some("logprobs"));
        fields.add("chunking_strategy", self.chunking_strategy.as_ref());
        fields.add("to_language", self.to_language.as_ref());
        fields.add("vad_filter", self.vad_filter);
        fields.add("hallucination_guard", self.hallucination_guard);
        fields.add("multilingual", self.multilingual);
        fields.0.extend(self.fields.iter().cloned());
        fields.0
    }
}

/// Transcriptions or translations, of a client or of a pool.
#[derive(Clone, Copy)]
pub struct Speech<'a> {
    pub(crate) nodes: &'a dyn Nodes,
    pub(crate) limits: &'a Limits,
    pub(crate) path: &'static str,
}

pub(crate) const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
pub(crate) const TRANSLATIONS: &str = "/v1/audio/translations";

impl Speech<'_> {
    /// Requests `json`: text and usage.
    pub async fn json(
        &self,
        audio: impl Into<Audio>,
        options: &SpeechOptions,
    ) -> Result<Transcription, Error> {
        let call = self.call(audio.into(), ResponseFormat::Json, options);
        self.run(call, reply::with_headers).await
    }

    /// Segments and all other information.
    pub async fn verbose_json(
        &self,
        audio: impl Into<Audio>,
        options: &SpeechOptions,
    ) -> Result<VerboseTranscription, Error> {
        let call = self.call(audio.into(), ResponseFormat::VerboseJson, options);
        self.run(call, reply::with_headers).await
    }

    /// Requests any format and returns the body unchanged: subtitles, text or JSON.
    pub async fn rendered(
        &self,
        audio: impl Into<Audio>,
        format: ResponseFormat,
        options: &SpeechOptions,
    ) -> Result<String, Error> {
        let call = self.call(audio.into(), format, options);
        self.run(call, reply::text).await
    }

    async fn run<T>(&self, call: Call, read: Read<T>) -> Result<T, Error> {
        Ok(run(self.nodes, self.limits, &call, read).await?.0)
    }

    /// Requests a stream: the text while the server produces it.
    pub async fn stream(
        &self,
        audio: impl Into<Audio>,
        options: &SpeechOptions,
    ) -> Result<EventStream, Error> {
        let mut call = self.call(audio.into(), ResponseFormat::Json, options);
        call.fields.push(("stream".to_owned(), "true".to_owned()));
        call.streamed = true;
        let (begun, lease) = run(self.nodes, self.limits, &call, events::begin).await?;
        Ok(EventStream::of(begun, lease, self.limits.idle_timeout))
    }

    fn call(&self, audio: Audio, format: ResponseFormat, options: &SpeechOptions) -> Call {
        Call {
            request_id: options.request_id.clone(),
            timeout: options.timeout,
            ..Call::post(self.path, options.form_fields(format), audio)
        }
    }
}

impl fmt::Debug for Speech<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Speech").field(&self.path).finish()
    }
}

/// A reply as `json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// The text.
    pub text: String,
    /// The usage that OpenAI would bill.
    pub usage: Option<Usage>,
    /// Only if requested.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub logprobs: Vec<TokenLogprob>,
    /// The reply's headers.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

/// A reply as `verbose_json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerboseTranscription {
    /// `transcribe` or `translate`.
    pub task: Option<String>,
    /// The text's language: its full English name in lower case.
    pub language: Option<String>,
    /// Seconds of audio.
    pub duration: Option<f64>,
    /// The text.
    pub text: String,
    /// The segments of the text.
    #[serde(default, deserialize_with = "or_default")]
    pub segments: Vec<Segment>,
    /// Only if requested.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
    /// The usage that OpenAI would bill.
    pub usage: Option<Usage>,
    /// Only if requested.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub logprobs: Vec<TokenLogprob>,
    /// Hallucinated text that the server removed.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub removed: Vec<Removed>,
    /// The reply's headers.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

/// The usage that OpenAI would bill for a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Always `duration`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Seconds of audio, rounded up.
    pub seconds: Option<f64>,
}

/// A token's probability.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token as text. It may end in the middle of a character.
    pub token: String,
    /// Natural logarithm of the probability.
    pub logprob: f64,
    /// The exact bytes of the token.
    #[serde(default, deserialize_with = "or_default")]
    pub bytes: Vec<u8>,
}

/// Removed text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// The text that the model wrote.
    pub text: String,
    /// Why the server removed it.
    pub reason: String,
}

impl reply::HasHeaders for Transcription {
    fn set_headers(&mut self, headers: ServerHeaders) {
        self.headers = headers;
    }
}

impl reply::HasHeaders for VerboseTranscription {
    fn set_headers(&mut self, headers: ServerHeaders) {
        self.headers = headers;
    }
}
