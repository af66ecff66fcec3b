//! When the HotWorker is started, restarted, left asleep and woken.

use std::time::Duration;

use ractor::{ActorId, ActorRef, SpawnErr};
use tracing::{error, info, warn};

use super::children::{self, Failure};
use super::{Phase, SupervisorMessage, SupervisorState};
use crate::domain::error::SttError;
use crate::domain::ids::{LaneId, LaneKind};
use crate::lane::exit::LaneExit;
use crate::lane::restart_budget::{Restart, RestartBudget};
use crate::ports::EngineInfo;
use crate::queue::messages::{DispatcherMessage, LaneMessage};
use crate::status::snapshot::HotState;

/// Pause before a broken model is loaded again: files are not repaired within milliseconds.
const MODEL_RETRY: Duration = Duration::from_secs(10);

/// The hot lane, as the Supervisor knows it.
#[derive(Default)]
pub(super) struct HotLane {
    child: Option<HotChild>,
    generation: u64,
    budget: RestartBudget,
    /// Number of chunks that hot lanes had finished at the last failure.
    chunks_at_last_failure: u64,
    /// Whether the first engine has set the node's initial rates.
    calibrated: bool,
}

struct HotChild {
    actor: ActorRef<LaneMessage>,
    lane: LaneId,
}

impl HotLane {
    pub(super) fn is(&self, ended: ActorId) -> bool {
        (self.child.as_ref()).is_some_and(|child| child.actor.get_id() == ended)
    }

    pub(super) fn actor(&self) -> Option<&ActorRef<LaneMessage>> {
        self.child.as_ref().map(|child| &child.actor)
    }
}

impl SupervisorState {
    pub(super) async fn start_hot(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        if self.phase == Phase::Stopping || self.hot.child.is_some() {
            return Ok(());
        }
        self.hot.generation += 1;
        let generation = self.hot.generation;
        let (actor, lane) =
            children::hot_worker(myself, &self.arguments, &self.dispatcher, generation).await?;
        self.hot.child = Some(HotChild { actor, lane });
        Ok(())
    }

    pub(super) fn hot_ready(&mut self, worker: ActorId, info: EngineInfo) {
        // The message of a worker that has ended since is outdated.
        if !self.hot.is(worker) {
            return;
        }
        info!(model = info.model, "ready to transcribe");
        let status = &self.arguments.status;
        if std::mem::replace(&mut self.hot.calibrated, true) {
            status.record_start(info.load_time);
        } else {
            status.calibrate(&info);
        }
        status.set_hot(HotState::Ready(info));
    }

    /// Starts a sleeping hot lane, because work is here or arrives soon.
    pub(super) async fn wake(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
    ) -> Result<(), SpawnErr> {
        if matches!(self.arguments.status.hot(), HotState::Asleep(_)) {
            self.start_hot(myself).await?;
        }
        Ok(())
    }

    pub(super) async fn hot_gone(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        failure: Failure<'_>,
    ) -> Result<(), SpawnErr> {
        let Some(child) = self.hot.child.take() else {
            return Ok(());
        };
        // The lane returns its chunk itself, unless it failed before it could.
        let _ = (self.dispatcher).cast(DispatcherMessage::LaneGone(child.lane));
        if self.phase == Phase::Stopping {
            return Ok(());
        }
        if let Some(exit) = failure.lane_exit() {
            return self.hot_left(myself, exit).await;
        }
        self.hot_failed(myself, failure);
        Ok(())
    }

    async fn hot_left(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        exit: LaneExit,
    ) -> Result<(), SpawnErr> {
        let status = &self.arguments.status;
        if let Some(info) = status.snapshot().last_engine {
            status.set_hot(HotState::Asleep(info));
        }
        // Checked after the status is set: every request that is admitted from now on sees it and sends `Wake`.
        let wanted = status.requests() > 0;
        info!(reason = ?exit, wanted, "the hot worker released its memory");
        if exit.is_replaced() || wanted {
            self.start_hot(myself).await?;
        }
        Ok(())
    }

    fn hot_failed(&mut self, myself: &ActorRef<SupervisorMessage>, failure: Failure<'_>) {
        let restart = self.restart(failure);
        let reason = failure.to_string();
        warn!(
            reason,
            restart_after_seconds = restart.after.as_secs_f64(),
            "the hot worker failed"
        );
        if restart.budget_spent {
            error!(reason, "cannot transcribe; retrying periodically");
            self.arguments.status.set_hot(HotState::Failed { reason });
            self.repeat_hot_lane_lost();
        } else {
            (self.arguments.status).set_hot(HotState::Restarting { reason });
        }
        // The timer ends with the actor.
        drop(myself.send_after(restart.after, || SupervisorMessage::StartHot));
    }

    /// When to restart. A broken model says nothing about the worker and does not count in its budget.
    fn restart(&mut self, failure: Failure<'_>) -> Restart {
        if failure.is_model_broken() {
            return Restart {
                after: MODEL_RETRY,
                budget_spent: true,
            };
        }
        let finished = self.arguments.status.finished_chunks(LaneKind::Hot);
        let progressed = finished > self.hot.chunks_at_last_failure;
        self.hot.chunks_at_last_failure = finished;
        self.hot.budget.record_failure(progressed)
    }

    /// Tells the Dispatcher again that the hot lane will not be ready soon, if so.
    pub(super) fn repeat_hot_lane_lost(&self) {
        let HotState::Failed { reason } = self.arguments.status.hot() else {
            return;
        };
        let error = SttError::NotReady {
            reason,
            retry_after: self.arguments.status.snapshot().start_time(),
        };
        let _ = self.dispatcher.cast(DispatcherMessage::HotLaneLost(error));
    }
}
