//! The report of `/v1/status`, as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stt_actors::ports::MemoryKind;
use stt_actors::{LaneSnapshot, LaneState, Snapshot, Stt};
use utoipa::ToSchema;

use super::{Identity, history, warnings};
use crate::host_memory::private_bytes;
use crate::jobs::record::State;
use crate::metrics::jobs::last_counts;

/// The state of the node and of its last 15 minutes.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Status)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// When the report was made, in Unix seconds.
    pub at: f64,
    /// Seconds since the server started.
    pub uptime_seconds: f64,
    /// The node.
    pub node: NodeStatus,
    /// The hot lane, then the cold ones from the oldest.
    pub lanes: Vec<LaneReport>,
    /// Work that is not done yet.
    pub queue: QueueReport,
    /// Jobs; null until the store of jobs is open.
    #[schema(required)]
    pub jobs: Option<JobsReport>,
    /// The cold workers.
    pub pool: PoolReport,
    /// The memory that limits the number of workers.
    pub memory: MemoryReport,
    /// Requests with audio in the last 15 minutes.
    pub history: HistoryReport,
    /// The last 50 warnings and errors of the log, the latest first.
    pub warnings: Vec<WarningReport>,
    /// The nodes that are registered in Redis; null without `REDIS_URL`.
    #[schema(required)]
    pub nodes: Option<NodesReport>,
}

/// The node.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeStatus {
    /// `ok`, `loading`, `degraded` or `draining`, as in `/health`.
    pub status: &'static str,
    /// The version of the server.
    pub version: &'static str,
    /// The role: `hotcold`, `primary` or `fallback`.
    pub role: String,
    /// The served model.
    pub model: String,
    /// The device that the model runs on; null until one is loaded.
    #[schema(required)]
    pub device: Option<String>,
    /// Whether routers should send requests to it.
    pub accepts_requests: bool,
    /// Its load, from 0 to 1.
    pub load_score: f64,
    /// The id under which it registers itself in Redis; null if it does not.
    #[schema(required)]
    pub id: Option<String>,
    /// The times of the drain; null unless the server drains.
    #[schema(required)]
    pub drain: Option<DrainReport>,
}

/// The times of a drain.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Drain)]
#[serde(deny_unknown_fields)]
pub struct DrainReport {
    /// Seconds until new requests get 503; 0: they do.
    pub rejects_in_seconds: f64,
    /// Seconds until running requests are cancelled.
    pub cancels_in_seconds: f64,
}

/// A lane: one worker around one engine.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Lane)]
#[serde(deny_unknown_fields)]
pub struct LaneReport {
    /// The name of the worker, as in the log; `hot` if the hot lane has none.
    pub name: String,
    /// `hot` or `cold`.
    pub kind: &'static str,
    /// `loading`, `busy`, `idle`; only of the hot lane: `asleep`, `restarting`, `failed`.
    pub state: &'static str,
    /// Seconds since when it is in this state.
    pub seconds: f64,
    /// The chunk that a busy lane works on, else null.
    #[schema(required)]
    pub work: Option<LaneWork>,
    /// Seconds until an idle lane ends if no work comes; null: it does not, or is not idle.
    #[schema(required)]
    pub ends_in_seconds: Option<f64>,
    /// Why the hot lane restarts or failed, else null.
    #[schema(required)]
    pub reason: Option<String>,
    /// The process of the worker; null until its model is loaded.
    #[schema(required)]
    pub process_id: Option<u32>,
    /// Resident memory of this process in bytes, without pages of files, which workers share; null if unknown.
    #[schema(required)]
    pub memory_bytes: Option<u64>,
}

/// The chunk that a lane works on.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LaneWork {
    /// `live`: live speech; `short`: a request of one chunk; `long`: a longer one; `job`: a job, whose client does not
    /// wait; `spare`: work that may never be needed.
    pub kind: &'static str,
    /// Seconds of audio in the chunk.
    pub audio_seconds: f64,
}

/// Work that is not done yet.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Waiting)]
#[serde(deny_unknown_fields)]
pub struct QueueReport {
    /// Chunks that wait for a lane.
    pub waiting: WaitingChunks,
    /// Admitted requests that have not ended.
    pub requests: usize,
    /// Seconds of audio that these still need, including the undecoded rest of long files.
    pub audio_seconds: f64,
    /// Estimated seconds until the lanes have done all of it.
    pub drain_seconds: f64,
    /// Open live sessions.
    pub live_sessions: usize,
}

/// Waiting chunks by the kind of their requests.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitingChunks {
    /// Of live speech.
    pub live: usize,
    /// Of requests of one chunk.
    pub short: usize,
    /// Of longer requests.
    pub long: usize,
    /// Of jobs.
    pub job: usize,
    /// Of work that may never be needed.
    pub spare: usize,
}

