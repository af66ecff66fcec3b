//! A pool of several servers.

mod accounts;
mod lease;
mod probe;
#[cfg(feature = "redis")]
mod redis;

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
#[cfg(feature = "redis")]
pub use redis::RedisNodes;

/// A pool of equivalent servers. A request goes to the server with the fewest running requests. If it
/// fails in a way that another server may not, the pool tries the next server at once. A failing server is
/// ejected for a while. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct SttPool {
    shared: Arc<Shared>,
    limits: Limits,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    recovery: Recovery,
    probe_timeout: Duration,
}

/// The servers, and an account for each.
struct State {
    nodes: Vec<Arc<Node>>,
    accounts: Accounts,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The server's address, without user and password.
    pub server: String,
    /// The server's state in the pool.
    pub standing: Standing,
    /// Number of running requests.
    pub in_flight: u32,
    /// The load that the server reported, from 0 to 1; 0 without a record in Redis, and 0.5 if its record has none.
    pub load: f64,
    /// Latencies and outcomes of the attempts so far.
    pub statistics: Statistics,
}

impl SttPool {
    /// A pool of these clients with the default limits.
    ///
    /// # Errors
    /// `clients` is empty.
    pub fn new(clients: impl IntoIterator<Item = Client>) -> Result<Self, Error> {
        Self::builder(clients).build()
    }

    /// A builder for a pool of these clients. The pool uses each client's key, certificates, connection time
    /// limit and hook; its own time limits and retries replace those of the clients.
    pub fn builder(clients: impl IntoIterator<Item = Client>) -> PoolBuilder {
        PoolBuilder {
            clients: clients.into_iter().collect(),
            limits: Limits::default(),
            ejection: Ejection::default(),
            recovery: Recovery::default(),
            probe_timeout: Duration::from_secs(5),
        }
    }

    /// A pool of the nodes that have registered themselves in this Redis, with the default limits. See [`RedisNodes`].
    ///
    /// # Errors
    /// The URL is invalid, or Redis is away.
    #[cfg(feature = "redis")]
    pub async fn from_redis(url: impl Into<String>) -> Result<Self, Error> {
        RedisNodes::new(url).connect(Self::builder([])).await
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

    /// The state of all servers, in the order in which they were given, without those that have lost their record.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let State { nodes, accounts } = &*self.shared.state();
        let now = Instant::now();
        let listed = nodes.iter().zip(&accounts.all).enumerate();
        listed
            .filter(|(_, (_, account))| account.listing.is_listed)
            .map(|(index, (node, account))| NodeStatus {
                server: node.shown.clone(),
                standing: accounts.standing(index, now),
                in_flight: account.in_flight,
                load: account.listing.load,
                statistics: node.recorder.snapshot(),
            })
            .collect()
    }
}

impl Nodes for SttPool {
    fn pick(&self, tried: &[usize]) -> Option<Picked> {
        let mut state = self.shared.state();
        if state.nodes.is_empty() {
            return None;
        }
        let (index, is_trial) = state.accounts.pick(tried, Instant::now());
        Some(Picked {
            index,
            node: Arc::clone(&state.nodes[index]),
            lease: Lease::of(Arc::clone(&self.shared), index, is_trial),
        })
    }

    fn has_another(&self, tried: &[usize]) -> bool {
        let state = self.shared.state();
        state.accounts.has_another(tried, Instant::now())
    }
}

impl fmt::Debug for SttPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("SttPool");
        debug.field("nodes", &self.nodes()).finish_non_exhaustive()
    }
}

impl PoolBuilder {
    /// Sets the time limit for a call, including all attempts. Default: 10 minutes; `None`: no limit.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.timeout = limit.into();
        self
    }

    /// Sets the time limit for one attempt. Default: none. Without it, a server that hangs uses up the time
    /// of the whole call.
    pub fn attempt_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.limits.attempt_timeout = limit.into();
        self
    }

    /// Sets the time limit for silence within a streamed reply. Default: 60 s.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.limits.idle_timeout = limit;
        self
    }

    /// Sets how often the pool tries all available servers again, and the waits before that.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.limits.retry = policy;
        self
    }

    /// Sets when and for how long the pool ejects a server.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = ejection;
        self
    }

    /// Sets how an ejected server returns.
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Sets the time limit for a probe. Default: 5 s.
    pub fn probe_timeout(mut self, limit: Duration) -> Self {
        self.probe_timeout = limit;
        self
    }

    /// Builds the pool. It sends nothing yet.
    ///
    /// # Errors
    /// There are no clients.
    pub fn build(self) -> Result<SttPool, Error> {
        if self.clients.is_empty() {
            return Err(Error::Invalid(
                "a pool needs at least one server".to_owned(),
            ));
        }
        Ok(self.build_with_any())
    }

    /// Builds the pool, possibly without a server.
    fn build_with_any(self) -> SttPool {
        let accounts = Accounts::new(self.clients.len(), self.ejection, self.recovery);
        let shared = Shared {
            state: Mutex::new(State {
                nodes: self.clients.into_iter().map(|client| client.node).collect(),
                accounts,
            }),
            recovery: self.recovery,
            probe_timeout: self.probe_timeout,
        };
        SttPool {
            shared: Arc::new(shared),
            limits: self.limits,
        }
    }
}
