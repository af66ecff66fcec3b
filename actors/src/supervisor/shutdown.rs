//! The ordered shutdown. First the node announces its end to routers, and, from when the directory has that, for the delay
//! of the plan serves what they still send. Then it removes its record, and stops intake and live sessions. When the uploads
//! that have begun are complete, it stops transcriptions, translations, dispatcher, lanes, watcher and registrar. Each step
//! waits for the one before, because ractor stops all children concurrently.

use std::time::Duration;

use ractor::{ActorCell, ActorRef};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Phase, SupervisorMessage, SupervisorState};
use crate::fallback::model::FallbackModelMessage;
use crate::live::sessions::LiveSessionsMessage;
use crate::pool::cold_pool::ColdPoolMessage;
use crate::queue::messages::LaneMessage;
use crate::registrar::RegistrarMessage;
use crate::request::transcriptions::TranscriptionsMessage;
use crate::status::drain::DrainPlan;
use crate::task;

/// Time limit for the Registrar, which removes its record within limits of its own.
const REGISTRAR_LIMIT: Duration = Duration::from_secs(8);

/// Longest wait until the directory has the announcement of a drain. The time that service managers get includes it.
pub const ANNOUNCE_LIMIT: Duration = Duration::from_secs(3);

/// Longest wait for the end of an open turn of a live session.
const TURN_LIMIT: Duration = Duration::from_secs(10);

impl SupervisorState {
    pub(super) fn drain(&mut self, myself: &ActorRef<SupervisorMessage>, plan: DrainPlan) {
        match self.phase {
            Phase::Running => {
                info!(
                    delay_seconds = plan.delay.as_secs_f64(),
                    grace_seconds = plan.grace.as_secs_f64(),
                    "draining"
                );
                self.phase = Phase::Leaving;
                self.plan = plan;
                // The Registrar publishes it at once.
                self.arguments.status.announce_drain(plan);
                if plan.delay.is_zero() {
                    self.drain_delay_over(myself);
                } else {
                    self.await_announcement(myself);
                }
            }
            // The second request cuts delay and grace short.
            Phase::Leaving => {
                self.plan.grace = Duration::ZERO;
                self.drain_delay_over(myself);
                self.drain_overdue(myself);
            }
            Phase::Draining | Phase::Stopping => self.drain_overdue(myself),
        }
    }

    /// Waits until the directory has a record that says that the node accepts no requests: only then do routers begin to
    /// see it. A directory that is away delays the end for [`ANNOUNCE_LIMIT`] at most.
    fn await_announcement(&mut self, myself: &ActorRef<SupervisorMessage>) {
        let Some(registrar) = &self.registrar else {
            return self.drain_announced(myself);
        };
        let (reply, announced) = oneshot::channel();
        let _ = registrar.cast(RegistrarMessage::Announce(reply));
        let supervisor = myself.clone();
        self.awaiting_announcement = Some(task::spawn(async move {
            let announced = async {
                if announced.await.is_err() {
                    // The Registrar has failed; its successor publishes the record as well.
                    std::future::pending::<()>().await;
                }
            };
            if tokio::time::timeout(ANNOUNCE_LIMIT, announced)
                .await
                .is_err()
            {
                warn!(
                    "routers may not know that this node drains: its record could not be written"
                );
            }
            let _ = supervisor.cast(SupervisorMessage::DrainAnnounced);
        }));
    }

    /// Gives routers the delay of the plan to see the announcement.
    pub(super) fn drain_announced(&mut self, myself: &ActorRef<SupervisorMessage>) {
        if self.phase != Phase::Leaving {
            return;
        }
        self.arguments.status.announce_drain(self.plan);
        drop(myself.send_after(self.plan.delay, || SupervisorMessage::DrainDelayOver));
    }

    /// Rejects new requests. What is running has the grace of the plan.
    pub(super) fn drain_delay_over(&mut self, myself: &ActorRef<SupervisorMessage>) {
        if self.phase != Phase::Leaving {
            return;
        }
        self.phase = Phase::Draining;
        let grace = self.plan.grace;
        if let Some(registrar) = &self.registrar {
            let _ = registrar.cast(RegistrarMessage::Withdraw);
        }
        info!("new requests are rejected");
        self.arguments.status.announce_drain(grace.into());
        self.drain_live_sessions();
        drop(myself.send_after(grace, || SupervisorMessage::DrainOverdue));
    }

