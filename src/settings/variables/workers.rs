//! Number and lifetime of workers.

use std::time::Duration;

use super::{Variable, row, unused};
use crate::settings::read::{MEGABYTE, number, positive_seconds, seconds};

pub const ROWS: &[Variable] = &[
    row(
        "COLD_POOL_SIZE",
        "10",
        "Maximum number of cold workers.",
        |s, v| {
            s.cold_pool_size = number(v, 0, 1000, "a whole number from 0 to 1000")?;
            Ok(())
        },
    ),
    row(
        "COLD_WORKER_IDLE_TIMEOUT",
        "60",
        "Idle time, in seconds, after which a cold worker ends.",
        |s, v| {
            s.cold_idle_timeout = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_WORKER_IDLE_STAGGER",
        "10",
        "Seconds added to that idle time per free slot in the pool when the worker was started.",
        |s, v| {
            s.cold_idle_stagger = seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_POOL_MANAGER_INTERVAL",
        "0.5",
        "Seconds between two sizing decisions, and between two updates of the record in Redis.",
        |s, v| {
            let what = "a number of seconds from 0.05 to 3600";
            s.pool_interval = Duration::from_secs_f64(number(v, 0.05, 3600.0, what)?);
            Ok(())
        },
    ),
    row(
        "MIN_COLD_VRAM_GB",
        "4.0",
        "Free GPU memory, in GB, required to start a cold worker until its need is measured; 0: no check.",
        |s, v| {
            s.min_cold_vram_gb = number(v, 0.0, 10_000.0, "a number of GB from 0")?;
            Ok(())
        },
    ),
    unused(
        "HOT_QUEUE_SAFETY_FACTOR",
        "0.8",
        "Number that /health shows as safety_factor.",
        |s, v| {
            s.hot_queue_safety_factor = number(v, 0.0, 100.0, "a number from 0 to 100")?;
            Ok(())
        },
    ),
    row(
        "COLD_START_TIME_SECONDS",
        "8.0",
        "Assumed start time of a worker, in seconds, until it is measured.",
        |s, v| {
            s.cold_start_time = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "COLD_LANE_TIMEOUT_SECONDS",
        "300",
        "A worker that sends nothing for this many seconds during a chunk is killed.",
        |s, v| {
            s.lane_timeout = positive_seconds(v)?;
            Ok(())
        },
    ),
    row(
        "HOT_IDLE_TIMEOUT",
        "0",
        "Idle time, in seconds, after which the hot worker frees the model; 0: never.",
        |s, v| {
            s.hot_idle_timeout = Some(seconds(v)?).filter(|limit| !limit.is_zero());
            Ok(())
        },
    ),
    row(
        "WORKER_MAX_CHUNKS",
        "1000",
        "Number of chunks after which a worker is replaced; 0: never.",
        |s, v| {
            let chunks = number(v, 0, 1_000_000_000, "a whole number from 0")?;
            s.worker_max_chunks = Some(chunks).filter(|chunks| *chunks > 0);
            Ok(())
        },
    ),
    row(
        "WORKER_MAX_MEMORY_MB",
        "0",
        "Resident memory, in MB, above which a worker is replaced; 0: no limit.",
        |s, v| {
            let megabytes: u64 = number(v, 0, 100_000_000, "a whole number of MB from 0")?;
            s.worker_max_memory = Some(megabytes * MEGABYTE).filter(|bytes| *bytes > 0);
            Ok(())
        },
    ),
];
