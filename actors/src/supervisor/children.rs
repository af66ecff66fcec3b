//! How each child is spawned, and what is known of its end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr};

use super::{SupervisorArguments, SupervisorMessage};
use crate::domain::error::LaunchError;
use crate::domain::ids::{LaneId, LaneKind, WorkerId};
use crate::fallback::Escalator;
use crate::fallback::model::{FallbackModel, FallbackModelArguments, FallbackModelHandle};
use crate::lane::LaneArguments;
use crate::lane::exit::{LaneExit, LaneFailure};
use crate::lane::idle::IdlePolicy;
use crate::lane::worker::{HotWorker, WorkerArguments};
use crate::pool::PoolConfig;
use crate::pool::cold_pool::{ColdPool, ColdPoolArguments, ColdPoolMessage};
use crate::pool::demand::DemandPolicy;
use crate::pool::vram_watcher::{VramWatcher, VramWatcherArguments, VramWatcherMessage};
use crate::ports::FallbackPort;
use crate::queue::dispatcher::{Dispatcher, DispatcherArguments};
use crate::queue::messages::{DispatcherMessage, LaneMessage};
use crate::registrar::{Registrar, RegistrarArguments, RegistrarMessage};
use crate::request::transcriptions::{
    Transcriptions, TranscriptionsArguments, TranscriptionsMessage,
};
use crate::translation::{Translations, TranslationsArguments, TranslationsMessage};

/// The larger model's pool looks at the demand at least so often.
const MOST_FALLBACK_INTERVAL: Duration = Duration::from_millis(500);

/// How a child ended.
#[derive(Clone, Copy)]
pub(super) enum Failure<'a> {
    /// With an error or a panic.
    Error(&'a ActorProcessingErr),
    /// It stopped or was killed.
    Ended(Option<&'a str>),
}

impl Failure<'_> {
    /// A model that is missing or broken will be so at the next try as well, most likely.
    pub(super) fn is_models_fault(self) -> bool {
        let Self::Error(error) = self else {
            return false;
        };
        (error.downcast_ref::<LaneFailure>())
            .is_some_and(|failure| matches!(failure, LaneFailure::Launch(LaunchError::Model(_))))
    }

    /// Why a lane went of its own accord, if it did.
    pub(super) fn leaving(self) -> Option<LaneExit> {
        match self {
            Self::Error(_) => None,
            Self::Ended(reason) => LaneExit::from_reason(reason),
        }
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Ended(Some(reason)) => f.write_str(reason),
            Self::Ended(None) => f.write_str("it was ended"),
        }
    }
}

pub(super) async fn dispatcher(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    generation: u32,
) -> Result<ActorRef<DispatcherMessage>, SpawnErr> {
    let arguments = DispatcherArguments {
        generation,
        status: Arc::clone(&arguments.status),
    };
    let spawned = Dispatcher::spawn_linked(None, Dispatcher, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| actor)
}

pub(super) async fn transcriptions(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    dispatcher: &ActorRef<DispatcherMessage>,
    escalator: Option<Escalator>,
) -> Result<ActorRef<TranscriptionsMessage>, SpawnErr> {
    let supervisor = myself.clone();
    let arguments = TranscriptionsArguments {
        decoder: Arc::clone(&arguments.ports.decoder),
        dispatcher: dispatcher.clone(),
        escalator,
        on_drained: Box::new(move || {
            let _ = supervisor.cast(SupervisorMessage::TranscriptionsDone);
        }),
        status: Arc::clone(&arguments.status),
        result_cache: arguments.config.result_cache,
    };
    let spawned =
        Transcriptions::spawn_linked(None, Transcriptions, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| actor)
}

pub(super) async fn cold_pool(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    dispatcher: &ActorRef<DispatcherMessage>,
) -> Result<ActorRef<ColdPoolMessage>, SpawnErr> {
    let arguments = ColdPoolArguments {
        config: arguments.config.pool,
        demand: DemandPolicy::BesideHotLane,
        node: Arc::clone(&arguments.status),
        memory_is_watched: arguments.ports.memory.is_some(),
        least_bytes: 0,
        lane: lane(
            arguments,
            dispatcher,
            LaneKind::Cold,
            WorkerId::new(LaneKind::Cold, 0),
        ),
        status: Arc::clone(&arguments.status),
    };
    let spawned = ColdPool::spawn_linked(None, ColdPool, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| actor)
}

