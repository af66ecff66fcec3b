//! The HotWorker and the ColdWorker: two actors over one [`Lane`].
//!
//! Each owns one engine. The Supervisor supervises the HotWorker, whose engine stays loaded (unless
//! `HOT_IDLE_TIMEOUT` frees it); the ColdPool supervises the ColdWorkers, which start when work piles up
//! and end when they have been idle. A worker ends when it is asked to, by itself with a
//! [`LaneExit`](crate::lane::exit::LaneExit), or with a [`LaneFailure`](crate::lane::exit::LaneFailure)
//! when its engine ends or does not start. Its supervisor decides whether to replace it.

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};

use crate::lane::{Lane, LaneArguments};
use crate::ports::EngineInfo;
use crate::queue::messages::LaneMessage;

/// Called once the worker's engine is loaded, with the worker's actor id.
pub type OnEngineReady = Box<dyn Fn(ActorId, EngineInfo) + Send + Sync>;

/// The arguments of a worker.
pub struct WorkerArguments {
    /// The arguments of its lane.
    pub lane: LaneArguments,
    /// Reports to the supervisor that the engine is loaded.
    pub on_ready: OnEngineReady,
}

/// The state of a worker.
pub struct WorkerState {
    lane: Lane,
    on_ready: OnEngineReady,
}

impl WorkerState {
    fn launch(arguments: WorkerArguments, myself: ActorRef<LaneMessage>) -> Self {
        Self {
            lane: Lane::launch(arguments.lane, myself),
            on_ready: arguments.on_ready,
        }
    }

    async fn handle(
        &mut self,
        myself: &ActorRef<LaneMessage>,
        message: LaneMessage,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(info) = self.lane.handle(myself, message).await? {
            (self.on_ready)(myself.get_id(), info);
        }
        Ok(())
    }
}

/// The worker of the hot lane.
#[derive(Debug)]
pub struct HotWorker;

impl Actor for HotWorker {
    type Msg = LaneMessage;
    type State = WorkerState;
    type Arguments = WorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(WorkerState::launch(arguments, myself))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle(&myself, message).await
    }
}

/// A worker of the cold pool.
#[derive(Debug)]
pub struct ColdWorker;

impl Actor for ColdWorker {
    type Msg = LaneMessage;
    type State = WorkerState;
    type Arguments = WorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(WorkerState::launch(arguments, myself))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.handle(&myself, message).await
    }
}
