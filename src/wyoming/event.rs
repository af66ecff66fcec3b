//! The events that a client sends, and the replies to them.

use serde::Deserialize;
use serde_json::{Value, json};
use stt_actors::domain::error::{LiveError, SttError};
use stt_actors::domain::live::{PcmEncoding, PcmFormat};
use stt_actors::domain::transcript::Transcript;

use super::frame::{Data, Event};
use crate::metrics::ErrorType;

/// An event of a client.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// What can this server do?
    Describe,
    /// How to transcribe the utterance that follows.
    Transcribe(Transcribe),
    /// An utterance begins.
    AudioStart(Option<PcmFormat>),
    /// Audio, in the payload.
    AudioChunk(Option<PcmFormat>),
    /// The utterance is complete.
    AudioStop,
    /// Is the connection alive?
    Ping(Data),
    /// An event for another kind of service, or of a later version.
    Other,
}

/// The fields of `transcribe`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcribe {
    /// The name of a model. The server has one.
    pub name: Option<String>,
    /// The spoken language, in any spelling.
    pub language: Option<String>,
    /// Text and words that may occur.
    pub prompt: Option<String>,
}

/// The format of `audio-start` and `audio-chunk`.
#[derive(Deserialize)]
struct AudioFormat {
    rate: u32,
    width: u16,
    channels: u16,
}

impl Request {
    /// The meaning of an event. Fields of another type than the protocol's count as missing.
    pub fn of(event: &Event) -> Self {
        match event.kind.as_str() {
            "describe" => Self::Describe,
            "transcribe" => Self::Transcribe(Transcribe::of(&event.data)),
            "audio-start" => Self::AudioStart(format(&event.data)),
            "audio-chunk" => Self::AudioChunk(format(&event.data)),
            "audio-stop" => Self::AudioStop,
            "ping" => Self::Ping(event.data.clone()),
            _ => Self::Other,
        }
    }
}

impl Transcribe {
    fn of(data: &Data) -> Self {
        let text = |name: &str| {
            let text = data.get(name)?.as_str()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        Self {
            name: text("name"),
            language: text("language"),
            prompt: prompt(data),
        }
    }
}

/// The text that the audio may continue: the context, then the words that may occur, and the names last: the model
/// keeps the end of a long prompt.
fn prompt(data: &Data) -> Option<String> {
    let context = match data.get("context") {
        Some(Value::Object(context)) => (context.get("prompt")).or_else(|| context.get("text")),
        other => other,
    };
    let context = context.and_then(Value::as_str).map(str::to_owned);
    let words = ["transcript_terms", "transcript_names"].map(|name| words(data.get(name)));
    let parts = context.into_iter().chain(words);
    let parts: Vec<_> = parts
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// The words of a list as one text.
fn words(list: Option<&Value>) -> String {
    let words = list.and_then(Value::as_array).map(Vec::as_slice);
    let words = words
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .map(str::trim);
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return String::new();
    }
    words.join(", ") + "."
}

fn format(data: &Data) -> Option<PcmFormat> {
    let AudioFormat {
        rate,
        width,
        channels,
    } = serde_json::from_value(Value::Object(data.clone())).ok()?;
    Some(PcmFormat {
        encoding: PcmEncoding::Integer,
        width,
        rate,
        channels,
    })
}

/// Why an utterance has no transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code, one of those of the HTTP API.
    pub code: &'static str,
    /// The reason, for people.
    pub text: String,
}

impl Failure {
    /// The event for it.
    pub fn event(&self) -> Event {
        reply("error", json!({ "text": self.text, "code": self.code }))
    }

    /// How the failure is counted: as HTTP counts errors with this code.
    pub fn error_type(&self) -> ErrorType {
        match self.code {
            "audio_decode_error" => ErrorType::Decode,
            "loading" | "internal_error" => ErrorType::Model,
            "overloaded" | "draining" => ErrorType::Overloaded,
            "poison_audio" => ErrorType::Poison,
            "timeout" => ErrorType::Timeout,
            "rate_limit_exceeded" | "insufficient_quota" => ErrorType::RateLimit,
            _ => ErrorType::Validation,
        }
    }
}