/// `None` without a translator.
pub(super) async fn translations(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
) -> Result<Option<ActorRef<TranslationsMessage>>, SpawnErr> {
    let Some(translator) = &arguments.ports.translator else {
        return Ok(None);
    };
    let arguments = TranslationsArguments {
        translator: Arc::clone(translator),
        limit: arguments.config.translation_limit,
    };
    let spawned =
        Translations::spawn_linked(None, Translations, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| Some(actor))
}

/// None where no larger model of this node stands by.
pub(super) async fn fallback_model(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    generation: u32,
) -> Result<Option<FallbackModelHandle>, SpawnErr> {
    let Some(FallbackPort::Model {
        launcher,
        model,
        least_bytes,
    }) = &arguments.ports.fallback
    else {
        return Ok(None);
    };
    let config = &arguments.config;
    let children = FallbackModelArguments {
        generation,
        launcher: Arc::clone(launcher),
        chunk_timeout: config.chunk_timeout,
        stop_grace: config.stop_grace,
        recycling: config.recycling,
        // One of them is enough to take the memory of several others.
        pool: PoolConfig {
            size: 1,
            // Somebody waits for it.
            interval: config.pool.interval.min(MOST_FALLBACK_INTERVAL),
            idle: IdlePolicy {
                timeout: config.pool.idle.timeout,
                stagger: Duration::ZERO,
                pool_size: 1,
            },
        },
        node: Arc::clone(&arguments.status),
        memory_is_watched: arguments.ports.memory.is_some(),
        least_bytes: *least_bytes,
    };
    let (actor, _join) =
        FallbackModel::spawn_linked(None, FallbackModel, children, myself.get_cell()).await?;
    Ok(Some(FallbackModelHandle {
        actor,
        model: Arc::clone(model),
        limit: config.fallback_limit,
    }))
}

/// A HotWorker, and the name of its lane.
pub(super) async fn hot_worker(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
    dispatcher: &ActorRef<DispatcherMessage>,
    generation: u64,
) -> Result<(ActorRef<LaneMessage>, LaneId), SpawnErr> {
    let worker = WorkerId::new(LaneKind::Hot, generation);
    let lane = LaneArguments {
        idle_limit: arguments.config.hot_idle_limit,
        ..lane(arguments, dispatcher, LaneKind::Hot, worker)
    };
    let id = lane.lane;
    let supervisor = myself.clone();
    let arguments = WorkerArguments {
        lane,
        on_ready: Box::new(move |worker, info| {
            let _ = supervisor.cast(SupervisorMessage::HotReady { worker, info });
        }),
    };
    let spawned = HotWorker::spawn_linked(None, HotWorker, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| (actor, id))
}

fn lane(
    arguments: &SupervisorArguments,
    dispatcher: &ActorRef<DispatcherMessage>,
    kind: LaneKind,
    worker: WorkerId,
) -> LaneArguments {
    let config = &arguments.config;
    LaneArguments {
        lane: LaneId::next(),
        kind,
        worker,
        launcher: Arc::clone(&arguments.ports.launcher),
        chunk_timeout: config.chunk_timeout,
        stop_grace: config.stop_grace,
        idle_limit: None,
        recycling: config.recycling,
        dispatcher: dispatcher.clone(),
        status: Arc::clone(&arguments.status),
    }
}

/// None where nothing looks at the memory.
pub(super) async fn vram_watcher(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
) -> Result<Option<ActorRef<VramWatcherMessage>>, SpawnErr> {
    let Some(probe) = &arguments.ports.memory else {
        return Ok(None);
    };
    let arguments = VramWatcherArguments {
        probe: Arc::clone(probe),
        minimum_bytes: arguments.config.minimum_worker_bytes,
        status: Arc::clone(&arguments.status),
    };
    let spawned = VramWatcher::spawn_linked(None, VramWatcher, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| Some(actor))
}

/// None where the node is not registered anywhere.
pub(super) async fn registrar(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
) -> Result<Option<ActorRef<RegistrarMessage>>, SpawnErr> {
    let Some(directory) = &arguments.ports.directory else {
        return Ok(None);
    };
    let arguments = RegistrarArguments {
        directory: Arc::clone(directory),
        interval: arguments.config.pool.interval,
        status: Arc::clone(&arguments.status),
    };
    let spawned = Registrar::spawn_linked(None, Registrar, arguments, myself.get_cell()).await;
    spawned.map(|(actor, _join)| Some(actor))
}
