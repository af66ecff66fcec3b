//! How many workers fit the machine.

use tracing::{info, warn};

use crate::settings::Settings;

/// ggml gains little from more threads with a small model.
const MAX_DEFAULT_THREADS: usize = 8;
/// Threads of all lanes per core. While one lane runs a single-threaded part, another lane uses the
/// remaining cores: on two cores, two lanes of two threads take 0.75 to 0.79 of the time of one lane,
/// and a third lane gains nothing (`examples/measure_lanes.rs`).
const THREADS_PER_CORE: usize = 2;

/// Maximum number of cold workers. On a CPU, workers share the cores: unless `COLD_POOL_SIZE` is set,
/// the pool has no more workers than the cores can use.
pub(super) fn pool_size(settings: &Settings, lanes: Option<usize>) -> usize {
    let mut size = settings.cold_pool_size as usize;
    if let Some(lanes) = lanes
        && !settings.is_set("COLD_POOL_SIZE")
    {
        size = size.min(lanes.saturating_sub(1));
    }
    // The hot worker, and the worker of the fallback model.
    let fallback = settings.fallback_url.is_none() && settings.fallback_model.is_some();
    let others = 1 + usize::from(fallback);
    let most = settings.max_concurrency.map(|most| most as usize);
    let size = size.min(most.map_or(usize::MAX, |most| most.saturating_sub(others)));
    if let Some(most) = most.filter(|most| *most > size + others) {
        info!(
            max_concurrency = most,
            workers = size + others,
            "MAX_CONCURRENCY is above the number of workers, which only COLD_POOL_SIZE raises"
        );
    }
    size
}

/// Threads of a worker, at most one per core: more would only compete for the cores.
pub(super) fn threads(settings: &Settings, cores: usize) -> u32 {
    let most = cores as u32;
    let wanted = settings.whisper_threads;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        warn!(
            wanted,
            cores, "WHISPER_THREADS is limited to the number of cores"
        );
    }
    wanted.unwrap_or(MAX_DEFAULT_THREADS as u32).min(most)
}

/// How many lanes with this number of threads a CPU supports, the hot one included.
pub(super) fn default_lanes(cores: usize, threads: u32) -> usize {
    let lanes = THREADS_PER_CORE * cores / threads.max(1) as usize;
    lanes.clamp(1, cores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            command_line: pairs.iter().map(pair).collect(),
            ..Sources::default()
        };
        Settings::load(&sources).expect("loads").settings
    }

    #[test]
    fn a_cpu_gets_as_many_lanes_as_its_cores_can_use() {
        let lanes = |cores| default_lanes(cores, threads(&Settings::default(), cores));
        assert_eq!([1, 2, 4, 8, 16, 64].map(lanes), [1, 2, 2, 2, 4, 16]);
        assert_eq!(default_lanes(2, 1), 2);
    }

    #[test]
    fn an_explicit_pool_size_applies_on_a_cpu_and_concurrency_limits_it() {
        assert_eq!(pool_size(&settings(&[]), Some(2)), 1);
        assert_eq!(pool_size(&settings(&[]), None), 10);
        assert_eq!(
            pool_size(&settings(&[("COLD_POOL_SIZE", "10")]), Some(2)),
            10
        );
        assert_eq!(pool_size(&settings(&[("COLD_POOL_SIZE", "0")]), None), 0);
        assert_eq!(pool_size(&settings(&[("MAX_CONCURRENCY", "3")]), None), 2);
        assert_eq!(pool_size(&settings(&[("MAX_CONCURRENCY", "1")]), None), 0);
    }
}
