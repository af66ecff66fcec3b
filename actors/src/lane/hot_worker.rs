//! The HotWorker: the lane whose engine is always loaded, or, with `HOT_IDLE_TIMEOUT`, whenever there
//! was work lately.
//!
//! It owns one engine through a [`Lane`] and is supervised by the Supervisor. It ends when asked,
//! of its own accord ([`LaneExit`](crate::lane::exit::LaneExit)), or with a
//! [`LaneFailure`](crate::lane::exit::LaneFailure) when its engine ends or never comes up; bringing it
//! back is the Supervisor's decision.

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::lane::{Lane, LaneArguments};
use crate::queue::messages::LaneMessage;
use crate::supervisor::SupervisorMessage;

/// What a HotWorker is made from.
pub struct HotWorkerArguments {
    /// As for every lane.
    pub lane: LaneArguments,
    /// Who is told that the engine is up.
    pub supervisor: ActorRef<SupervisorMessage>,
}

/// The actor's state.
pub struct HotWorkerState {
    lane: Lane,
    supervisor: ActorRef<SupervisorMessage>,
}

/// The actor.
#[derive(Debug)]
pub struct HotWorker;

impl Actor for HotWorker {
    type Msg = LaneMessage;
    type State = HotWorkerState;
    type Arguments = HotWorkerArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(HotWorkerState {
            lane: Lane::launch(arguments.lane, myself),
            supervisor: arguments.supervisor,
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
            let ready = SupervisorMessage::HotReady { worker, info };
            let _ = state.supervisor.cast(ready);
        }
        Ok(())
    }
}
