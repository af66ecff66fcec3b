//! The GPUs that this build can compute on, as ggml sees them.
//!
//! A driver may crash, hang or take memory, so the server does not ask it: a process of its own does
//! (`uttera-stt devices`), once at the start, and one that stays for the free memory ([`DeviceProbe`]).

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stt_actors::ports::{MemoryKind, MemorySample, ProbeError, VramProbe};

use crate::engine::own_executable;
use crate::engine::process::environment;
use crate::host_memory::{gpu_bytes, private_bytes};

/// How long the drivers may take to list their devices: seconds if a GPU has to wake up.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// A GPU. Its place in the list is its index (`DEVICE_INDEX`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The name that ggml gives it, for example `Vulkan0`.
    pub name: String,
    /// The name that its driver gives it.
    pub description: String,
    /// Free memory, in bytes.
    pub free: u64,
    /// All memory, in bytes.
    pub total: u64,
}

impl Device {
    /// Name and description.
    pub fn title(&self) -> String {
        title(&self.name, &self.description)
    }

    /// Whether it computes on the CPU: Mesa's llvmpipe, which other programs of its kind are named after too.
    pub fn is_software(&self) -> bool {
        let description = self.description.to_ascii_lowercase();
        ["llvmpipe", "swiftshader"]
            .iter()
            .any(|name| description.contains(name))
    }
}

fn title(name: &str, description: &str) -> String {
    format!("{description} ({name})")
}

/// Name and description of the GPU with this index, without a question about its memory, for which CUDA would take
/// memory of every GPU.
///
/// # Errors
/// The message says that it is not there, or why.
pub fn title_of(index: u32) -> Result<String, String> {
    check()?;
    #[cfg(any(feature = "cuda", feature = "vulkan"))]
    if let Some(device) = ggml::devices().nth(index as usize) {
        return Ok(title(&ggml::name(device), &ggml::description(device)));
    }
    Err(format!("there is no GPU with the index {index} any more"))
}

/// Whether this build and the drivers support a GPU.
fn check() -> Result<(), String> {
    if !crate::BUILT_FOR_GPU {
        return Err("this build supports only the CPU".to_owned());
    }
    #[cfg(feature = "cuda")]
    crate::engine::cuda::check()?;
    Ok(())
}