impl From<SttError> for Failure {
    fn from(error: SttError) -> Self {
        let code = match &error {
            SttError::Decode(_) => "audio_decode_error",
            SttError::NotReady { .. } => "loading",
            SttError::Overloaded { .. } => "overloaded",
            SttError::Draining { .. } => "draining",
            SttError::Poison { .. } => "poison_audio",
            SttError::Timeout => "timeout",
            SttError::WorkerLost { .. }
            | SttError::Engine(_)
            | SttError::Fallback { .. }
            | SttError::Internal(_) => "internal_error",
        };
        Self {
            code,
            // The text is logged, too.
            text: error.for_log(),
        }
    }
}

impl From<LiveError> for Failure {
    fn from(error: LiveError) -> Self {
        let code = match &error {
            LiveError::TooMany { .. } => "overloaded",
            LiveError::Format(_) => "audio_decode_error",
            LiveError::Draining => "draining",
            LiveError::Lost => "internal_error",
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

/// Answers a `ping`.
pub fn pong(data: Data) -> Event {
    Event::new("pong", data)
}

/// The beginning of a streamed text.
pub fn transcript_start(language: Option<&str>) -> Event {
    reply("transcript-start", with_language(json!({}), language))
}

/// More of a streamed text.
pub fn transcript_chunk(text: &str) -> Event {
    reply("transcript-chunk", json!({ "text": text }))
}

/// The whole text.
pub fn transcript(transcript: &Transcript) -> Event {
    let data = json!({ "text": transcript.text() });
    reply("transcript", with_language(data, language_of(transcript)))
}

/// The end of a streamed text.
pub fn transcript_stop() -> Event {
    reply("transcript-stop", json!({}))
}

/// The language of a transcript, unless it has no text.
pub fn language_of(transcript: &Transcript) -> Option<&str> {
    Some(transcript.language.as_str()).filter(|code| !code.is_empty())
}

fn with_language(mut data: Value, language: Option<&str>) -> Value {
    if let Some(language) = language {
        data["language"] = language.into();
    }
    data
}

/// An event with this object as its data.
pub fn reply(kind: &str, data: Value) -> Event {
    match data {
        Value::Object(data) => Event::new(kind, data),
        _ => Event::new(kind, Data::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: &str, data: Value) -> Request {
        Request::of(&reply(kind, data))
    }

    #[test]
    fn the_events_of_a_client_are_understood_and_others_passed_over() {
        let start = json!({"rate": 48_000, "width": 4, "channels": 2, "timestamp": null});
        let format = PcmFormat {
            encoding: PcmEncoding::Integer,
            width: 4,
            rate: 48_000,
            channels: 2,
        };
        assert_eq!(
            request("audio-start", start.clone()),
            Request::AudioStart(Some(format))
        );
        assert_eq!(
            request("audio-chunk", start),
            Request::AudioChunk(Some(format))
        );
        let odd = json!({"rate": "fast", "width": -1, "channels": 1});
        assert_eq!(request("audio-start", odd), Request::AudioStart(None));
        assert_eq!(request("audio-stop", json!({})), Request::AudioStop);
        assert_eq!(request("describe", json!({})), Request::Describe);
        assert_eq!(request("synthesize", json!({"text": "x"})), Request::Other);
    }

    #[test]
    fn names_come_last_in_a_prompt() {
        let prompt = |data: Value| match request("transcribe", data) {
            Request::Transcribe(Transcribe { prompt, .. }) => prompt,
            other => panic!("{other:?}"),
        };
        let all = json!({
            "context": {"prompt": " At home. "},
            "transcript_names": ["Ada", " ", "Bo"],
            "transcript_terms": ["blinds", 7],
        });
        assert_eq!(prompt(all).as_deref(), Some("At home. blinds. Ada, Bo."));
        assert_eq!(
            prompt(json!({"context": "Hello."})).as_deref(),
            Some("Hello.")
        );
        for none in [
            json!({}),
            json!({"context": {"conversation_id": 7}, "transcript_names": []}),
        ] {
            assert_eq!(prompt(none), None);
        }
    }

    #[test]
    fn a_field_of_another_type_counts_as_missing() {
        let fields = json!({"name": 7, "language": " de-DE ", "vad_sensitivity": "relaxed"});
        let expected = Transcribe {
            language: Some("de-DE".to_owned()),
            ..Transcribe::default()
        };
        assert_eq!(request("transcribe", fields), Request::Transcribe(expected));
    }
}
