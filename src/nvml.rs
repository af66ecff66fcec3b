//! GPU memory through NVIDIA's management library (NVML), which comes with the driver.
//!
//! The library is loaded at run time, so one build works with and without a driver, and a driver
//! that is installed or restarted later is found. NVML counts GPUs by their place on the PCI bus,
//! whatever `CUDA_VISIBLE_DEVICES` says: that variable is followed here, and so CUDA's index means
//! the same GPU if `CUDA_DEVICE_ORDER` is `PCI_BUS_ID` or the GPUs are alike.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use stt_actors::ports::{MemoryKind, MemorySample, ProbeError, VramProbe};
use tokio::time::Instant;

/// Where the library is looked for, in this order. WSL keeps it where the loader may not look.
const LIBRARIES: &[&str] = &[
    "libnvidia-ml.so.1",
    "libnvidia-ml.so",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// Between two starts of the library. One costs from milliseconds to seconds (the driver may have
/// to wake the GPU), and a driver that is missing or broken is rarely mended faster.
const START_INTERVAL: Duration = Duration::from_secs(30);

/// Looks at the memory of one NVIDIA GPU. Nothing is loaded before the first sample.
pub struct NvmlProbe {
    device_index: u32,
    visible_devices: Option<String>,
    libraries: Vec<PathBuf>,
    driver: Mutex<Driver>,
}

/// The driver's library.
enum Driver {
    Started {
        nvml: Box<Nvml>,
        at: Instant,
    },
    Down {
        why: ProbeError,
        /// `None`: it was never tried.
        last_start: Option<Instant>,
    },
}

/// Why a look gave nothing.
struct Fault {
    text: String,
    /// Whether the library has to be started anew before it can answer.
    restart: bool,
}

/// Which GPU, as NVML names it.
#[derive(Debug, PartialEq, Eq)]
enum GpuName {
    /// By place on the PCI bus.
    Index(u32),
    /// By UUID, of which the beginning is enough.
    Uuid(String),
}

impl NvmlProbe {
    /// Of the GPU that CUDA programs started from this environment see under `device_index`, from
    /// 0.
    pub fn new(device_index: u32) -> Self {
        Self {
            device_index,
            visible_devices: std::env::var_os("CUDA_VISIBLE_DEVICES")
                .map(|list| list.to_string_lossy().into_owned()),
            libraries: LIBRARIES.iter().map(PathBuf::from).collect(),
            driver: Mutex::new(Driver::Down {
                why: ProbeError("the NVIDIA driver's library is not loaded".to_owned()),
                last_start: None,
            }),
        }
    }

    /// Looks for the library here only: paths, or names that the system's loader knows. The first
    /// that starts is used.
    #[must_use]
    pub fn with_libraries(mut self, libraries: Vec<PathBuf>) -> Self {
        self.libraries = libraries;
        self
    }

    /// Takes this in place of the environment's `CUDA_VISIBLE_DEVICES`; `None`: not set.
    #[must_use]
    pub fn with_visible_devices(mut self, visible_devices: Option<String>) -> Self {
        self.visible_devices = visible_devices;
        self
    }

    fn look(&self, nvml: &Nvml, processes: &[u32]) -> Result<MemorySample, Fault> {
        let name = gpu_name(self.visible_devices.as_deref(), self.device_index)?;
        let device = match &name {
            GpuName::Index(index) => device_by_index(nvml, *index)?,
            GpuName::Uuid(uuid) => device_by_uuid(nvml, uuid)?,
        };
        let memory = device
            .memory_info()
            .map_err(|e| Fault::of_call("the GPU's memory cannot be read", &e))?;
        Ok(MemorySample {
            free: memory.free,
            total: memory.total,
            // Not every GPU counts it.
            utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            used_by_process: used_by_process(&device, processes)?,
        })
    }
}

impl VramProbe for NvmlProbe {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Vram
    }

    /// An error that only a new start of the library can mend is answered until that is due.
    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let (nvml, last_start) = driver.started(&self.libraries)?;
        self.look(nvml, processes).map_err(|fault| {
            let error = ProbeError(fault.text);
            if fault.restart {
                *driver = Driver::Down {
                    why: error.clone(),
                    last_start: Some(last_start),
                };
            }
            error
        })
    }
}