/// The GPUs that this process can use. Drivers may crash it: see [`find_all`].
///
/// # Errors
/// The message says why there is none.
pub fn list() -> Result<Vec<Device>, String> {
    check()?;
    #[cfg(any(feature = "cuda", feature = "vulkan"))]
    let found: Vec<Device> = ggml::devices().map(ggml::described).collect();
    #[cfg(not(any(feature = "cuda", feature = "vulkan")))]
    let found = Vec::new();
    if found.is_empty() {
        return Err("the drivers report no GPU".to_owned());
    }
    Ok(found)
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
mod ggml {
    use std::ffi::{CStr, c_char};

    use whisper_rs::whisper_rs_sys as sys;

    use super::Device;

    /// The GPUs in the order in which whisper.cpp counts them.
    pub fn devices() -> impl Iterator<Item = sys::ggml_backend_dev_t> {
        // SAFETY: the registry of ggml's devices lives as long as the process.
        let count = unsafe { sys::ggml_backend_dev_count() };
        // SAFETY: the index is below the count.
        let all = (0..count).map(|index| unsafe { sys::ggml_backend_dev_get(index) });
        all.filter(|device| {
            // SAFETY: devices live as long as the process.
            let kind = unsafe { sys::ggml_backend_dev_type(*device) };
            kind == sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_GPU
                || kind == sys::ggml_backend_dev_type_GGML_BACKEND_DEVICE_TYPE_IGPU
        })
    }

    pub fn name(device: sys::ggml_backend_dev_t) -> String {
        // SAFETY: devices and their texts live as long as the process.
        text(unsafe { sys::ggml_backend_dev_name(device) })
    }

    pub fn description(device: sys::ggml_backend_dev_t) -> String {
        // SAFETY: as above.
        text(unsafe { sys::ggml_backend_dev_description(device) })
    }

    pub fn described(device: sys::ggml_backend_dev_t) -> Device {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the device lives as long as the process, and both places are valid.
        unsafe { sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total) };
        Device {
            name: name(device),
            description: description(device),
            free: free as u64,
            total: total as u64,
        }
    }

    fn text(text: *const c_char) -> String {
        // SAFETY: ggml returns texts that end with a zero.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }
}

/// Writes the devices as a line of JSON for each line that it reads.
///
/// # Errors
/// Standard input or output failed.
pub fn answer() -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        line?;
        serde_json::to_writer(&mut output, &list())?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// The GPUs that workers can use, as a process of its own reports them.
///
/// # Errors
/// The message says why there is none.
pub async fn find_all() -> Result<Vec<Device>, String> {
    let executable =
        own_executable().map_err(|error| format!("this program does not find itself: {error}"))?;
    ask(&executable).await
}

/// The GPU with this index, as a process of its own reports it.
///
/// # Errors
/// The message says why there is none.
pub async fn find(index: u32) -> Result<Device, String> {
    let found = find_all().await?;
    let count = found.len();
    let wanted = found.into_iter().nth(index as usize);
    wanted.ok_or_else(|| format!("there is none with DEVICE_INDEX={index} (GPUs: {count})"))
}

/// Asks a process of its own for the devices. `executable`: this program.
async fn ask(executable: &Path) -> Result<Vec<Device>, String> {
    let mut command = tokio::process::Command::from(command(executable));
    command.stdin(Stdio::piped()).kill_on_drop(true);
    let answer = async {
        let mut child = command.spawn()?;
        if let Some(mut question) = child.stdin.take() {
            // A process that has crashed reads nothing; its exit status says so.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut question, b"\n").await;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(LIST_LIMIT, answer).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("the devices cannot be listed: {error}")),
        Err(_elapsed) => {
            let seconds = LIST_LIMIT.as_secs();
            return Err(format!(
                "the drivers gave no list of devices within {seconds} s"
            ));
        }
    };
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Err(format!("a driver failed ({})", output.status)))
}

/// The process that [`answer`]s.
fn command(executable: &Path) -> Command {
    let mut command = Command::new(executable);
    command
        .args(["devices", "--answer"])
        .env_clear()
        .envs(environment())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Samples the memory of a GPU through a process of its own, which is started again if it ends.
pub struct DeviceProbe {
    executable: PathBuf,
    index: usize,
    asked: Mutex<Option<Asked>>,
}

/// The process that is asked.
struct Asked {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Asked {
    fn start(executable: &Path) -> anyhow::Result<Self> {
        let mut child = command(executable).stdin(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (questions, answers) = pipes.context("the process has no pipes")?;
        Ok(Self {
            child,
            questions,
            answers: BufReader::new(answers),
        })
    }

    fn devices(&mut self) -> anyhow::Result<Result<Vec<Device>, String>> {
        // A process that has ended reads nothing, and answers nothing.
        let _ = self.questions.write_all(b"\n");
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the process that asks the driver ended");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl DeviceProbe {
    /// A probe of the GPU with this index. `executable`: this program.
    pub fn new(executable: PathBuf, index: u32) -> Self {
        Self {
            executable,
            index: index as usize,
            asked: Mutex::new(None),
        }
    }

    fn device(&self) -> anyhow::Result<Device> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let process = match &mut *asked {
            Some(process) => process,
            None => asked.insert(Asked::start(&self.executable)?),
        };
        let answer = process.devices();
        if answer.is_err() {
            // The next sample starts a new one.
            *asked = None;
        }
        let mut devices = answer?.map_err(anyhow::Error::msg)?;
        if self.index >= devices.len() {
            bail!("the GPU is gone");
        }
        Ok(devices.swap_remove(self.index))
    }
}

impl VramProbe for DeviceProbe {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Vram
    }

    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError> {
        let device = (self.device()).map_err(|error| ProbeError(format!("{error:#}")))?;
        let used = |process| {
            if device.is_software() {
                private_bytes(process)
            } else {
                gpu_bytes(process)
            }
        };
        Ok(MemorySample {
            free: device.free.min(device.total),
            total: device.total,
            utilization_percent: None,
            used_by_process: processes
                .iter()
                .filter_map(|&process| Some((process, used(process)?)))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn device(description: &str) -> Device {
        Device {
            name: "Vulkan0".to_owned(),
            description: description.to_owned(),
            free: 3,
            total: 4,
        }
    }

    /// A program that does this in place of the answers.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("sets");
        path
    }

    fn line(answer: &Result<Vec<Device>, String>) -> String {
        serde_json::to_string(answer).expect("JSON")
    }

    #[test]
    fn a_probe_reads_the_device_of_its_index_again_and_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let answer = line(&Ok(vec![device("other"), device("llvmpipe (LLVM 15)")]));
        let script = format!("while read -r line; do printf '%s\\n' '{answer}'; done");
        let probe = DeviceProbe::new(program(folder.path(), &script), 1);
        let own = std::process::id();
        for _ in 0..3 {
            let sample = probe.sample(&[own, u32::MAX]).expect("a sample");
            assert_eq!((sample.free, sample.total), (3, 4));
            assert_eq!(sample.used_by_process.len(), 1, "{sample:?}");
        }
    }

    #[test]
    fn a_process_that_ends_is_an_error_and_is_started_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let answer = line(&Ok(vec![device("a GPU")]));
        let script = format!(
            "read -r line; [ -e '{0}' ] && printf '%s\\n' '{answer}'; : > '{0}'",
            folder.path().join("second").display()
        );
        let probe = DeviceProbe::new(program(folder.path(), &script), 0);
        let error = probe.sample(&[]).expect_err("it ended");
        assert!(error.0.contains("ended"), "{error}");
        assert_eq!(probe.sample(&[]).expect("a sample").free, 3);
    }

    #[test]
    fn what_the_driver_says_and_garbage_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = line(&Err("there is no driver".to_owned()));
        for (answer, expected) in [(refused.as_str(), "there is no driver"), ("garbage", "")] {
            let script = format!("read -r line; printf '%s\\n' '{answer}'");
            let probe = DeviceProbe::new(program(folder.path(), &script), 0);
            let error = probe.sample(&[]).expect_err(answer);
            assert!(error.0.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_driver_that_crashes_is_a_reason_to_use_the_cpu() {
        let folder = tempfile::tempdir().expect("a folder");
        let crashing = program(folder.path(), "kill -SEGV $$");
        let error = ask(&crashing).await.expect_err("it crashed");
        assert!(error.contains("a driver failed"), "{error}");
        let answer = line(&Ok(vec![device("a GPU")]));
        let script = format!("read -r line; printf '%s\\n' '{answer}'");
        let devices = ask(&program(folder.path(), &script)).await;
        assert_eq!(devices, Ok(vec![device("a GPU")]));
    }
}
