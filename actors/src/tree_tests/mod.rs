//! The whole tree with scripted engines and decoders on a paused clock: time advances only when all tasks
//! are idle, so minutes take microseconds and nothing depends on the machine.

mod actors_of_ractor;
mod admission;
mod cold_faults;
mod escalation;
mod fallback_model;
mod faults;
mod hot_idle;
mod impatient;
mod jobs;
mod lanes;
mod live;
mod memory;
mod pool;
mod registration;
mod requests;
mod same_again;
mod scheduling;
mod shutdown;
mod translation;
mod warnings;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ractor::ActorCell;

use crate::domain::chunk::AudioSource;
use crate::domain::error::{EngineExit, LaunchError};
use crate::fallback::policy::EscalationPolicy;
use crate::queue::messages::DispatcherMessage;
use crate::{
    Admission, AdmissionRequest, Client, IdlePolicy, Job, LiveConfig, Options, PoolConfig, Ports,
    RecyclingLimits, Stt, SttError, TranscriptStream, TreeConfig, TreeEnded, Urgency,
};

use warnings::Warnings;
use world::*;

/// A running tree that must be ended with [`Tree::end`].
pub struct Tree {
    pub stt: Stt,
    pub world: Arc<World>,
    ended: TreeEnded,
}

/// The default ports over a world.
pub fn ports(world: &Arc<World>) -> Ports {
    Ports {
        launcher: Arc::new(Launcher(Arc::clone(world))),
        decoder: Arc::new(Decoder(Arc::clone(world))),
        memory: None,
        directory: None,
        fallback: None,
        translator: None,
    }
}

/// The default limits, with this number of cold workers.
pub fn config(pool_size: usize) -> TreeConfig {
    TreeConfig {
        chunk_timeout: CHUNK_TIMEOUT,
        stop_grace: Duration::from_secs(5),
        start_estimate: Duration::from_secs(8),
        max_queue: Duration::from_secs(600),
        drain_cap: Duration::from_secs(120),
        hot_idle_limit: None,
        recycling: RecyclingLimits::default(),
        live: LiveConfig {
            sessions: 8,
            idle_limit: Duration::from_secs(300),
        },
        pool: PoolConfig {
            size: pool_size,
            interval: Duration::from_millis(500),
            idle: IdlePolicy {
                timeout: Duration::from_secs(60),
                stagger: Duration::from_secs(10),
            },
        },
        escalation: EscalationPolicy {
            min_confidence: 0.55,
            min_language_probability: 0.7,
            min_words: 0,
        },
        fallback_limit: Duration::from_secs(60),
        translation_limit: Duration::from_secs(30),
        result_cache: Duration::ZERO,
        minimum_worker_bytes: 0,
    }
}

impl Tree {
    /// A tree without cold workers over a world with these planned launches. Does not wait until the tree is
    /// ready.
    pub async fn start(launches: Vec<LaunchPlan>) -> Self {
        Self::start_with(config(0), launches, |_| {}).await
    }

    /// Like `start`, with these limits and modified ports.
    pub async fn start_with(
        config: TreeConfig,
        launches: Vec<LaunchPlan>,
        change: impl FnOnce(&mut Ports),
    ) -> Self {
        let world = Arc::new(World::default());
        for plan in launches {
            world.plan(plan);
        }
        let mut ports = ports(&world);
        change(&mut ports);
        let (stt, ended) = Stt::start(ports, config).await.expect("the tree starts");
        Self { stt, world, ended }
    }

    /// A tree with these limits whose first engine is ready.
    pub async fn ready_with(config: TreeConfig, launches: Vec<LaunchPlan>) -> Self {
        let tree = Self::start_with(config, launches, |_| {}).await;
        tree.stt.ready().await.expect("ready");
        tree
    }

    /// Submits a job as the server does.
    pub async fn submit(&self, script: &str) -> Result<TranscriptStream, SttError> {
        self.submit_as("client", job(script)).await
    }

    /// Submits a job of this client.
    pub async fn submit_as(&self, client: &str, job: Job) -> Result<TranscriptStream, SttError> {
        let admission = self.stt.admit(AdmissionRequest::of(Client::new(client)))?;
        self.stt.submit(admission, job).await
    }

    /// Takes an admission slot without submitting a job.
    pub fn admit(&self) -> Result<Admission, SttError> {
        self.stt.admit(AdmissionRequest::of(Client::new("client")))
    }

    /// Submits this number of jobs, and waits until all of them are in the tree.
    pub async fn submit_many(&self, count: usize, script: &str) -> Vec<TranscriptStream> {
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(self.submit(script).await.expect("accepted"));
        }
        streams
    }

    /// Submits a job and returns its text.
    pub async fn text(&self, script: &str) -> Result<String, SttError> {
        let transcript = self.submit(script).await?.transcript().await;
        transcript.map(|transcript| transcript.text())
    }

    /// Waits until a lane is ready.
    pub async fn until_a_chunk_runs(&self) {
        eventually("a chunk runs", || self.stt.snapshot().busy_lanes > 0).await;
    }

    /// A tree whose first engine is ready.
    pub async fn ready(launches: Vec<LaunchPlan>) -> Self {
        let tree = Self::start(launches).await;
        tree.stt.ready().await.expect("ready");
        tree
    }

    /// Drains the tree, and fails if any actor is left: each holds a reference to the status.
    pub async fn end(mut self) {
        self.stt.drain(Duration::from_secs(600));
        self.ended.wait().await;
        eventually("no actor is left", || {
            Arc::strong_count(&self.stt.status) == 1
        })
        .await;
        assert_eq!(self.world.open_decoders.load(Ordering::SeqCst), 0);
    }

    /// The running Dispatcher.
    pub fn dispatcher(&self) -> ActorCell {
        self.children::<DispatcherMessage>().remove(0)
    }

    /// The running ColdPool.
    pub fn cold_pool(&self) -> ActorCell {
        self.children::<crate::pool::cold_pool::ColdPoolMessage>()
            .remove(0)
    }

    /// Kills the Supervisor's child that handles messages of this type, and waits for its replacement.
    pub async fn break_and_replace<M: ractor::Message>(&self) {
        let before = self.children::<M>().remove(0);
        before.kill();
        eventually("it is replaced", || {
            let now = self.children::<M>();
            now.last()
                .is_some_and(|now| now.get_id() != before.get_id())
        })
        .await;
    }

    /// The Supervisor's children that handle messages of this type.
    pub fn children<M: ractor::Message>(&self) -> Vec<ActorCell> {
        let children = self.stt.supervisor.get_cell().get_children();
        let mut found: Vec<_> = children
            .into_iter()
            .filter(|child| child.is_message_type_of::<M>() == Some(true))
            .collect();
        found.sort_by_key(ActorCell::get_id);
        found
    }
}

/// The final text of each stream.
pub async fn all_texts(streams: Vec<TranscriptStream>) -> Vec<String> {
    let mut texts = Vec::new();
    for stream in streams {
        texts.push(stream.transcript().await.expect("transcribed").text());
    }
    texts
}

pub fn job(script: &str) -> Job {
    Job {
        request_id: Arc::from("test"),
        audio: AudioSource::file(script).into(),
        options: Options::default(),
        identity: None,
        escalates: true,
        streamed: false,
        urgency: Urgency::default(),
        finished: None,
        trace: crate::Trace::default(),
    }
}

/// Waits, in scripted time, until a condition holds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