/// Jobs that are kept.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Jobs)]
#[serde(deny_unknown_fields)]
pub struct JobsReport {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that a node works on.
    pub running: usize,
    /// Jobs with a result.
    pub done: usize,
    /// Jobs with an error.
    pub failed: usize,
    /// Bytes of stored audio.
    pub audio_bytes: u64,
    /// Seconds of audio that the running jobs of this node still need.
    pub remaining_seconds: f64,
}

/// The cold workers.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Pool)]
#[serde(deny_unknown_fields)]
pub struct PoolReport {
    /// Ready workers.
    pub active: usize,
    /// Starting workers.
    pub loading: usize,
    /// Workers that the current work justifies.
    pub wanted: usize,
    /// Maximum number of workers.
    pub size_cap: usize,
    /// Workers started since the server started.
    pub spawned: u64,
}

/// The memory that limits the number of workers. Unknown numbers are null.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Memory)]
#[serde(deny_unknown_fields)]
pub struct MemoryReport {
    /// `gpu`, or `system`: of the machine.
    pub kind: &'static str,
    /// Free bytes.
    #[schema(required)]
    pub free_bytes: Option<u64>,
    /// All bytes.
    #[schema(required)]
    pub total_bytes: Option<u64>,
    /// Rolling mean of the bytes that one worker uses.
    #[schema(required)]
    pub worker_bytes: Option<u64>,
    /// Recent utilization of the GPU, in percent.
    #[schema(required)]
    pub utilization_percent: Option<u32>,
    /// Whether another worker fits.
    pub fits_one_more: bool,
    /// Resident memory of the machine that the server and the workers of its lanes use, in bytes, without pages of
    /// files.
    #[schema(required)]
    pub used_by_server_bytes: Option<u64>,
}

/// Requests with audio in the last 15 minutes, without live sessions. Each list has 90 numbers, from the oldest step to
/// the newest, which is not over.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = History)]
#[serde(deny_unknown_fields)]
pub struct HistoryReport {
    /// Length of a step.
    pub step_seconds: u64,
    /// When the newest step began, in Unix seconds.
    pub newest: f64,
    /// Ended requests.
    pub requests: Vec<u32>,
    /// Those that ended with a status from 400 to 499.
    pub client_errors: Vec<u32>,
    /// Those that ended with a status from 500.
    pub server_errors: Vec<u32>,
    /// Those whose client left before the response was complete.
    pub left: Vec<u32>,
    /// Time that half of the answered requests took at most, in seconds within an eighth; null if none was answered.
    pub p50_seconds: Vec<Option<f64>>,
    /// Time that 95 % of the answered requests took at most.
    pub p95_seconds: Vec<Option<f64>>,
}

/// A warning or an error of the log.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = LoggedWarning)]
#[serde(deny_unknown_fields)]
pub struct WarningReport {
    /// When it was logged, in Unix seconds.
    pub at: f64,
    /// `WARN` or `ERROR`.
    pub level: &'static str,
    /// The message with its fields, without those about clients, cut at 500 characters.
    pub message: String,
    /// The part of the program that logged it.
    pub target: &'static str,
}

/// The nodes that are registered in Redis.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Nodes)]
#[serde(deny_unknown_fields)]
pub struct NodesReport {
    /// Why the list could not be read the last time, else null. The list is then the one read before, without nodes
    /// whose record has expired since.
    #[schema(required)]
    pub error: Option<String>,
    /// Seconds since the list was read; null: not yet. It is read while somebody looks, and at most every 5 seconds.
    #[schema(required)]
    pub age_seconds: Option<f64>,
    /// Whether the list has all nodes. It has at most 200.
    pub complete: bool,
    /// The nodes, sorted by id.
    pub list: Vec<NodeReport>,
}

/// A node that is registered in Redis.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ListedNode)]
#[serde(deny_unknown_fields)]
pub struct NodeReport {
    /// Its name, unique among the nodes.
    pub id: String,
    /// Host under which routers reach it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its load, from 0 to 1.
    pub load_score: f64,
    /// Whether routers should send requests to it.
    pub accepts_requests: bool,
    /// Version of its program.
    pub version: String,
    /// Seconds after which its record expires unless it renews it, counted from when the list was read; null: never.
    #[schema(required)]
    pub expires_in_seconds: Option<f64>,
}