    /// The turns that are open become requests before the transcriptions drain.
    pub(super) fn drain_live_sessions(&self) {
        let turn_limit = TURN_LIMIT.min(self.plan.grace / 2);
        let drain = LiveSessionsMessage::Drain { turn_limit };
        let _ = self.live_sessions.cast(drain);
    }

    /// No request is rejected after its upload: the Transcriptions drain when all uploads that have begun are complete, or
    /// the grace is over.
    pub(super) fn drain_transcriptions(&mut self) {
        let transcriptions = self.transcriptions.clone();
        if self.is_overdue {
            let _ = transcriptions.cast(TranscriptionsMessage::Drain);
            // They may have accepted requests since the grace ended.
            let _ = transcriptions.cast(TranscriptionsMessage::CancelAll);
            return;
        }
        let uploads = self.arguments.status.uploads().clone();
        if !uploads.is_empty() {
            info!(
                uploads = uploads.len(),
                "waiting for uploads that have begun"
            );
        }
        uploads.close();
        self.awaiting_uploads = Some(task::spawn(async move {
            uploads.wait().await;
            let _ = transcriptions.cast(TranscriptionsMessage::Drain);
        }));
    }

    pub(super) fn drain_overdue(&mut self, myself: &ActorRef<SupervisorMessage>) {
        self.is_overdue = true;
        self.arguments.status.grace_over().cancel();
        let _ = self.live_sessions.cast(LiveSessionsMessage::EndAll);
        if self.awaiting_uploads.take().is_some() {
            self.drain_transcriptions();
        } else {
            let _ = self.transcriptions.cast(TranscriptionsMessage::CancelAll);
        }
        if self.awaiting_translations.take().is_some() {
            let _ = myself.cast(SupervisorMessage::TranslationsDone);
        }
    }

    /// Stops the tree once no translation is pending: a finished transcript may still have to be
    /// translated.
    pub(super) async fn transcriptions_done(&mut self, myself: &ActorRef<SupervisorMessage>) {
        let pending = self.arguments.pending_translations.clone();
        if self.is_overdue || pending.is_empty() {
            self.stop_all(myself).await;
        } else if self.awaiting_translations.is_none() {
            let supervisor = myself.clone();
            pending.close();
            self.awaiting_translations = Some(task::spawn(async move {
                pending.wait().await;
                let _ = supervisor.cast(SupervisorMessage::TranslationsDone);
            }));
        }
    }

    /// The last steps. No message matters any more, so this may block the mailbox.
    pub(super) async fn stop_all(&mut self, myself: &ActorRef<SupervisorMessage>) {
        self.phase = Phase::Stopping;
        let grace = self.arguments.config.stop_grace;
        stop(self.live_sessions.get_cell(), grace, "live sessions").await;
        stop(self.transcriptions.get_cell(), grace * 2, "transcriptions").await;
        if let Some(translations) = self.translations.take() {
            stop(translations.get_cell(), grace, "translations").await;
        }
        stop(self.dispatcher.get_cell(), grace * 2, "dispatcher").await;
        self.stop_lanes(grace * 3).await;
        if let Some(watcher) = self.vram_watcher.take() {
            stop(watcher.get_cell(), grace, "VRAM watcher").await;
        }
        if let Some(registrar) = self.registrar.take() {
            stop(registrar.get_cell(), REGISTRAR_LIMIT, "registrar").await;
        }
        myself.stop(None);
    }

    /// Stops all lanes at the same time, each within the grace of its engine.
    async fn stop_lanes(&mut self, within: Duration) {
        let hot = self.hot.actor().cloned();
        if let Some(hot) = &hot {
            let _ = hot.cast(LaneMessage::Stop);
        }
        let _ = self.cold_pool.cast(ColdPoolMessage::Stop);
        let fallback = self.fallback_model.take().map(|model| model.actor);
        if let Some(fallback) = &fallback {
            let _ = fallback.cast(FallbackModelMessage::Stop);
        }
        let hot = hot.map(|hot| hot.get_cell());
        let fallback = fallback.map(|fallback| fallback.get_cell());
        let cells = hot.into_iter().chain(fallback);
        for cell in cells.chain([self.cold_pool.get_cell()]) {
            if cell.wait(Some(within)).await.is_err() {
                warn!("a worker did not stop in time");
            }
        }
    }
}

async fn stop(cell: ActorCell, within: Duration, name: &str) {
    if cell.stop_and_wait(None, Some(within)).await.is_err() {
        warn!(name, "an actor did not stop in time");
    }
}
