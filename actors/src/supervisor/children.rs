//! How each child is started, and how its end is classified.

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
use crate::live::sessions::{LiveSessions, LiveSessionsArguments, LiveSessionsMessage};
use crate::live::work::LiveWork;
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

/// Longest interval between two demand checks of the fallback model.
const LONGEST_FALLBACK_INTERVAL: Duration = Duration::from_millis(500);

/// How a child ended.
#[derive(Clone, Copy)]
pub(super) enum Failure<'a> {
    /// With an error or a panic.
    Error(&'a ActorProcessingErr),
    /// It stopped or was killed.
    Ended(Option<&'a str>),
}

impl Failure<'_> {
    /// Whether the model is missing or broken, so that the next start will most likely fail too.
    pub(super) fn is_model_broken(self) -> bool {
        let Self::Error(error) = self else {
            return false;
        };
        (error.downcast_ref::<LaneFailure>())
            .is_some_and(|failure| matches!(failure, LaneFailure::Launch(LaunchError::Model(_))))
    }

    /// The reason of a lane that ended by itself.
    pub(super) fn lane_exit(self) -> Option<LaneExit> {
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
            Self::Ended(None) => f.write_str("it was stopped"),
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

pub(super) async fn live_sessions(
    myself: &ActorRef<SupervisorMessage>,
    arguments: &SupervisorArguments,
) -> Result<ActorRef<LiveSessionsMessage>, SpawnErr> {
    let (submitter, waker, supervisor) = (myself.clone(), myself.clone(), myself.clone());
    let arguments = LiveSessionsArguments {
        config: arguments.config.live,
        decoder: Arc::clone(&arguments.ports.decoder),
        work: LiveWork {
            submit: Arc::new(move |submission| {
                let submit = SupervisorMessage::Submit(submission);
                submitter.cast(submit).is_ok()
            }),
            wake: Arc::new(move || {
                let _ = waker.cast(SupervisorMessage::Wake);
            }),
            has_fallback: arguments.ports.fallback.is_some(),
            status: Arc::clone(&arguments.status),
        },
        on_drained: Box::new(move || {
            let _ = supervisor.cast(SupervisorMessage::LiveSessionsDone);
        }),
    };
    let spawned =
        LiveSessions::spawn_linked(None, LiveSessions, arguments, myself.get_cell()).await;
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

/// `None` without a fallback model on this node.
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
        // One worker may need the memory of several others.
        pool: PoolConfig {
            size: 1,
            // A request waits for it.
            interval: config.pool.interval.min(LONGEST_FALLBACK_INTERVAL),
            idle: IdlePolicy {
                timeout: config.pool.idle.timeout,
                stagger: Duration::ZERO,
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

/// Starts the HotWorker; returns its lane as well.
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

/// `None` without a memory probe.
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

/// `None` without a directory.
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
