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

/// What to ask for beside the audio.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpeechOptions {
    /// `whisper-1` without one; uttera-stt takes any name.
    pub model: Option<String>,
    /// The language spoken; detected without one.
    pub language: Option<String>,
    /// What the model is to take as what came before: names, spelling.
    pub prompt: Option<String>,
    /// 0 to 1.
    pub temperature: Option<f32>,
    /// What `verbose_json` has times of; segments where nothing is named.
    pub granularities: Vec<Granularity>,
    /// Whether it is told how likely each token was.
    pub logprobs: bool,
    /// `auto`, or an object as JSON.
    pub chunking_strategy: Option<String>,
    /// Of translations: what to translate to.
    pub to_language: Option<String>,
    /// Whether what does not sound like speech is left out.
    pub vad_filter: Option<bool>,
    /// Whether what the model made up is taken out.
    pub hallucination_guard: Option<bool>,
    /// Whether more than one language is spoken.
    pub multilingual: Option<bool>,
    /// Further fields of the form, for what this crate does not know.
    pub fields: Vec<(String, String)>,
    /// `X-Request-Id`, the same for every attempt.
    pub request_id: Option<String>,
    /// The time for the call with all its attempts, in place of the client's.
    pub timeout: Option<Duration>,
}

/// What has times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// `segment`.
    Segment,
    /// `word`.
    Word,
}

/// How the reply is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFormat {
    /// The text and little else.
    Json,
    /// The text alone.
    Text,
    /// All that the server knows.
    VerboseJson,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
}

impl ResponseFormat {
    /// As in the request.
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
    fn form_fields(&self, format: ResponseFormat) -> Vec<(String, String)> {
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

/// One of the two resources, of a client or of a pool.
#[derive(Clone, Copy)]
pub struct Speech<'a> {
    pub(crate) nodes: &'a dyn Nodes,
    pub(crate) limits: &'a Limits,
    pub(crate) path: &'static str,
}

pub(crate) const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";
pub(crate) const TRANSLATIONS: &str = "/v1/audio/translations";

impl Speech<'_> {
    /// The text, and little else.
    pub async fn json(
        &self,
        audio: impl Into<Audio>,
        options: &SpeechOptions,
    ) -> Result<Transcription, Error> {
        let call = self.call(audio.into(), ResponseFormat::Json, options);
        self.run(call, reply::with_headers).await
    }

    /// All that the server knows.
    pub async fn verbose_json(
        &self,
        audio: impl Into<Audio>,
        options: &SpeechOptions,
    ) -> Result<VerboseTranscription, Error> {
        let call = self.call(audio.into(), ResponseFormat::VerboseJson, options);
        self.run(call, reply::with_headers).await
    }

    /// The reply as it is written: subtitles, text, or JSON that is to be kept as it came.
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

    /// The text while it is made.
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
    /// What it would cost.
    pub usage: Option<Usage>,
    /// When asked for.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub logprobs: Vec<TokenLogprob>,
    /// What the reply's headers say.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

/// A reply as `verbose_json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerboseTranscription {
    /// `transcribe` or `translate`.
    pub task: Option<String>,
    /// The full English name, in lower case, of the language of the text.
    pub language: Option<String>,
    /// Seconds of audio.
    pub duration: Option<f64>,
    /// The text.
    pub text: String,
    /// The text in pieces with times.
    #[serde(default, deserialize_with = "or_default")]
    pub segments: Vec<Segment>,
    /// When asked for.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub words: Vec<Word>,
    /// What it would cost.
    pub usage: Option<Usage>,
    /// When asked for.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub logprobs: Vec<TokenLogprob>,
    /// Text that the model made up and the server took out.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub removed: Vec<Removed>,
    /// What the reply's headers say.
    #[serde(skip)]
    pub headers: ServerHeaders,
}

/// What a request would cost at OpenAI.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// `duration`, here.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of audio, rounded up.
    pub seconds: Option<f64>,
}

/// How likely a token was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// For people: it may end in the middle of a character.
    pub token: String,
    /// Logarithm of its probability.
    pub logprob: f64,
    /// Exactly what it stands for.
    #[serde(default, deserialize_with = "or_default")]
    pub bytes: Vec<u8>,
}

/// Text that was taken out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// What the model had written.
    pub text: String,
    /// Why it is not believed.
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
