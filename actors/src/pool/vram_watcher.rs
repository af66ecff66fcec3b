//! The VramWatcher: samples the memory that decides how many workers fit.
//!
//! On a GPU that is its free memory, else the machine's. It also learns what a worker really takes
//! ([`MemoryLedger`]). A sample may hang in a driver: it is taken on a thread of its own, one at a
//! time, and while it hangs the memory is unknown. It ends when the Supervisor stops it; if it
//! fails it is replaced, and what it knew is learned anew.

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
/// A sample that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the VramWatcher hears.
#[derive(Debug)]
pub enum VramWatcherMessage {
    /// From its own timer.
    Tick,
    /// From the sampling thread.
    Sampled {
        /// When the look began.
        begun: Instant,
        /// What it showed.
        sample: Result<MemorySample, ProbeError>,
    },
}

/// What a VramWatcher is made from.
pub struct VramWatcherArguments {
    /// Looks at the memory.
    pub probe: Arc<dyn VramProbe>,
    /// Bytes that a worker is taken to need on a GPU until measured.
    pub minimum_bytes: u64,
    /// Where the result is kept.
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
        // Both end with the actor.
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
            Some(since) if since.elapsed() >= PATIENCE => {
                self.unknown(Instant::now(), &ProbeError("it gives no answer".to_owned()));
            }
            Some(_) => {}
        }
    }

    fn begin_sample(&mut self, myself: &ActorRef<VramWatcherMessage>) {
        let begun = Instant::now();
        self.sampling_since = Some(begun);
        let (probe, watcher) = (Arc::clone(&self.probe), myself.clone());
        let (_, processes) = self.status.engines();
        // Not waited for: a thread that a driver holds cannot be ended.
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
            warn!(kind = ?self.ledger.kind(), %error, "free memory is unknown; workers are started without that check");
        }
        self.ledger.lose_sight();
        self.status.set_memory(&self.ledger.snapshot(), begun);
    }
}
