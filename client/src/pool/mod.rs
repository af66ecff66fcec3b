//! Several servers as one.

mod accounts;
mod lease;
mod probe;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::audio::Audio;
use crate::client::Client;
use crate::error::Error;
use crate::node::Node;
use crate::reply;
use crate::retry::RetryPolicy;
use crate::run::{Limits, Nodes, Picked, run};
use crate::speech::{Speech, TRANSCRIPTIONS, TRANSLATIONS};
use crate::statistics::Statistics;
use crate::transcript::{TranscribeOptions, Transcript};
use accounts::Accounts;
pub use accounts::{Ejection, Recovery, Standing};
pub(crate) use lease::Lease;

/// Servers that can do the same. A request goes to the one with the fewest under way; what failed on
/// one in a way that another may do goes to the next at once. One that fails is left out for a while.
/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct SttPool {
    shared: Arc<Shared>,
    limits: Limits,
}

pub(crate) struct Shared {
    nodes: Vec<Arc<Node>>,
    accounts: Mutex<Accounts>,
    recovery: Recovery,
    probe_timeout: Duration,
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Settings of a [`SttPool`].
#[derive(Clone, Debug)]
#[must_use]
pub struct PoolBuilder {
    clients: Vec<Client>,
    limits: Limits,
    ejection: Ejection,
    recovery: Recovery,
    probe_timeout: Duration,
}

/// A server of a pool.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its address, without user and password.
    pub server: String,
    /// How it stands.
    pub standing: Standing,
    /// Requests under way.
    pub in_flight: u32,
    /// How attempts went.
    pub statistics: Statistics,
}

impl SttPool {
    /// Of these, with the usual limits.
    ///
    /// # Errors
    /// There is none.
    pub fn new(clients: impl IntoIterator<Item = Client>) -> Result<Self, Error> {
        Self::builder(clients).build()
    }

    /// Of these. Of each client, key, certificates, connection time limit and hook count; how long and
    /// how often is for the pool.
    pub fn builder(clients: impl IntoIterator<Item = Client>) -> PoolBuilder {
        PoolBuilder {
            clients: clients.into_iter().collect(),
            limits: Limits::default(),
            ejection: Ejection::default(),
            recovery: Recovery::default(),
            probe_timeout: Duration::from_secs(5),
        }
    }

    /// `POST /v1/transcribe`, as with [`Client::transcribe`].
    pub async fn transcribe(
        &self,
        audio: impl Into<Audio>,
        options: &TranscribeOptions,
    ) -> Result<Transcript, Error> {
        let call = options.call(audio.into());
        Ok(run(self, &self.limits, &call, reply::with_headers).await?.0)
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

    /// How the servers stand, in the order in which they were given.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let accounts = self.shared.accounts();
        let now = Instant::now();
        let nodes = self.shared.nodes.iter().enumerate();
        nodes
            .map(|(index, node)| NodeStatus {
                server: node.shown.clone(),
                standing: accounts.standing(index, now),
                in_flight: accounts.all[index].in_flight,
                statistics: node.recorder.snapshot(),
            })
            .collect()
    }
}

impl Nodes for SttPool {
    fn pick(&self, tried: &[usize]) -> Picked {
        let (index, is_trial) = self.shared.accounts().pick(tried, Instant::now());
        Picked {
            index,
            node: Arc::clone(&self.shared.nodes[index]),
            lease: Lease::of(Arc::clone(&self.shared), index, is_trial),
        }
    }

    fn has_another(&self, tried: &[usize]) -> bool {
        self.shared.accounts().has_another(tried, Instant::now())
    }
}

impl fmt::Debug for SttPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("SttPool");
        debug.field("nodes", &self.nodes()).finish_non_exhaustive()
    }
}

impl PoolBuilder {
    /// The time for a call with all its attempts (10 minutes); `None`: any.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.timeout = limit.into();
        self
    }

    /// The time for one attempt (none of its own). Without it, a server that hangs takes all the time
    /// there is, and none is left for another.
    pub fn attempt_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.attempt_timeout = limit.into();
        self
    }

    /// How long nothing may come within a streamed reply (60 s).
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.limits.idle_timeout = limit;
        self
    }

    /// How often all servers that can be asked are tried again, and how long is waited before that.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.limits.retry = policy;
        self
    }

    /// When a server is left out.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = ejection;
        self
    }

    /// How it comes back.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// The time for a probe (5 s).
    pub fn probe_timeout(mut self, limit: Duration) -> Self {
        self.probe_timeout = limit;
        self
    }

    /// Makes the pool. Nothing is sent yet.
    ///
    /// # Errors
    /// There is no client.
    pub fn build(self) -> Result<SttPool, Error> {
        if self.clients.is_empty() {
            return Err(Error::Invalid("a pool needs a server".to_owned()));
        }
        let accounts = Accounts::new(self.clients.len(), self.ejection, self.recovery);
        let shared = Shared {
            nodes: self.clients.into_iter().map(|client| client.node).collect(),
            accounts: Mutex::new(accounts),
            recovery: self.recovery,
            probe_timeout: self.probe_timeout,
        };
        Ok(SttPool {
            shared: Arc::new(shared),
            limits: self.limits,
        })
    }
}
