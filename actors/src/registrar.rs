//! The Registrar: keeps this node's record in the directory where routers look for nodes.
//!
//! It publishes every tick, and immediately when the node starts or stops accepting requests (ready, saturated,
//! leaving). The record expires after a few ticks, so that a crashed node disappears; a drain removes it before the node
//! rejects requests, and any other clean end removes it as well. Publishing runs in a task, one at a time and with a time
//! limit, so that a slow or unreachable directory delays nothing else.
//!
//! Supervised by the Supervisor, which stops it last.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::ports::{DirectoryError, NodeDirectory, NodeRecord};
use crate::status::NodeStatus;
use crate::task::caught;

/// Time limit for publishing or removing the record once.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
/// An error that persists is logged this often.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Number of different errors that are remembered as logged.
const MOST_LOGGED: usize = 8;

/// Messages that the Registrar handles.
#[derive(Debug)]
pub enum RegistrarMessage {
    /// From its own timer: publish.
    Tick,
    /// The node starts or stops accepting requests.
    RoutingChanged,
    /// From the publishing task: the result.
    Published(Result<(), DirectoryError>),
    /// From the Supervisor, after the node has announced its end: answer when the directory has a record that says so.
    Announce(oneshot::Sender<()>),
    /// From the Supervisor: remove the record and publish no other.
    Withdraw,
}

/// Arguments of the Registrar.
pub struct RegistrarArguments {
    /// Receives the record.
    pub directory: Arc<dyn NodeDirectory>,
    /// Time between two ticks (`COLD_POOL_MANAGER_INTERVAL`).
    pub interval: Duration,
    /// The content of the record.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct RegistrarState {
    arguments: RegistrarArguments,
    ttl: Duration,
    _watch: AbortOnDropHandle<()>,
    publishing: Option<AbortOnDropHandle<()>>,
    /// Removes the record; nothing is published any more.
    withdrawing: Option<AbortOnDropHandle<()>>,
    /// Whether the record that is being published says that the node accepts no requests.
    is_declining: bool,
    /// The status changed while the last record was being published.
    publish_again: bool,
    /// Waits for a record that says that the node accepts no requests.
    announcing: Option<oneshot::Sender<()>>,
    /// Errors that were logged since the last success, and when.
    logged: Vec<(DirectoryError, Instant)>,
}

/// The actor.
#[derive(Debug)]
pub struct Registrar;

impl Actor for Registrar {
    type Msg = RegistrarMessage;
    type State = RegistrarState;
    type Arguments = RegistrarArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        drop(myself.send_interval(arguments.interval, || RegistrarMessage::Tick));
        let _ = myself.cast(RegistrarMessage::Tick);
        let status = Arc::clone(&arguments.status);
        status.registration_begins();
        let mut routing = status.subscribe_routing();
        let mut accepts = status.snapshot().accepts_requests();
        let watch = tokio::spawn(async move {
            while routing.changed().await.is_ok() {
                let now = status.snapshot().accepts_requests();
                if std::mem::replace(&mut accepts, now) == now {
                    continue;
                }
                if myself.cast(RegistrarMessage::RoutingChanged).is_err() {
                    return;
                }
            }
        });
        Ok(RegistrarState {
            ttl: ttl(arguments.interval),
            arguments,
            _watch: AbortOnDropHandle::new(watch),
            publishing: None,
            withdrawing: None,
            is_declining: false,
            publish_again: false,
            announcing: None,
            logged: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistrarMessage::Tick => state.publish(&myself, false),
            RegistrarMessage::RoutingChanged => state.publish(&myself, true),
            RegistrarMessage::Published(result) => state.published(&myself, result),
            RegistrarMessage::Announce(reply) => {
                state.announcing = Some(reply);
                state.publish(&myself, true);
            }
            RegistrarMessage::Withdraw => state.withdraw(),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.withdraw();
        if let Some(withdrawing) = state.withdrawing.take() {
            let _ = withdrawing.await;
        }
        Ok(())
    }
}

impl RegistrarState {
    /// Publishes the record. If another attempt is running, a change is published after it, and a tick is skipped.
    fn publish(&mut self, myself: &ActorRef<RegistrarMessage>, changed: bool) {
        if self.withdrawing.is_some() {
            return;
        }
        if self.publishing.is_some() {
            self.publish_again |= changed;
            return;
        }
        let snapshot = self.arguments.status.snapshot();
        let record = NodeRecord {
            load_score: snapshot.load_score(),
            accepts_requests: snapshot.accepts_requests(),
        };
        self.is_declining = !record.accepts_requests;
        let (directory, ttl) = (Arc::clone(&self.arguments.directory), self.ttl);
        let registrar = myself.clone();
        let task = tokio::spawn(async move {
            let result = attempt(directory.publish(record, ttl)).await;
            let _ = registrar.cast(RegistrarMessage::Published(result));
        });
        self.publishing = Some(AbortOnDropHandle::new(task));
    }

