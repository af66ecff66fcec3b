//! Requests a transcript of a system as any client does.

// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;

use super::recordings::Recording;
use super::sample::Outcome;
use super::system::System;
use crate::probe::server::Server;
use crate::probe::transcript::{Endpoint, FailureKind, ask};

/// The model of a server of this program, by its own name; `None` if the server does not report it.
pub async fn served_model(system: &System, client: &Client) -> Option<String> {
    let request = client.get(format!("{}/v1/models", system.url));
    let mut request = request.timeout(Duration::from_secs(10));
    if let Some(key) = &system.spec.key {
        request = request.bearer_auth(key);
    }
    let body = request.send().await.ok()?.bytes().await.ok()?;
    let models: Value = serde_json::from_slice(&body).ok()?;
    // The alias comes first, then the model itself.
    let served = models["data"].as_array()?.last()?;
    Some(served["id"].as_str()?.to_owned())
}

/// The server that receives a request.
#[derive(Clone)]
pub struct Target(Server);

/// Result of a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Duration in seconds, or why there is none.
    pub outcome: Outcome,
    /// The transcript.
    pub text: Option<String>,
}

impl Target {
    /// The target of a running system.
    pub fn of(system: &System, client: &Client) -> Self {
        let (url, key) = (system.url.clone(), system.spec.key.clone());
        Self(Server::with_client(client.clone(), url, key))
    }

    /// Sends a recording and waits for the transcript, up to `limit`.
    pub async fn ask(&self, recording: &Recording, limit: Duration) -> Answer {
        let mut fields = vec![("response_format", "json")];
        fields.extend(recording.language.as_deref().map(|code| ("language", code)));
        let begin = Instant::now();
        let answer = ask(&self.0, Endpoint::Transcriptions, recording, &fields, limit).await;
        let seconds = begin.elapsed().as_secs_f64();
        match answer {
            Ok(transcript) => Answer {
                outcome: Outcome::Measured(seconds),
                text: Some(transcript.text),
            },
            Err(failure) => Answer {
                outcome: match failure.kind {
                    FailureKind::TimedOut => Outcome::MoreThan(limit.as_secs_f64()),
                    _ => Outcome::Failed(failure.message),
                },
                text: None,
            },
        }
    }
}