impl Driver {
    /// The library, started if need be and if that is due, and when it was started.
    fn started(&mut self, libraries: &[PathBuf]) -> Result<(&Nvml, Instant), ProbeError> {
        if let Self::Down { last_start, .. } = self
            && last_start.is_none_or(|at| at.elapsed() >= START_INTERVAL)
        {
            let at = Instant::now();
            *self = match start(libraries) {
                Ok(nvml) => Self::Started { nvml, at },
                Err(why) => Self::Down {
                    why,
                    last_start: Some(at),
                },
            };
        }
        match self {
            Self::Started { nvml, at } => Ok((nvml, *at)),
            Self::Down { why, .. } => Err(why.clone()),
        }
    }
}

/// Starts the first of these that starts. What is said of a library that is there counts for more
/// than that others are missing.
fn start(libraries: &[PathBuf]) -> Result<Box<Nvml>, ProbeError> {
    let mut missing = None;
    let mut broken = None;
    for path in libraries {
        match Nvml::builder().lib_path(path.as_os_str()).init() {
            Ok(nvml) if nvml.lib().nvmlShutdown.is_err() => {
                // Dropping it would call what is not there, which the wrapper answers with a panic.
                // It leaks instead: little, and no driver comes with such a library.
                std::mem::forget(nvml);
                broken.get_or_insert(format!("{} is not NVML", path.display()));
            }
            Ok(nvml) => return Ok(Box::new(nvml)),
            Err(error @ NvmlError::LibloadingError(_)) => {
                missing.get_or_insert(error.to_string());
            }
            Err(error) => {
                broken.get_or_insert(error.to_string());
            }
        }
    }
    Err(ProbeError(match (broken, missing) {
        (Some(why), _) => format!("the NVIDIA driver's library does not start: {why}"),
        (None, Some(why)) => format!("the NVIDIA driver's library cannot be loaded: {why}"),
        (None, None) => "there is no place to look for the NVIDIA driver's library".to_owned(),
    }))
}

impl Fault {
    fn of_call(what: &str, error: &NvmlError) -> Self {
        Self {
            text: format!("{what}: {error}"),
            restart: matches!(
                error,
                NvmlError::Uninitialized
                    | NvmlError::DriverNotLoaded
                    | NvmlError::GpuLost
                    | NvmlError::ResetRequired
                    | NvmlError::LibRmVersionMismatch
                    | NvmlError::OperatingSystem
                    | NvmlError::Unknown
            ),
        }
    }

    /// One that a new start would not mend.
    fn of_choice(text: String) -> Self {
        Self {
            text,
            restart: false,
        }
    }
}

/// The GPU that CUDA shows as `device_index` under this `CUDA_VISIBLE_DEVICES`. As in CUDA, the
/// first entry that names no GPU ends the list.
fn gpu_name(visible_devices: Option<&str>, device_index: u32) -> Result<GpuName, Fault> {
    let Some(list) = visible_devices else {
        return Ok(GpuName::Index(device_index));
    };
    usize::try_from(device_index)
        .ok()
        .and_then(|place| list.split(',').map_while(entry).nth(place))
        .ok_or_else(|| {
            Fault::of_choice(format!(
                "CUDA_VISIBLE_DEVICES ({list:?}) shows no GPU with index {device_index}"
            ))
        })
}

/// One entry of `CUDA_VISIBLE_DEVICES`.
fn entry(text: &str) -> Option<GpuName> {
    let text = text.trim();
    if text.starts_with("GPU-") || text.starts_with("MIG-") {
        return Some(GpuName::Uuid(text.to_owned()));
    }
    text.parse().ok().map(GpuName::Index)
}

