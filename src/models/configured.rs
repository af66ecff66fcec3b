//! The model that the settings name, as the source for the launcher of workers.

use std::time::Duration;

use async_trait::async_trait;
use tracing::info;

use super::store::start_time;
use super::{ComputeType, Logged, ModelStore, find};
use crate::engine::process::{ModelSource, ReadyModel};
use crate::settings::Settings;

/// Meaning of `auto` without a GPU: the largest model that an ordinary CPU runs much faster than real time.
const AUTO_ON_CPU: &str = "base";
/// Choices of `auto` on a GPU, the largest first. The large ones are left out: `turbo` cannot translate.
const AUTO_ON_GPU: [&str; 3] = ["medium", "small", "base"];
/// Workers that should fit the memory of a GPU, with a quarter left for other programs. The total counts, and not what
/// is free now, so that a restart never changes the model.
const WORKERS_ON_GPU: u64 = 2;

/// The configured model. Every launch of a worker looks for it, so that a model that is added later is found.
/// A missing catalogue model is fetched.
#[derive(Debug)]
pub struct ConfiguredModel {
    store: ModelStore,
    model: String,
    compute: Option<ComputeType>,
    /// `COLD_START_TIME_SECONDS`, if it is set.
    configured_start: Option<Duration>,
}

impl ConfiguredModel {
    /// The model of the settings. `vram`: all memory of the GPU in bytes, if inference runs on one.
    pub fn new(settings: &Settings, vram: Option<u64>) -> Self {
        let named = settings.whisper_model.as_str();
        if named != "auto" {
            return Self::named(settings, named);
        }
        let model = automatic(vram);
        let vram_mib = vram.map(|bytes| bytes >> 20);
        info!(
            model,
            vram_mib, "WHISPER_MODEL is auto: chose a model for the device"
        );
        Self::named(settings, model)
    }

    /// This model, in the folder and number format of the settings.
    pub fn named(settings: &Settings, model: &str) -> Self {
        let fp32 = (!settings.whisper_fp16).then_some(ComputeType::Float32);
        Self {
            store: ModelStore::new(settings.models_dir.clone()),
            model: model.to_owned(),
            compute: settings.compute_type.or(fp32),
            configured_start: settings
                .is_set("COLD_START_TIME_SECONDS")
                .then_some(settings.cold_start_time),
        }
    }
}

#[async_trait]
impl ModelSource for ConfiguredModel {
    async fn ready_model(&self) -> Result<ReadyModel, String> {
        let resolved = self
            .store
            .ensure(&self.model, self.compute, &Logged::default())
            .await
            .map_err(|error| error.to_string())?;
        Ok(ReadyModel {
            name: resolved.name,
            path: resolved.path,
        })
    }

    fn expected_start(&self) -> Option<Duration> {
        let file_bytes = self.store.bytes_on_disk(&self.model)?;
        let last = self.store.last_start(&self.model);
        let by_size = start_time::estimate(file_bytes);
        Some(last.or(self.configured_start).unwrap_or(by_size))
    }

    fn record_start(&self, took: Duration) {
        self.store.record_start(&self.model, took);
    }
}

/// The model that `auto` means. `vram`: all memory of the GPU in bytes, if inference runs on one.
pub fn automatic(vram: Option<u64>) -> &'static str {
    vram.map_or(AUTO_ON_CPU, automatic_on_gpu)
}

/// The largest model of which enough workers fit a GPU with this memory, in bytes.
fn automatic_on_gpu(vram: u64) -> &'static str {
    let fits = |name: &&&str| {
        let need = find(name).map_or(u64::MAX, |model| model.memory_bytes() * WORKERS_ON_GPU);
        need <= vram / 4 * 3
    };
    AUTO_ON_GPU
        .iter()
        .find(fits)
        .copied()
        .unwrap_or(AUTO_ON_CPU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_gpu_decides_which_model_auto_means() {
        let model = |gigabytes: u64| automatic_on_gpu(gigabytes << 30);
        let chosen = [0, 1, 2, 4, 6, 8, 12, 24, 80].map(model);
        let expected = [
            "base", "base", "base", "small", "medium", "medium", "medium", "medium", "medium",
        ];
        assert_eq!(chosen, expected);
    }
}
