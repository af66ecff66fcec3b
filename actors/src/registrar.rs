//! The Registrar: keeps this node's record in the directory where routers look for nodes.
//!
//! It publishes at every tick, and at once when the node begins or ceases to take requests: ready,
//! saturated, draining. The record lives a few ticks only, so that a node that dies is forgotten;
//! at a clean end it is taken away. Publishing runs in a task of its own, one at a time and with a
//! time limit: a directory that is slow or away delays nothing and nobody.
//!
//! Supervised by the Supervisor, which stops it last.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::ports::{DirectoryError, NodeDirectory, NodeRecord};
use crate::status::NodeStatus;
use crate::task::caught;

/// One attempt to publish or to withdraw may take this long.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
/// Trouble that goes on is told this often.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Different troubles that are remembered as told.
const TROUBLES: usize = 8;

/// What the Registrar hears.
#[derive(Debug)]
pub enum RegistrarMessage {
    /// From its own timer.
    Tick,
    /// The node begins or ceases to take requests.
    RoutingChanged,
    /// From the publishing task.
    Published(Result<(), DirectoryError>),
}

/// What a Registrar is made from.
pub struct RegistrarArguments {
    /// Where the record goes.
    pub directory: Arc<dyn NodeDirectory>,
    /// Time between two ticks (`COLD_POOL_MANAGER_INTERVAL`).
    pub interval: Duration,
    /// What the record says.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct RegistrarState {
    arguments: RegistrarArguments,
    ttl: Duration,
    _watch: AbortOnDropHandle<()>,
    publishing: Option<AbortOnDropHandle<()>>,
    /// Something changed while the last record was on its way.
    publish_again: bool,
    /// Troubles that were told since the last success, and when.
    told: Vec<(DirectoryError, Instant)>,
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
            publish_again: false,
            told: Vec::new(),
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
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.withdraw().await;
        Ok(())
    }
}

impl RegistrarState {
    /// A tick that finds the last attempt still on its way lets it be; a change does not.
    fn publish(&mut self, myself: &ActorRef<RegistrarMessage>, changed: bool) {
        if self.publishing.is_some() {
            self.publish_again |= changed;
            return;
        }
        let snapshot = self.arguments.status.snapshot();
        let record = NodeRecord {
            load_score: snapshot.load_score(),
            accepts_requests: snapshot.accepts_requests(),
        };
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
        match result {
            Ok(()) => {
                if !std::mem::take(&mut self.told).is_empty() {
                    info!("the node is registered again");
                }
            }
            Err(error) => self.tell(error),
        }
        if std::mem::take(&mut self.publish_again) {
            self.publish(myself, false);
        }
    }

    /// Each trouble once, and then rarely: it is tried again every tick.
    fn tell(&mut self, error: DirectoryError) {
        self.told.retain(|(_, at)| at.elapsed() < TELL_AGAIN_AFTER);
        let is_told = self.told.iter().any(|(told, _)| *told == error);
        if !is_told && self.told.len() < TROUBLES {
            warn!(%error, "the node cannot be registered; trying on");
            self.told.push((error, Instant::now()));
        }
    }

    async fn withdraw(&mut self) {
        // One that is on its way must not arrive after the removal; it has its own limit.
        if let Some(publishing) = self.publishing.take() {
            let _ = publishing.await;
        }
        match attempt(self.arguments.directory.withdraw()).await {
            Ok(()) => info!("the node is not registered any more"),
            // The record ends by itself in a moment.
            Err(error) => warn!(%error, "the node's record could not be removed"),
        }
    }
}

/// max(2, ⌊3 · interval + 1⌋) seconds: three ticks may be lost.
fn ttl(interval: Duration) -> Duration {
    let seconds = (3.0 * interval.as_secs_f64() + 1.0).floor();
    Duration::from_secs((seconds as u64).max(2))
}

async fn attempt(
    operation: impl Future<Output = Result<(), DirectoryError>>,
) -> Result<(), DirectoryError> {
    match tokio::time::timeout(ATTEMPT_LIMIT, caught(operation)).await {
        Ok(Some(result)) => result,
        Ok(None) => Err(DirectoryError("a panic".to_owned())),
        Err(_elapsed) => Err(DirectoryError("it gives no answer in time".to_owned())),
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
