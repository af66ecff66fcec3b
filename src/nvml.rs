//! GPU memory, read through NVIDIA's management library (NVML), which comes with the driver.
//!
//! The library is loaded at run time, so one build works with and without a driver, and finds a driver
//! that is installed or restarted later. NVML numbers GPUs by PCI bus order and ignores
//! `CUDA_VISIBLE_DEVICES`; this module applies that variable itself. An index means the same GPU as in
//! CUDA if `CUDA_DEVICE_ORDER` is `PCI_BUS_ID` or all GPUs are alike.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use stt_actors::ports::{MemoryKind, MemorySample, ProbeError, VramProbe};
use tokio::time::Instant;

/// Names and paths that are tried, in this order. The last one is for WSL, whose folder the loader may
/// not search.
const LIBRARIES: &[&str] = &[
    "libnvidia-ml.so.1",
    "libnvidia-ml.so",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// Shortest interval between two starts of the library. A start takes milliseconds to seconds (the
/// driver may have to wake the GPU), and a missing or broken driver is rarely repaired faster.
const START_INTERVAL: Duration = Duration::from_secs(30);

/// Samples the memory of one NVIDIA GPU. The first sample loads the library.
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
        /// `None`: no start was tried yet.
        last_start: Option<Instant>,
    },
}

/// Why a sample failed.
struct Fault {
    text: String,
    /// Whether the library must be restarted before it can answer.
    restart: bool,
}

/// How NVML identifies a GPU.
#[derive(Debug, PartialEq, Eq)]
enum GpuName {
    /// Index in PCI bus order.
    Index(u32),
    /// UUID or a prefix of it.
    Uuid(String),
}

impl NvmlProbe {
    /// A probe of the GPU that CUDA programs see as `device_index` (from 0) in this environment.
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

    /// Replaces the paths or names of the library that are tried, in this order.
    #[must_use]
    pub fn with_libraries(mut self, libraries: Vec<PathBuf>) -> Self {
        self.libraries = libraries;
        self
    }

    /// Replaces the value of `CUDA_VISIBLE_DEVICES`; `None`: not set.
    #[must_use]
    pub fn with_visible_devices(mut self, visible_devices: Option<String>) -> Self {
        self.visible_devices = visible_devices;
        self
    }

    fn read(&self, nvml: &Nvml, processes: &[u32]) -> Result<MemorySample, Fault> {
        let name = gpu_name(self.visible_devices.as_deref(), self.device_index)?;
        let device = match &name {
            GpuName::Index(index) => device_by_index(nvml, *index)?,
            GpuName::Uuid(uuid) => device_by_uuid(nvml, uuid)?,
        };
        let memory = device
            .memory_info()
            .map_err(|e| Fault::of_call("cannot read the GPU's memory", &e))?;
        Ok(MemorySample {
            free: memory.free,
            total: memory.total,
            // Not every GPU measures it.
            utilization_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
            used_by_process: used_by_process(&device, processes)?,
        })
    }
}

impl VramProbe for NvmlProbe {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Vram
    }

    /// After an error that needs a restart of the library, returns that error until the next start is
    /// due.
    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        let (nvml, last_start) = driver.started(&self.libraries)?;
        self.read(nvml, processes).map_err(|fault| {
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
    /// The library and the time of its start. Starts it if it is down and a start is due.
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

/// Starts the first library that works. The error of a library that exists takes precedence over those
/// of missing ones.
fn start(libraries: &[PathBuf]) -> Result<Box<Nvml>, ProbeError> {
    let mut missing = None;
    let mut broken = None;
    for path in libraries {
        match Nvml::builder().lib_path(path.as_os_str()).init() {
            Ok(nvml) if nvml.lib().nvmlShutdown.is_err() => {
                // Dropping it would call the missing function, and the wrapper would panic. Leak it: it
                // is small, and no driver has such a library.
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
        (None, None) => "no path of the NVIDIA driver's library is configured".to_owned(),
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

    /// A fault that a restart of the library would not repair.
    fn of_choice(text: String) -> Self {
        Self {
            text,
            restart: false,
        }
    }
}

/// The GPU that CUDA sees as `device_index` with this `CUDA_VISIBLE_DEVICES`. As in CUDA, the first
/// invalid entry ends the list.
fn gpu_name(visible_devices: Option<&str>, device_index: u32) -> Result<GpuName, Fault> {
    let Some(list) = visible_devices else {
        return Ok(GpuName::Index(device_index));
    };
    usize::try_from(device_index)
        .ok()
        .and_then(|index| list.split(',').map_while(entry).nth(index))
        .ok_or_else(|| {
            Fault::of_choice(format!(
                "CUDA_VISIBLE_DEVICES ({list:?}) has no GPU with index {device_index}"
            ))
        })
}

/// Parses an entry of `CUDA_VISIBLE_DEVICES`.
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
            "there is no GPU with index {index}: the driver reports {count} GPUs, numbered from 0"
        )));
    }
    opened.map_err(|e| Fault::of_call(&format!("cannot open the GPU with index {index}"), &e))
}

/// Opens a GPU by its UUID or, as in CUDA, by an unambiguous prefix of it.
fn device_by_uuid<'n>(nvml: &'n Nvml, uuid: &str) -> Result<Device<'n>, Fault> {
    let failed =
        |e: NvmlError| Fault::of_call(&format!("cannot open the GPU with UUID {uuid}"), &e);
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

/// GPU memory of those `processes` that the driver lists. A process that computes and draws is in both
/// lists, each time with its total.
fn used_by_process(device: &Device<'_>, processes: &[u32]) -> Result<Vec<(u32, u64)>, Fault> {
    if processes.is_empty() {
        return Ok(Vec::new());
    }
    let mut listed = or_empty(device.running_compute_processes())?;
    listed.extend(or_empty(device.running_graphics_processes())?);
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

/// An empty list if this driver or GPU cannot list processes, or not for this user: free memory is
/// useful without it.
fn or_empty(list: Result<Vec<ProcessInfo>, NvmlError>) -> Result<Vec<ProcessInfo>, Fault> {
    match list {
        Err(
            NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_),
        ) => Ok(Vec::new()),
        list => list.map_err(|e| Fault::of_call("cannot list the GPU's processes", &e)),
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
    fn without_cuda_visible_devices_the_index_is_that_of_the_driver() {
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
    fn a_gpu_that_cuda_visible_devices_hides_is_not_sampled() {
        for hidden in ["", "-1", "none", "0", "-1,0,1", "0,-1,1", "0,,1", "0,x,1"] {
            assert_eq!(named(Some(hidden), 1), None, "{hidden:?}");
        }
        let text = gpu_name(Some("0"), 1).expect_err("hidden").text;
        assert!(text.contains("CUDA_VISIBLE_DEVICES"), "{text}");
    }

    proptest! {
        #[test]
        fn no_value_of_cuda_visible_devices_panics(list in ".*", index in any::<u32>()) {
            let _ = gpu_name(Some(&list), index);
        }
    }
}
