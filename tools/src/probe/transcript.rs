//! Requests a transcript at either endpoint, parses the answer, and classifies failures.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use reqwest::StatusCode;
use reqwest::multipart::Form;
use serde::Serialize;
use serde_json::Value;

use super::recording::Recording;
use super::server::{Reply, Server, TRANSCRIPTIONS, file};

/// The endpoints that transcribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/v1/audio/transcriptions`, OpenAI's endpoint.
    Transcriptions,
    /// `/v1/transcribe`, the endpoint that a primary calls at its fallback.
    Transcribe,
}

impl Endpoint {
    /// Path of the endpoint.
    pub fn path(self) -> &'static str {
        match self {
            Self::Transcriptions => TRANSCRIPTIONS,
            Self::Transcribe => "/v1/transcribe",
        }
    }

    /// The form of a request: the recording, and the fields that clients of this endpoint send.
    fn form(self, recording: &Recording, fields: &[(&str, &str)]) -> Form {
        let name = recording.name.rsplit('/').next().unwrap_or_default();
        let audio = file(recording.audio.clone(), name);
        let form = match self {
            Self::Transcriptions => Form::new().part("file", audio).text("model", "whisper-1"),
            Self::Transcribe => Form::new().part("audio", audio),
        };
        fields.iter().fold(form, |form, (name, value)| {
            form.text((*name).to_owned(), (*value).to_owned())
        })
    }
}

/// A server's transcript, and what its headers report about the work.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// The transcribed text.
    pub text: String,
    /// Language as a code or a name, if the reply contains it.
    pub language: Option<String>,
    /// Length of the audio in seconds, if the reply contains it.
    pub duration: Option<f64>,
    /// What the headers report.
    pub work: Work,
}

/// What the headers report about the work; a server may send none of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// `X-Queue-Wait-ms`.
    pub queue_wait_ms: Option<f64>,
    /// `X-Primary-Infer-ms`.
    pub primary_infer_ms: Option<f64>,
    /// `X-Fallback-Infer-ms`.
    pub fallback_infer_ms: Option<f64>,
    /// `X-Total-ms`.
    pub total_ms: Option<f64>,
    /// `X-Route`.
    pub route: Option<String>,
    /// `X-Fallback-Used`.
    pub fallback_used: Option<bool>,
    /// `X-Fallback-Error`: why the fallback failed; the transcript is then the primary's.
    pub fallback_error: Option<String>,
}

impl Work {
    fn of(reply: &Reply) -> Self {
        let text = |name| Some(reply.header(name).trim()).filter(|value| !value.is_empty());
        let milliseconds = |name| {
            let value: Option<f64> = text(name)?.parse().ok();
            value.filter(|value| value.is_finite() && *value >= 0.0)
        };
        Self {
            queue_wait_ms: milliseconds("x-queue-wait-ms"),
            primary_infer_ms: milliseconds("x-primary-infer-ms"),
            fallback_infer_ms: milliseconds("x-fallback-infer-ms"),
            total_ms: milliseconds("x-total-ms"),
            route: text("x-route").map(str::to_owned),
            fallback_used: text("x-fallback-used").and_then(|value| value.parse().ok()),
            fallback_error: text("x-fallback-error").map(str::to_owned),
        }
    }
}

/// How often the fallback was used, counted from the transcripts whose headers report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FallbackUse {
    /// Transcripts whose headers report it.
    pub told: usize,
    /// Transcripts made by the fallback.
    pub used: usize,
    /// Transcripts made by the primary because the fallback failed.
    pub failed: usize,
}

impl FallbackUse {
    /// Counts one more transcript.
    pub fn add(&mut self, work: &Work) {
        self.told += usize::from(work.fallback_used.is_some());
        self.used += usize::from(work.fallback_used == Some(true));
        self.failed += usize::from(work.fallback_error.is_some());
    }

    /// Transcripts made by the fallback in percent of those whose headers report it; `None` if no headers do.
    pub fn percent(self) -> Option<f64> {
        (self.told > 0).then(|| 100.0 * self.used as f64 / self.told as f64)
    }
}

/// The kind of a failure; failures of the same kind are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The connection could not be made.
    Unreachable,
    /// The connection ended before the end of the answer.
    BrokenOff,
    /// The answer did not arrive in time.
    TimedOut,
    /// The status is not 200.
    Status(u16),
    /// The status is 200, but the body is not a transcript.
    NoTranscript,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => out.write_str("unreachable"),
            Self::BrokenOff => out.write_str("broken off"),
            Self::TimedOut => out.write_str("timed out"),
            Self::Status(status) => write!(out, "{status}"),
            Self::NoTranscript => out.write_str("no transcript"),
        }
    }
}

