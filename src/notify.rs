//! Reports to systemd (`sd_notify`): ready, reloading, stopping, and alive.
//!
//! Without systemd, `NOTIFY_SOCKET` is not set, and nothing is sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use stt_actors::{HotState, Stt};
use tokio::task::JoinSet;
use tracing::{debug, error};

/// Reports readiness and liveness until it is dropped.
pub(crate) struct Notifier(JoinSet<()>);

impl Notifier {
    /// Reports readiness when the model has transcribed its first clip, and, if the unit has a watchdog, that the
    /// tree is alive.
    pub(crate) fn start(stt: &Stt) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(report_states(stt.clone()));
        if let Some(limit) = sd_notify::watchdog_enabled() {
            tasks.spawn(feed_watchdog(stt.clone(), limit));
        }
        Self(tasks)
    }

    /// Reports that the server stops. From here on, systemd waits for its end, and the watchdog is off. If the unit grants
    /// less than `at_most` (`TimeoutStopSec`), systemd grants this.
    pub(crate) fn stopping(mut self, at_most: Duration) {
        self.0.abort_all();
        // A reload that follows reports nothing.
        IS_READY.store(false, Ordering::Release);
        let microseconds = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
        send(&[
            NotifyState::Stopping,
            NotifyState::Status("draining"),
            NotifyState::ExtendTimeoutUsec(microseconds),
        ]);
    }
}

/// Whether readiness was reported: a reload before that must not report it.
static IS_READY: AtomicBool = AtomicBool::new(false);

/// Reports that the settings are being read again.
pub(crate) fn reloading() {
    if !IS_READY.load(Ordering::Acquire) {
        return;
    }
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "the clock for systemd cannot be read"),
    }
}

/// Reports that the settings have been read again.
pub(crate) fn reloaded() {
    if IS_READY.load(Ordering::Acquire) {
        send(&[NotifyState::Ready]);
    }
}

async fn report_states(stt: Stt) {
    let mut changes = stt.hot_states();
    loop {
        let hot = changes.borrow_and_update().clone();
        let status = match &hot {
            HotState::Starting => "loading the model".to_owned(),
            HotState::Ready(engine) => format!("ready, model {}", engine.model),
            HotState::Asleep(engine) => {
                format!("ready, model {} unloaded while idle", engine.model)
            }
            HotState::Restarting { .. } => "restarting the hot worker".to_owned(),
            HotState::Failed { reason } => format!("the model cannot be loaded: {reason}"),
        };
        // A line break would begin another assignment.
        let status = status.replace('\n', " ");
        let mut message = vec![NotifyState::Status(&status)];
        let is_ready = matches!(hot, HotState::Ready(_) | HotState::Asleep(_));
        if is_ready && !IS_READY.swap(true, Ordering::AcqRel) {
            message.push(NotifyState::Ready);
        }
        send(&message);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Without an answer of the tree for `limit`, systemd restarts the service.
async fn feed_watchdog(stt: Stt, limit: Duration) {
    // Two attempts fit the limit.
    let mut ticks = tokio::time::interval(limit / 3);
    loop {
        ticks.tick().await;
        if stt.is_responsive(limit / 3).await {
            send(&[NotifyState::Watchdog]);
        } else {
            error!(
                "the supervision tree does not answer; the watchdog of systemd restarts the service if it stays so"
            );
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd cannot be notified");
    }
}
