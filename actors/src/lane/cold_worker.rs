//! A ColdWorker: a lane that was started because work piled up, and that goes when it has idled.
//!
//! It owns one engine through a [`Lane`] and is supervised by the ColdPool. It ends as every lane
//! does; whether another one takes its place is the ColdPool's decision.

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::lane::{Lane, LaneArguments};
use crate::pool::cold_pool::ColdPoolMessage;
use crate::queue::messages::LaneMessage;

/// What a ColdWorker is made from.
pub struct ColdWorkerArguments {
    /// As for every lane.
    pub lane: LaneArguments,
    /// Who is told that the engine is up.
    pub pool: ActorRef<ColdPoolMessage>,
}

/// The actor's state.
pub struct ColdWorkerState {
    lane: Lane,
    pool: ActorRef<ColdPoolMessage>,
}

/// The actor.
#[derive(Debug)]
pub struct ColdWorker;

impl Actor for ColdWorker {
    type Msg = LaneMessage;
    type State = ColdWorkerState;
    type Arguments = ColdWorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(ColdWorkerState {
            lane: Lane::launch(arguments.lane, myself),
            pool: arguments.pool,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(info) = state.lane.handle(&myself, message).await? {
            let worker = myself.get_id();
            let _ = (state.pool).cast(ColdPoolMessage::WorkerReady { worker, info });
        }
        Ok(())
    }
}
