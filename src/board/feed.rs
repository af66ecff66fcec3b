//! Reports once a second, as long as somebody watches. All viewers get the same bytes. A viewer that does not read
//! skips reports and holds up no other.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{Board, lock};

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Viewers at once.
pub const MAX_VIEWERS: usize = 64;

/// Why there is no feed for a viewer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotWatchable {
    /// There are enough viewers.
    #[error("{MAX_VIEWERS} viewers watch the status already")]
    TooMany,
    /// The server stops.
    #[error("the server stops")]
    Closed,
}

#[derive(Debug, Default)]
pub(super) struct Feed {
    state: Mutex<State>,
    /// The latest report, as an event.
    latest: watch::Sender<Bytes>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    viewers: usize,
    /// Whether a task makes reports.
    runs: bool,
}

impl Board {
    /// Starts to watch; the first report is there at once.
    ///
    /// # Errors
    /// There are too many viewers, or the server stops.
    pub fn watch(&self) -> Result<Viewer, NotWatchable> {
        let feed = &self.0.feed;
        let mut state = lock(&feed.state);
        if feed.closed.is_cancelled() {
            return Err(NotWatchable::Closed);
        }
        if state.viewers >= MAX_VIEWERS {
            return Err(NotWatchable::TooMany);
        }
        if !state.runs {
            self.publish();
            let ticker = Ticker(self.clone());
            self.0.runtime.spawn(ticker.run());
            state.runs = true;
        }
        state.viewers += 1;
        let mut reports = feed.latest.subscribe();
        reports.mark_changed();
        Ok(Viewer {
            board: self.clone(),
            reports,
        })
    }

    /// Ends all viewers' feeds, because the server stops.
    pub fn close(&self) {
        self.0.feed.closed.cancel();
    }

    fn publish(&self) {
        let json = serde_json::to_string(&self.report()).unwrap_or_default();
        let event = format!("data: {json}\n\n");
        self.0.feed.latest.send_replace(event.into());
    }
}

/// The task that makes reports.
struct Ticker(Board);

impl Ticker {
    async fn run(self) {
        let feed = &self.0.0.feed;
        let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = feed.closed.cancelled() => return,
                _ = ticks.tick() => {}
            }
            {
                let mut state = lock(&feed.state);
                if state.viewers == 0 {
                    state.runs = false;
                    return;
                }
            }
            self.0.publish();
        }
    }
}

impl Drop for Ticker {
    /// After a panic, the next viewer starts another one.
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.0.feed.state).runs = false;
        }
    }
}

/// One viewer's feed. Dropping it ends it.
pub struct Viewer {
    board: Board,
    reports: watch::Receiver<Bytes>,
}

impl Viewer {
    /// The next report, as a server-sent event; `None` when the server stops. Reports that came since the last call
    /// are skipped, except for the latest one.
    pub async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.board.0.feed.closed.cancelled() => None,
            changed = self.reports.changed() => {
                changed.ok()?;
                Some(self.reports.borrow_and_update().clone())
            }
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        lock(&self.board.0.feed.state).viewers -= 1;
    }
}
