//! Series that are read from the tree's snapshot at a scrape.

use metrics::{counter, describe_gauge, gauge};
use stt_actors::domain::ids::LaneKind;
use stt_actors::ports::MemoryKind;
use stt_actors::{LaneSnapshot, Snapshot};

use super::escalation;

/// Bytes in a GB, as `MIN_COLD_VRAM_GB` and the metrics count them.
pub const GB: f64 = (1_u64 << 30) as f64;

pub(super) const SPAWNED: &str = "uttera_stt_cold_workers_spawned_total";
pub(super) const BUILD_INFO: &str = "uttera_stt_build_info";

/// Reads a gauge from a snapshot; NaN if the number is unknown.
type Reading = fn(&Snapshot) -> f64;

/// Gauges with their help texts.
const GAUGES: &[(&str, &str, Reading)] = &[
    (
        "uttera_stt_inflight_requests",
        "Admitted audio requests that are not finished, including those still uploading.",
        |s| s.requests as f64,
    ),
    ("uttera_stt_live_sessions", "Open live sessions.", |s| {
        s.live_sessions as f64
    }),
    (
        "uttera_stt_cold_workers_active",
        "Cold workers that are ready.",
        |s| s.pool.active as f64,
    ),
    (
        "uttera_stt_cold_workers_loading",
        "Cold workers that are starting.",
        |s| s.pool.loading as f64,
    ),
    (
        "uttera_stt_cold_worker_pool_size_cap",
        "Maximum number of cold workers.",
        |s| s.pool.size_cap as f64,
    ),
    (
        "uttera_stt_cold_worker_ema_start_seconds",
        "Rolling start time of a worker, in seconds; NaN until measured.",
        |s| {
            s.measured_start
                .map_or(f64::NAN, |start| start.as_secs_f64())
        },
    ),
    (
        "uttera_stt_work_queue_depth",
        "Chunks that wait for a lane.",
        |s| s.queue_depth as f64,
    ),
    (
        "uttera_stt_work_queue_audio_seconds",
        "Remaining audio of all requests, including the part of long files that is not decoded yet, in seconds.",
        |s| s.remaining.audio_seconds(),
    ),
    (
        "uttera_stt_queue_drain_seconds",
        "Estimated time until the ready lanes have done all work, in seconds.",
        |s| s.drain_estimate().as_secs_f64(),
    ),
    (
        "uttera_stt_node_record_age_seconds",
        "Time since this node last wrote its record to Redis, or since it first tried, in seconds; NaN without REDIS_URL.",
        |s| s.record_age.map_or(f64::NAN, |age| age.as_secs_f64()),
    ),
    (
        "uttera_stt_load_score",
        "Estimated time to drain the queue divided by ROUTING_DRAIN_CAP_SECONDS, at most 1.",
        Snapshot::load_score,
    ),
    (
        "uttera_stt_hot_ema_sps",
        "Rolling seconds of audio per second of work of the hot lane; NaN until measured.",
        |s| s.hot_real_time_factor.map_or(f64::NAN, f64::recip),
    ),
    (
        "uttera_stt_vram_free_gb",
        "Free GPU memory, in GB of 2^30 bytes; NaN without a GPU and while unknown.",
        |s| gpu_gb(s, s.memory.free_bytes),
    ),
    (
        "uttera_stt_vram_per_cold_worker_gb",
        "Rolling GPU memory of one worker, in GB of 2^30 bytes; NaN until measured.",
        |s| gpu_gb(s, s.memory.worker_bytes),
    ),
    (
        "uttera_stt_engine_ready",
        "1 while the hot lane can work, either at once or after reloading its model.",
        |s| f64::from(u8::from(s.can_serve())),
    ),
];

/// GB of GPU memory; NaN without a GPU or if the number is unknown.
fn gpu_gb(snapshot: &Snapshot, bytes: Option<u64>) -> f64 {
    bytes
        .filter(|_| snapshot.memory.kind == MemoryKind::Vram)
        .map_or(f64::NAN, |bytes| bytes as f64 / GB)
}

const LANES: &str = "uttera_stt_lanes";

/// States that both kinds of lane have.
const STATES: [&str; 3] = ["loading", "busy", "idle"];
/// States that only the hot lane has.
const HOT_STATES: [&str; 3] = ["asleep", "restarting", "failed"];

pub(super) fn describe() {
    for (name, help, _) in GAUGES {
        describe_gauge!(*name, *help);
    }
    describe_gauge!(
        LANES,
        "Lanes, by kind and by what they do. The hot lane is always in one state."
    );
}

/// Sets the number of lanes in each state.
pub(super) fn export_lanes(lanes: &[LaneSnapshot]) {
    let count = |kind: LaneKind, state: &str| {
        let same = |lane: &&LaneSnapshot| lane.kind == kind && lane.state.name() == state;
        lanes.iter().filter(same).count() as f64
    };
    for state in STATES {
        for kind in [LaneKind::Hot, LaneKind::Cold] {
            let number = count(kind, state);
            gauge!(LANES, "kind" => kind.as_str(), "state" => state).set(number);
        }
    }
    for state in HOT_STATES {
        let number = count(LaneKind::Hot, state);
        gauge!(LANES, "kind" => LaneKind::Hot.as_str(), "state" => state).set(number);
    }
}

pub(super) const LIBRETRANSLATE_CONFIGURED: &str = "uttera_stt_libretranslate_configured";

pub(super) fn export(snapshot: &Snapshot, libretranslate: bool) {
    for (name, _, reading) in GAUGES {
        gauge!(*name).set(reading(snapshot));
    }
    escalation::export(snapshot);
    gauge!(LIBRETRANSLATE_CONFIGURED).set(f64::from(u8::from(libretranslate)));
    counter!(SPAWNED).absolute(snapshot.pool.spawned);
    if let Some(engine) = &snapshot.last_engine {
        let version = env!("CARGO_PKG_VERSION");
        gauge!(BUILD_INFO, "version" => version, "engine" => "whisper-hotcold",
            "model" => engine.model.clone())
        .set(1.0);
    }
}