impl Report {
    pub(super) fn of(stt: &Stt, identity: &Identity, nodes: Option<NodesReport>) -> Self {
        let snapshot = stt.snapshot();
        let lanes: Vec<LaneReport> = stt.lanes().into_iter().map(lane).collect();
        let now = SystemTime::now();
        Self {
            at: unix_seconds(now),
            uptime_seconds: seconds(snapshot.age),
            node: node(&snapshot, identity),
            queue: queue(&snapshot),
            jobs: jobs(&snapshot),
            pool: PoolReport {
                active: snapshot.pool.active,
                loading: snapshot.pool.loading,
                wanted: snapshot.pool.wanted,
                size_cap: snapshot.pool.size_cap,
                spawned: snapshot.pool.spawned,
            },
            memory: memory(&snapshot, &lanes),
            history: recent_requests(now),
            warnings: warnings::recent().into_iter().map(warning).collect(),
            lanes,
            nodes,
        }
    }
}

fn node(snapshot: &Snapshot, identity: &Identity) -> NodeStatus {
    let engine = snapshot.last_engine.as_ref();
    NodeStatus {
        status: snapshot.status(),
        version: env!("CARGO_PKG_VERSION"),
        role: identity.role.clone(),
        model: engine.map_or_else(|| identity.model.clone(), |engine| engine.model.clone()),
        device: engine.map(|engine| engine.device.clone()),
        accepts_requests: snapshot.accepts_requests(),
        load_score: snapshot.load_score(),
        id: identity.node_id.clone(),
        drain: snapshot.drain.map(|drain| DrainReport {
            rejects_in_seconds: seconds(drain.rejects_in),
            cancels_in_seconds: seconds(drain.cancels_in),
        }),
    }
}

fn lane(lane: LaneSnapshot) -> LaneReport {
    let mut report = LaneReport {
        name: lane.name.to_string(),
        kind: lane.kind.as_str(),
        state: lane.state.name(),
        seconds: seconds(lane.since),
        work: None,
        ends_in_seconds: None,
        reason: None,
        process_id: lane.process_id,
        memory_bytes: lane.process_id.and_then(private_bytes),
    };
    match lane.state {
        LaneState::Busy(work) => {
            report.work = Some(LaneWork {
                kind: work.kind.as_str(),
                audio_seconds: rounded(work.audio_seconds),
            });
        }
        LaneState::Idle { ends_in } => report.ends_in_seconds = ends_in.map(seconds),
        LaneState::Restarting { reason } | LaneState::Failed { reason } => {
            report.reason = Some(reason);
        }
        LaneState::Loading | LaneState::Asleep => {}
    }
    report
}

fn queue(snapshot: &Snapshot) -> QueueReport {
    QueueReport {
        waiting: WaitingChunks {
            live: snapshot.waiting.live,
            short: snapshot.waiting.short,
            long: snapshot.waiting.long,
            job: snapshot.waiting.job,
            spare: snapshot.waiting.spare,
        },
        requests: snapshot.requests,
        audio_seconds: snapshot.remaining.audio_seconds(),
        drain_seconds: seconds(snapshot.drain_estimate()),
        live_sessions: snapshot.live_sessions,
    }
}

fn jobs(snapshot: &Snapshot) -> Option<JobsReport> {
    let counts = last_counts()?;
    Some(JobsReport {
        queued: counts.of(State::Queued),
        running: counts.of(State::Running),
        done: counts.of(State::Done),
        failed: counts.of(State::Failed),
        audio_bytes: counts.audio_bytes,
        remaining_seconds: rounded(snapshot.background.audio_seconds()),
    })
}

fn memory(snapshot: &Snapshot, lanes: &[LaneReport]) -> MemoryReport {
    let memory = snapshot.memory;
    let workers = lanes.iter().filter_map(|lane| lane.memory_bytes);
    let own = private_bytes(std::process::id());
    MemoryReport {
        kind: match memory.kind {
            MemoryKind::Vram => "gpu",
            MemoryKind::Host => "system",
        },
        free_bytes: memory.free_bytes,
        total_bytes: memory.total_bytes,
        worker_bytes: memory.worker_bytes,
        utilization_percent: memory.utilization_percent,
        fits_one_more: memory.fits_one_more,
        used_by_server_bytes: own.map(|own| own + workers.sum::<u64>()),
    }
}

fn recent_requests(now: SystemTime) -> HistoryReport {
    let numbers = history::now();
    let newest = now.checked_sub(numbers.age_of_newest).unwrap_or(now);
    HistoryReport {
        step_seconds: history::STEP.as_secs(),
        newest: unix_seconds(newest),
        requests: numbers.requests,
        client_errors: numbers.client_errors,
        server_errors: numbers.server_errors,
        left: numbers.left,
        p50_seconds: numbers.p50,
        p95_seconds: numbers.p95,
    }
}

fn warning(warning: warnings::Warning) -> WarningReport {
    WarningReport {
        at: unix_seconds(warning.at),
        level: warning.level,
        message: warning.message,
        target: warning.target,
    }
}

fn unix_seconds(at: SystemTime) -> f64 {
    seconds(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Seconds to three digits after the point.
pub(crate) fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64())
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