/// Why there is no transcript.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Kind for counting.
    pub kind: FailureKind,
    /// What happened, in the server's words if it sent any.
    pub message: String,
}

impl Failure {
    fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Sends a recording with these fields and waits for the transcript, up to `limit`.
///
/// # Errors
/// There is no transcript, for the reason in the [`Failure`].
pub async fn ask(
    server: &Server,
    endpoint: Endpoint,
    recording: &Recording,
    fields: &[(&str, &str)],
    limit: Duration,
) -> Result<Transcript, Failure> {
    let request = server.post_form(endpoint.path(), endpoint.form(recording, fields));
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(reply)) => transcript(&reply),
        Ok(Err(error)) => Err(no_answer(&error)),
        Err(_) => Err(Failure::new(
            FailureKind::TimedOut,
            format!("no answer within {} s", limit.as_secs_f64()),
        )),
    }
}

fn no_answer(error: &anyhow::Error) -> Failure {
    let from_library = error.downcast_ref::<reqwest::Error>();
    if from_library.is_some_and(reqwest::Error::is_connect) {
        return Failure::new(FailureKind::Unreachable, format!("no answer: {error:#}"));
    }
    Failure::new(
        FailureKind::BrokenOff,
        format!("the answer broke off: {error:#}"),
    )
}

fn transcript(reply: &Reply) -> Result<Transcript, Failure> {
    if reply.status != 200 {
        let status = StatusCode::from_u16(reply.status).map(|status| status.to_string());
        let status = status.unwrap_or_else(|_| reply.status.to_string());
        let message = format!("{status}: {}", reply.beginning());
        return Err(Failure::new(FailureKind::Status(reply.status), message));
    }
    let no_transcript = |why| Failure::new(FailureKind::NoTranscript, why);
    let body = reply.json();
    let body = body.map_err(|error| no_transcript(error.to_string()))?;
    let text = body["text"].as_str().ok_or_else(|| {
        let beginning = reply.beginning();
        no_transcript(format!("the answer has no text: {beginning}"))
    })?;
    Ok(Transcript {
        text: text.to_owned(),
        language: body["language"].as_str().map(str::to_owned),
        duration: duration(&body),
        work: Work::of(reply),
    })
}

/// Finds the audio's length in seconds, under any of its names. In `usage` it is in whole seconds.
fn duration(body: &Value) -> Option<f64> {
    let told = body["duration"].as_f64();
    told.or_else(|| body["usage"]["seconds"].as_f64())
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &str)], body: &'static str) -> Reply {
        let headers = headers.iter().map(|(name, value)| {
            let value = value.parse().unwrap();
            (HeaderName::from_static(name), value)
        });
        Reply {
            status,
            headers: headers.collect(),
            body: body.into(),
        }
    }

    #[test]
    fn headers_are_parsed_and_invalid_ones_ignored() {
        let headers = [
            ("x-queue-wait-ms", "12"),
            ("x-primary-infer-ms", "many"),
            ("x-total-ms", "-3"),
            ("x-route", "HOT"),
            ("x-fallback-used", "false"),
        ];
        let found = transcript(&reply(200, &headers, r#"{"text":"a","duration":1.5}"#)).unwrap();
        assert_eq!((found.text.as_str(), found.duration), ("a", Some(1.5)));
        let expected = Work {
            queue_wait_ms: Some(12.0),
            route: Some("HOT".to_owned()),
            fallback_used: Some(false),
            ..Work::default()
        };
        assert_eq!(found.work, expected);
        let bare = transcript(&reply(200, &[], r#"{"text":"","usage":{"seconds":3}}"#)).unwrap();
        assert_eq!((bare.work, bare.duration), (Work::default(), Some(3.0)));
    }

    #[test]
    fn an_answer_without_a_transcript_fails_with_its_kind_and_the_servers_message() {
        let refused = transcript(&reply(429, &[], "slow down")).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Status(429));
        assert_eq!(refused.to_string(), "429 Too Many Requests: slow down");
        for body in ["<html>", "[]", "{}", r#"{"text":null}"#] {
            let failure = transcript(&reply(200, &[], body)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::NoTranscript, "{body}");
            assert!(failure.message.contains(body), "{failure}");
        }
    }
}
