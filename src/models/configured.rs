//! The model that the settings name, as the source for the launcher of workers.

use async_trait::async_trait;
use tracing::info;

use super::{ComputeType, Logged, ModelStore};
use crate::BUILT_FOR_GPU;
use crate::engine::process::{ModelSource, ReadyModel};
use crate::settings::{Device, Settings};

/// Meaning of `auto` without a GPU: the largest model that an ordinary CPU runs much faster than real time.
const AUTO_ON_CPU: &str = "base";

/// The configured model. Every launch of a worker looks for it, so that a model that is added later is found.
/// A missing catalogue model is fetched.
#[derive(Debug)]
pub struct ConfiguredModel {
    store: ModelStore,
    model: String,
    compute: Option<ComputeType>,
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
}

/// The GPU that workers use; `None`: the CPU.
pub fn gpu(settings: &Settings) -> Option<u32> {
    (BUILT_FOR_GPU && settings.device != Device::Cpu).then_some(settings.device_index)
}
