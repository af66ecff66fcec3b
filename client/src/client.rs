//! A client of one server.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audio::Audio;
use crate::builder::ClientBuilder;
use crate::call::{Call, Read, TRANSCRIBE};
use crate::error::Error;
use crate::node::Node;
use crate::pool::Lease;
use crate::reply;
use crate::run::{Limits, Nodes, Picked, run};
use crate::speech::{Speech, TRANSCRIPTIONS, TRANSLATIONS};
use crate::statistics::Statistics;
use crate::transcript::{TranscribeOptions, Transcript};

/// A client of one server, with retries. Cheap to clone; clones share connections and statistics.
#[derive(Clone)]
pub struct Client {
    pub(crate) node: Arc<Node>,
    pub(crate) limits: Limits,
}

impl Client {
    /// A client with the default limits. The address is, for example, `http://127.0.0.1:9005`; a trailing
    /// `/v1` is ignored.
    pub fn new(url: impl Into<String>) -> Result<Self, Error> {
        Self::builder(url).build()
    }

    /// A builder for a client with other limits.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(url.into())
    }

    pub(crate) fn of(node: Node, limits: Limits) -> Self {
        Self {
            node: Arc::new(node),
            limits,
        }
    }

    /// The server's address, without user and password.
    pub fn server(&self) -> &str {
        &self.node.shown
    }

    /// `POST /v1/transcribe`: a transcript with confidence, possibly by the server's fallback.
    pub async fn transcribe(
        &self,
        audio: impl Into<Audio>,
        options: &TranscribeOptions,
    ) -> Result<Transcript, Error> {
        let call = options.call(audio.into());
        Ok(self.run(&call, reply::with_headers).await?.0)
    }

    /// `POST /v1/audio/transcriptions`.
    pub fn transcriptions(&self) -> Speech<'_> {
        self.speech(TRANSCRIPTIONS)
    }

    /// `POST /v1/audio/translations`.
    pub fn translations(&self) -> Speech<'_> {
        self.speech(TRANSLATIONS)
    }

    fn speech(&self, path: &'static str) -> Speech<'_> {
        Speech {
            nodes: self,
            limits: &self.limits,
            path,
        }
    }

    /// `GET /health`.
    pub async fn health(&self) -> Result<Value, Error> {
        self.get("/health").await
    }

    /// `GET /v1/health`.
    pub async fn tier_health(&self) -> Result<Value, Error> {
        self.get("/v1/health").await
    }

    /// `GET /v1/metrics`.
    pub async fn metrics(&self) -> Result<Value, Error> {
        self.get("/v1/metrics").await
    }

    /// `GET /v1/models`.
    pub async fn models(&self) -> Result<Vec<Model>, Error> {
        let models: Models = self.get("/v1/models").await?;
        Ok(models.data)
    }

    async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
    ) -> Result<T, Error> {
        Ok(self.run(&Call::get(path), reply::json).await?.0)
    }

    /// Latencies and outcomes of the attempts so far.
    pub fn statistics(&self) -> Statistics {
        self.node.recorder.snapshot()
    }

    pub(crate) async fn run<T>(&self, call: &Call, read: Read<T>) -> Result<(T, Lease), Error> {
        run(self, &self.limits, call, read).await
    }
}

/// A model of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The model's name.
    pub id: String,
    /// Always `model`.
    pub object: Option<String>,
    /// Time of creation in Unix seconds.
    pub created: Option<i64>,
    /// The owner.
    pub owned_by: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

impl TranscribeOptions {
    pub(crate) fn call(&self, audio: Audio) -> Call {
        Call {
            request_id: self.request_id.clone(),
            headers: self.headers.clone(),
            timeout: self.timeout,
            ..Call::post(TRANSCRIBE, self.form_fields(), audio)
        }
    }
}

impl Nodes for Client {
    fn pick(&self, _tried: &[usize]) -> Option<Picked> {
        Some(Picked {
            index: 0,
            node: Arc::clone(&self.node),
            lease: Lease::default(),
        })
    }

    fn has_another(&self, _tried: &[usize]) -> bool {
        false
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("server", &self.node.shown)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
