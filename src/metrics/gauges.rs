//! Series that are read from the tree's snapshot at a scrape.

use metrics::{counter, gauge};
use stt_actors::Snapshot;
use stt_actors::ports::MemoryKind;

use super::escalation;

/// Bytes in a GB, as `MIN_COLD_VRAM_GB` and the metrics count them.
pub const GB: f64 = (1_u64 << 30) as f64;

pub(super) const SPAWNED: &str = "uttera_stt_cold_workers_spawned_total";
pub(super) const BUILD_INFO: &str = "uttera_stt_build_info";

/// One gauge of a snapshot; NaN where the number is unknown.
type Reading = fn(&Snapshot) -> f64;

/// Gauges that are read off the snapshot.
pub(super) const GAUGES: &[(&str, &str, Reading)] = &[
    (
        "uttera_stt_inflight_requests",
        "Audio requests admitted and not over, uploads included.",
        |s| s.requests as f64,
    ),
    (
        "uttera_stt_cold_workers_active",
        "Cold workers that can work.",
        |s| s.pool.active as f64,
    ),
    (
        "uttera_stt_cold_workers_loading",
        "Cold workers that are starting.",
        |s| s.pool.loading as f64,
    ),
    (
        "uttera_stt_cold_worker_pool_size_cap",
        "Most cold workers there may be.",
        |s| s.pool.size_cap as f64,
    ),
    (
        "uttera_stt_cold_worker_ema_start_seconds",
        "Rolling time of a worker's start, in seconds; NaN until measured.",
        |s| {
            s.measured_start
                .map_or(f64::NAN, |start| start.as_secs_f64())
        },
    ),
    (
        "uttera_stt_work_queue_depth",
        "Pieces of audio that wait for a lane.",
        |s| s.queue_depth as f64,
    ),
    (
        "uttera_stt_work_queue_audio_seconds",
        "Audio still to be worked on, the undecoded rest of long files included, in seconds.",
        |s| s.remaining.audio_seconds(),
    ),
    (
        "uttera_stt_load_score",
        "Time until all work is done over ROUTING_DRAIN_CAP_SECONDS, at most 1.",
        Snapshot::load_score,
    ),
    (
        "uttera_stt_hot_ema_sps",
        "Rolling seconds of audio per second of the hot lane's work; NaN until measured.",
        |s| s.hot_real_time_factor.map_or(f64::NAN, f64::recip),
    ),
    (
        "uttera_stt_vram_free_gb",
        "Free memory of the GPU, in GB of 2^30 bytes; NaN without a GPU and while unknown.",
        |s| gpu_gb(s, s.memory.free_bytes),
    ),
    (
        "uttera_stt_vram_per_cold_worker_gb",
        "Rolling memory of the GPU that a worker takes, in GB of 2^30 bytes; NaN until measured.",
        |s| gpu_gb(s, s.memory.worker_bytes),
    ),
    (
        "uttera_stt_engine_ready",
        "1 while the hot lane can work, at once or after waking.",
        |s| f64::from(u8::from(s.can_serve())),
    ),
];

/// GB of GPU memory; NaN where there is no GPU or the number is unknown.
fn gpu_gb(snapshot: &Snapshot, bytes: Option<u64>) -> f64 {
    bytes
        .filter(|_| snapshot.memory.kind == MemoryKind::Vram)
        .map_or(f64::NAN, |bytes| bytes as f64 / GB)
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
