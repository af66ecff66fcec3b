//! The VramWatcher: samples the memory that decides how many workers fit.
//!
//! That is the memory of the GPU, or of the machine where inference runs on the CPU. The watcher also measures
//! how much a worker really needs ([`MemoryLedger`]). A sample may hang in a driver: it runs on a thread of its
//! own, one at a time, and while it hangs, free memory counts as unknown.
//!
//! Supervised by the Supervisor, which stops it at the end and replaces it if it fails; its successor measures
//! anew.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::pool::memory_ledger::MemoryLedger;
use crate::ports::{MemorySample, ProbeError, VramProbe};
use crate::status::NodeStatus;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// A sample that takes longer counts as hung.
const SAMPLE_LIMIT: Duration = Duration::from_secs(10);

/// Messages that the VramWatcher handles.
#[derive(Debug)]
pub enum VramWatcherMessage {
    /// From its own timer: take a sample.
    Tick,
    /// From the sampling thread.
    Sampled {
        /// When sampling began.
        begun: Instant,
        /// The sample, or why there is none.
        sample: Result<MemorySample, ProbeError>,
    },
}

/// Arguments of the VramWatcher.
pub struct VramWatcherArguments {
    /// Samples the memory.
    pub probe: Arc<dyn VramProbe>,
    /// Need of a worker on a GPU until one was measured, in bytes.
    pub minimum_bytes: u64,
    /// Keeps the result.
    pub status: Arc<NodeStatus>,
}

/// The actor's state.
pub struct VramWatcherState {
    probe: Arc<dyn VramProbe>,
    ledger: MemoryLedger,
    status: Arc<NodeStatus>,
    sampling_since: Option<Instant>,
    failing: bool,
}

/// The actor.
#[derive(Debug)]
pub struct VramWatcher;

impl Actor for VramWatcher {
    type Msg = VramWatcherMessage;
    type State = VramWatcherState;
    type Arguments = VramWatcherArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        // The timer ends with the actor.
        drop(myself.send_interval(INTERVAL, || VramWatcherMessage::Tick));
        let _ = myself.cast(VramWatcherMessage::Tick);
        let kind = arguments.probe.kind();
        Ok(VramWatcherState {
            probe: arguments.probe,
            ledger: MemoryLedger::new(kind, arguments.minimum_bytes),
            status: arguments.status,
            sampling_since: None,
            failing: false,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            VramWatcherMessage::Tick => state.tick(&myself),
            VramWatcherMessage::Sampled { begun, sample } => state.sampled(begun, sample),
        }
        Ok(())
    }
}

impl VramWatcherState {
    fn tick(&mut self, myself: &ActorRef<VramWatcherMessage>) {
        match self.sampling_since {
            None => self.begin_sample(myself),
            Some(since) if since.elapsed() >= SAMPLE_LIMIT => {
                self.unknown(
                    Instant::now(),
                    &ProbeError("no answer from the driver".to_owned()),
                );
            }
            Some(_) => {}
        }
    }

    fn begin_sample(&mut self, myself: &ActorRef<VramWatcherMessage>) {
        let begun = Instant::now();
        self.sampling_since = Some(begun);
        let (probe, watcher) = (Arc::clone(&self.probe), myself.clone());
        let (_, processes) = self.status.engines();
        // Not awaited: a thread that hangs in a driver cannot be stopped.
        drop(tokio::task::spawn_blocking(move || {
            let call = std::panic::AssertUnwindSafe(|| probe.sample(&processes));
            let sample = std::panic::catch_unwind(call)
                .unwrap_or_else(|_| Err(ProbeError("the probe panicked".to_owned())));
            let _ = watcher.cast(VramWatcherMessage::Sampled { begun, sample });
        }));
    }

    fn sampled(&mut self, begun: Instant, sample: Result<MemorySample, ProbeError>) {
        self.sampling_since = None;
        match sample {
            Ok(sample) => {
                if std::mem::take(&mut self.failing) {
                    info!(kind = ?self.ledger.kind(), "free memory is known again");
                }
                let (engines, _) = self.status.engines();
                self.ledger.observe(sample, engines);
                self.status.set_memory(&self.ledger.snapshot(), begun);
            }
            Err(error) => self.unknown(begun, &error),
        }
    }

    fn unknown(&mut self, begun: Instant, error: &ProbeError) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(kind = ?self.ledger.kind(), %error, "free memory is unknown; workers start without that check");
        }
        self.ledger.lose_sight();
        self.status.set_memory(&self.ledger.snapshot(), begun);
    }
}