fn device_by_index(nvml: &Nvml, index: u32) -> Result<Device<'_>, Fault> {
    let opened = nvml.device_by_index(index);
    if let Err(NvmlError::InvalidArg) = opened
        && let Ok(count) = nvml.device_count()
    {
        return Err(Fault::of_choice(format!(
            "there is no GPU with index {index}: the driver shows {count}, counted from 0"
        )));
    }
    opened.map_err(|e| Fault::of_call(&format!("the GPU with index {index} cannot be opened"), &e))
}

/// By the whole UUID or, as CUDA has it, by as much of its beginning as belongs to one GPU alone.
fn device_by_uuid<'n>(nvml: &'n Nvml, uuid: &str) -> Result<Device<'n>, Fault> {
    let failed =
        |e: NvmlError| Fault::of_call(&format!("the GPU with UUID {uuid} cannot be opened"), &e);
    match nvml.device_by_uuid(uuid) {
        Err(NvmlError::NotFound | NvmlError::InvalidArg) => {}
        opened => return opened.map_err(failed),
    }
    let mut found = None;
    for index in 0..nvml.device_count().map_err(failed)? {
        let device = nvml.device_by_index(index).map_err(failed)?;
        if device.uuid().map_err(failed)?.starts_with(uuid) && found.replace(device).is_some() {
            return Err(Fault::of_choice(format!(
                "several GPUs have a UUID that begins with {uuid}"
            )));
        }
    }
    found.ok_or_else(|| Fault::of_choice(format!("there is no GPU with UUID {uuid}")))
}

/// What those of `processes` hold of which the driver tells it. A process that computes and draws
/// is in both lists, each time with all that it holds.
fn used_by_process(device: &Device<'_>, processes: &[u32]) -> Result<Vec<(u32, u64)>, Fault> {
    if processes.is_empty() {
        return Ok(Vec::new());
    }
    let mut listed = if_told(device.running_compute_processes())?;
    listed.extend(if_told(device.running_graphics_processes())?);
    let used_by = |process: u32| {
        listed
            .iter()
            .filter(|info| info.pid == process)
            .filter_map(|info| match info.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            })
            .max()
    };
    Ok(processes
        .iter()
        .filter_map(|&process| Some((process, used_by(process)?)))
        .collect())
}

/// No list where this driver or this GPU has none to give, or not to us: free memory is worth
/// knowing without it.
fn if_told(list: Result<Vec<ProcessInfo>, NvmlError>) -> Result<Vec<ProcessInfo>, Fault> {
    match list {
        Err(
            NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Ok(Vec::new()),
        list => list.map_err(|e| Fault::of_call("the GPU's processes cannot be listed", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(visible_devices: Option<&str>, device_index: u32) -> Option<GpuName> {
        gpu_name(visible_devices, device_index).ok()
    }

    #[test]
    fn without_cuda_visible_devices_the_index_is_the_drivers() {
        assert_eq!(named(None, 3), Some(GpuName::Index(3)));
    }

    #[test]
    fn the_index_counts_the_entries_of_cuda_visible_devices() {
        assert_eq!(named(Some("2,0"), 0), Some(GpuName::Index(2)));
        assert_eq!(named(Some(" 2 , 0 "), 1), Some(GpuName::Index(0)));
        let mixed = Some("1,GPU-8932f937,MIG-41b3");
        assert_eq!(named(mixed, 1), Some(GpuName::Uuid("GPU-8932f937".into())));
        assert_eq!(named(mixed, 2), Some(GpuName::Uuid("MIG-41b3".into())));
    }

    #[test]
    fn a_gpu_that_cuda_visible_devices_hides_is_not_looked_at() {
        for hidden in ["", "-1", "none", "0", "-1,0,1", "0,-1,1", "0,,1", "0,x,1"] {
            assert_eq!(named(Some(hidden), 1), None, "{hidden:?}");
        }
        let text = gpu_name(Some("0"), 1).expect_err("hidden").text;
        assert!(text.contains("CUDA_VISIBLE_DEVICES"), "{text}");
    }

    proptest! {
        #[test]
        fn no_cuda_visible_devices_breaks_the_probe(list in ".*", index in any::<u32>()) {
            let _ = gpu_name(Some(&list), index);
        }
    }
}
