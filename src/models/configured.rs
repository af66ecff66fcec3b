//! The model that the settings name, as the workers' launcher asks for it.

use async_trait::async_trait;
use tracing::info;

use super::{ComputeType, Logged, ModelStore};
use crate::BUILT_FOR_GPU;
use crate::engine::process::{ModelSource, ReadyModel};
use crate::settings::{Device, Settings};

/// What `auto` means without a GPU: the largest model that a plain CPU runs well ahead of speech.
const AUTO_ON_CPU: &str = "base";

/// The configured model. It is looked for at every launch of a worker, so that one that is put
/// there later is found; a catalogue model that is missing is fetched.
#[derive(Debug)]
pub struct ConfiguredModel {
    store: ModelStore,
    model: String,
    compute: Option<ComputeType>,
}

impl ConfiguredModel {
    /// By the settings.
    pub fn new(settings: &Settings) -> Self {
        let model = match settings.whisper_model.as_str() {
            "auto" => {
                info!(
                    model = AUTO_ON_CPU,
                    "WHISPER_MODEL is auto: chosen by device"
                );
                AUTO_ON_CPU.to_owned()
            }
            named => named.to_owned(),
        };
        Self::named(settings, &model)
    }

    /// This one, stored as the settings have it.
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
