//! The hot lane's life: when the HotWorker is started, brought back, let sleep and woken.

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

/// A model that could not be loaded is tried again this seldom: files do not mend themselves in
/// milliseconds.
const MODEL_RETRY: Duration = Duration::from_secs(10);

/// What the Supervisor knows of the hot lane.
#[derive(Default)]
pub(super) struct HotLane {
    child: Option<HotChild>,
    generation: u64,
    budget: RestartBudget,
    /// Chunks that hot lanes had finished at the last failure.
    chunks_at_last_failure: u64,
    /// The node's rates come from the first engine that was ever up.
    calibrated: bool,
}

struct HotChild {
    actor: ActorRef<LaneMessage>,
    lane: LaneId,
}

impl HotLane {
    pub(super) fn is(&self, who: ActorId) -> bool {
        (self.child.as_ref()).is_some_and(|child| child.actor.get_id() == who)
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
        // Word from an incarnation that has ended since is old news.
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

    /// Brings a sleeping hot lane back: there is work, or will be in a moment.
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
        // The lane gives its chunk back itself, unless it failed in a way that it could not.
        let _ = (self.dispatcher).cast(DispatcherMessage::LaneGone(child.lane));
        if self.phase == Phase::Stopping {
            return Ok(());
        }
        if let Some(why) = failure.leaving() {
            return self.hot_left(myself, why).await;
        }
        self.hot_failed(myself, failure);
        Ok(())
    }

    async fn hot_left(
        &mut self,
        myself: &ActorRef<SupervisorMessage>,
        why: LaneExit,
    ) -> Result<(), SpawnErr> {
        let status = &self.arguments.status;
        if let Some(info) = status.snapshot().last_engine {
            status.set_hot(HotState::Asleep(info));
        }
        // Asked after the state is told: whoever takes a place from now on sees it and wakes us.
        let wanted = status.requests() > 0;
        info!(reason = ?why, wanted, "the hot worker gave its memory back");
        if why.is_replaced() || wanted {
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
            "the hot worker is gone"
        );
        if restart.budget_spent {
            error!(reason, "cannot transcribe; trying again now and then");
            self.arguments.status.set_hot(HotState::Failed { reason });
            self.repeat_hot_lane_lost();
        } else {
            (self.arguments.status).set_hot(HotState::Restarting { reason });
        }
        // The timer ends with the actor's mailbox; nothing else is to be done with it.
        drop(myself.send_after(restart.after, || SupervisorMessage::StartHot));
    }

    /// A model at fault says nothing about the worker: it is outside of the budget.
    fn restart(&mut self, failure: Failure<'_>) -> Restart {
        if failure.is_models_fault() {
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

    /// Tells the Dispatcher that the hot lane will not come soon, if that is so.
    pub(super) fn repeat_hot_lane_lost(&self) {
        let HotState::Failed { reason } = self.arguments.status.hot() else {
            return;
        };
        let refusal = SttError::NotReady {
            reason,
            retry_after: self.arguments.status.snapshot().start_time(),
        };
        let _ = self
            .dispatcher
            .cast(DispatcherMessage::HotLaneLost(refusal));
    }
}
