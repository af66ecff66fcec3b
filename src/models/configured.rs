//! The model that the settings name, as the source for the launcher of workers.

use std::time::Duration;

use async_trait::async_trait;
use tracing::info;

use super::store::start_time;
use super::{ComputeType, Logged, ModelStore};
use crate::BUILT_FOR_GPU;
use crate::engine::process::{ModelSource, ReadyModel};
use crate::settings::{Device, Settings};

/// Meaning of `auto` without a GPU: the largest model that an ordinary CPU runs much faster than real time.
pub const AUTO_ON_CPU: &str = "base";

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
    /// The model of the settings.
    pub fn new(settings: &Settings) -> Self {
        let model = match settings.whisper_model.as_str() {
            "auto" => {
                info!(
                    model = AUTO_ON_CPU,
                    "WHISPER_MODEL is auto: chose a model for the device"
                );
                AUTO_ON_CPU.to_owned()
            }
            named => named.to_owned(),
        };
        Self::named(settings, &model)
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

/// The GPU that workers use; `None`: the CPU.
pub fn gpu(settings: &Settings) -> Option<u32> {
    (BUILT_FOR_GPU && settings.device != Device::Cpu).then_some(settings.device_index)
}