    fn published(
        &mut self,
        myself: &ActorRef<RegistrarMessage>,
        result: Result<(), DirectoryError>,
    ) {
        self.publishing = None;
        if self.withdrawing.is_some() {
            return;
        }
        match result {
            Ok(()) => {
                self.arguments.status.record_written();
                if self.is_declining
                    && let Some(announced) = self.announcing.take()
                {
                    let _ = announced.send(());
                }
                if !std::mem::take(&mut self.logged).is_empty() {
                    info!("the node is registered again");
                }
            }
            Err(error) => self.log_once(error),
        }
        if std::mem::take(&mut self.publish_again) {
            self.publish(myself, false);
        }
    }

    /// Logs each error once and then rarely, since every tick tries again.
    fn log_once(&mut self, error: DirectoryError) {
        self.logged.retain(|(_, at)| at.elapsed() < LOG_AGAIN_AFTER);
        let is_logged = self.logged.iter().any(|(logged, _)| *logged == error);
        if !is_logged && self.logged.len() < MOST_LOGGED {
            warn!(%error, "the node cannot be registered; retrying");
            self.logged.push((error, Instant::now()));
        }
    }

    fn withdraw(&mut self) {
        if self.withdrawing.is_some() {
            return;
        }
        let publishing = self.publishing.take();
        let directory = Arc::clone(&self.arguments.directory);
        let status = Arc::clone(&self.arguments.status);
        let task = tokio::spawn(async move {
            // A running attempt, which has a time limit, must not arrive after the removal.
            if let Some(publishing) = publishing {
                let _ = publishing.await;
            }
            match attempt(directory.withdraw()).await {
                Ok(()) => info!("the node is no longer registered"),
                // The record expires by itself.
                Err(error) => warn!(%error, "the node's record could not be removed"),
            }
            status.registration_ends();
        });
        self.withdrawing = Some(AbortOnDropHandle::new(task));
    }
}

/// Lifetime of the record: max(2, ⌊3 · interval + 1⌋) seconds, so that three ticks may be lost.
fn ttl(interval: Duration) -> Duration {
    let seconds = (3.0 * interval.as_secs_f64() + 1.0).floor();
    Duration::from_secs((seconds as u64).max(2))
}

async fn attempt(
    operation: impl Future<Output = Result<(), DirectoryError>>,
) -> Result<(), DirectoryError> {
    match tokio::time::timeout(ATTEMPT_LIMIT, caught(operation)).await {
        Ok(Some(result)) => result,
        Ok(None) => Err(DirectoryError("the directory panicked".to_owned())),
        Err(_elapsed) => Err(DirectoryError("no answer in time".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_three_ticks_and_two_seconds_at_least() {
        for (interval, expected) in [(0.1, 2), (0.5, 2), (1.0, 4), (2.5, 8)] {
            let interval = Duration::from_secs_f64(interval);
            assert_eq!(ttl(interval), Duration::from_secs(expected));
        }
    }
}
