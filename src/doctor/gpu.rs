//! The GPU: what this build supports, and what the machine, the container or Windows provides.

use std::os::unix::fs::MetadataExt;

use nix::unistd::{AccessFlags, Gid, Group, access};

use super::finding::Finding;
use super::machine::Machine;
use crate::engine::devices;
use crate::settings::Device;

const CHECK: &str = "gpu";

/// NVIDIA's number as a maker of PCI devices.
const NVIDIA: &str = "0x10de";
/// Beginning of the PCI class of displays, which GPUs belong to.
const DISPLAYS: &str = "0x03";
/// The driver's library that Windows provides inside WSL.
const WSL_LIBRARY: &str = "/usr/lib/wsl/lib/libnvidia-ml.so.1";

/// GPUs that a build supports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Build {
    cuda: bool,
    vulkan: bool,
}

impl Build {
    /// This build.
    pub(super) const THIS: Self = Self {
        cuda: cfg!(feature = "cuda"),
        vulkan: cfg!(feature = "vulkan"),
    };
}

/// A file in `/dev` through which programs use a GPU.
#[derive(Debug)]
struct DeviceFile {
    path: String,
    /// The group whose members may use it.
    group: Option<String>,
    may_open: bool,
}

/// What the machine shows of GPUs.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about a machine, not states"
)]
struct Seen {
    is_container: bool,
    is_wsl: bool,
    /// A PCI device of NVIDIA that displays.
    has_nvidia_hardware: bool,
    has_nvidia_driver: bool,
    /// `/dev/nvidia0` and so on.
    nvidia: Vec<DeviceFile>,
    /// `/dev/dri/renderD128` and so on.
    render: Vec<DeviceFile>,
    /// `/dev/dxg`: the GPU of Windows.
    has_dxg: bool,
    has_cdi_file: bool,
}

/// The answer of the drivers: the GPU that inference uses, or why none can be used.
pub(super) type Answer = Result<devices::Device, String>;

/// Asks the drivers for the GPU with this index, in a process of its own and with a time limit. `None`: this build or
/// the settings use only the CPU.
pub(super) async fn ask(device: Device, index: u32) -> Option<Answer> {
    if !crate::BUILT_FOR_GPU || device == Device::Cpu {
        return None;
    }
    Some(devices::find(index).await)
}

/// Findings about the GPU: what files in `/dev`, `/proc` and `/sys` show, and the answer of the drivers.
pub(super) fn examine(
    machine: &Machine,
    build: Build,
    device: Device,
    answer: Option<&Answer>,
) -> Vec<Finding> {
    decide(&Seen::on(machine), build, device, answer)
}

impl Seen {
    fn on(machine: &Machine) -> Self {
        let device_files = |folder: &str, prefix: &str| -> Vec<DeviceFile> {
            let names = machine.names(folder).into_iter();
            let names = names.filter(|name| {
                let number = name.strip_prefix(prefix).unwrap_or_default();
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            names
                .map(|name| DeviceFile::at(machine, &format!("{folder}/{name}")))
                .collect()
        };
        let has_nvidia_hardware = machine.names("/sys/bus/pci/devices").iter().any(|name| {
            let file = |file: &str| machine.text(&format!("/sys/bus/pci/devices/{name}/{file}"));
            file("vendor").trim() == NVIDIA && file("class").starts_with(DISPLAYS)
        });
        let has_dxg = machine.has("/dev/dxg");
        let has_cdi_file = ["/etc/cdi", "/var/run/cdi", "/run/cdi"]
            .iter()
            .any(|folder| {
                let names = machine.names(folder);
                let of_cdi = |name: &String| {
                    let extension = name.rsplit('.').next().unwrap_or_default();
                    matches!(extension, "json" | "yaml" | "yml")
                };
                names.iter().any(of_cdi)
            });
        let nvidia = device_files("/dev", "nvidia");
        Self {
            is_container: machine.is_container(),
            is_wsl: machine.is_wsl(),
            has_nvidia_hardware,
            has_nvidia_driver: !nvidia.is_empty()
                || machine.has("/proc/driver/nvidia/version")
                || (has_dxg && machine.has(WSL_LIBRARY)),
            nvidia,
            render: device_files("/dev/dri", "renderD"),
            has_dxg,
            has_cdi_file,
        }
    }
}

impl DeviceFile {
    fn at(machine: &Machine, path: &str) -> Self {
        let place = machine.path(path);
        let group = place.metadata().ok().and_then(|metadata| {
            let group = Group::from_gid(Gid::from_raw(metadata.gid()));
            Some(group.ok()??.name)
        });
        Self {
            path: path.to_owned(),
            group,
            may_open: access(&place, AccessFlags::R_OK | AccessFlags::W_OK).is_ok(),
        }
    }
}

fn decide(seen: &Seen, build: Build, device: Device, answer: Option<&Answer>) -> Vec<Finding> {
    let mut findings = vec![match answer {
        Some(Ok(gpu)) => of_gpu(gpu),
        Some(Err(reason)) => unusable(seen, build, device, reason),
        None if device == Device::Cpu => Finding::ok(CHECK, "not used: DEVICE=cpu"),
        None => idle(seen),
    }];
    if device != Device::Cpu {
        findings.extend(of_permissions(seen, build, device));
        findings.extend(of_wsl(seen, build));
    }
    if seen.has_nvidia_driver && !seen.is_container && !seen.is_wsl && !seen.has_cdi_file {
        let what = "there is no CDI file in /etc/cdi or /var/run/cdi";
        findings.push(
            Finding::note("cdi", what)
                .because("a container gets this NVIDIA GPU only after one was made; without containers, ignore it")
                .mended_by("sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"),
        );
    }
    findings
}

fn of_gpu(gpu: &devices::Device) -> Finding {
    let what = format!("inference runs on {}", gpu.title());
    if !gpu.is_software() {
        return Finding::ok(CHECK, what);
    }
    let why = "the CPU imitates this GPU, which takes longer than inference on the CPU itself";
    Finding::warning(CHECK, what, why)
        .mended_by("DEVICE=cpu, or the driver of the GPU: sudo apt-get install mesa-vulkan-drivers")
}

/// A build for GPUs on a machine where it can use none.
fn unusable(seen: &Seen, build: Build, device: Device, reason: &str) -> Finding {
    let what = format!("no GPU can be used: {reason}");
    let finding = if device == Device::Auto {
        Finding::warning(CHECK, what, "inference runs on the CPU")
    } else {
        let why = "the settings require a GPU (DEVICE), so the server does not start";
        Finding::error(CHECK, what, why)
    };
    let fix = match (seen.is_container, build.cuda) {
        (true, true) => "start the container with --device nvidia.com/gpu=all",
        (true, false) => "start the container with --device /dev/dri",
        _ if seen.is_wsl => {
            "install the driver of the GPU in Windows, none inside WSL, then wsl --shutdown"
        }
        (false, true) if seen.has_nvidia_driver => {
            "nvidia-smi, which shows whether the driver works"
        }
        (false, true) if seen.has_nvidia_hardware => {
            "sudo apt-get install nvidia-driver, then restart the machine"
        }
        (false, true) => "DEVICE=cpu, or a build for this machine: scripts/build",
        (false, false) => "sudo apt-get install mesa-vulkan-drivers; for an NVIDIA GPU, its driver",
    };
    finding.mended_by(fix)
}

/// A build for the CPU, perhaps on a machine with a GPU.
fn idle(seen: &Seen) -> Finding {
    let found = match (seen.has_nvidia_driver, seen.has_nvidia_hardware) {
        (true, _) => Some(("an NVIDIA GPU", "scripts/build --features cuda")),
        (false, true) => Some((
            "an NVIDIA GPU without its driver",
            "sudo apt-get install nvidia-driver, then scripts/build --features cuda",
        )),
        (false, false) if !seen.render.is_empty() => Some((
            "a GPU (/dev/dri/renderD*)",
            "scripts/build --features vulkan",
        )),
        (false, false) => None,
    };
    match found {
        Some((gpu, fix)) => {
            let what = format!("this build uses only the CPU, and the machine has {gpu}");
            Finding::note(CHECK, what)
                .because("a GPU runs larger models, and faster")
                .mended_by(fix)
        }
        None => Finding::ok(CHECK, "none found; this build uses the CPU"),
    }
}

/// Device files that this user may not open.
fn of_permissions(seen: &Seen, build: Build, device: Device) -> Option<Finding> {
    let of_cuda = seen.nvidia.iter().filter(|_| build.cuda);
    let of_vulkan = seen.render.iter().filter(|_| build.vulkan);
    let mut closed = of_cuda.chain(of_vulkan).filter(|file| !file.may_open);
    let DeviceFile { path, group, .. } = closed.next()?;
    let what = format!("this user may not open {path}");
    let why = "the GPU cannot be used without it";
    let finding = match device {
        Device::Cuda | Device::Vulkan => Finding::error(CHECK, what, why),
        Device::Auto | Device::Cpu => Finding::warning(CHECK, what, why),
    };
    let group = group.as_deref().filter(|group| *group != "root");
    let group = group.unwrap_or("render,video");
    Some(finding.mended_by(if seen.is_container {
        format!("start the container with --group-add for the group of {path}")
    } else {
        format!("sudo usermod -aG {group} $USER, then log in again")
    }))
}

fn of_wsl(seen: &Seen, build: Build) -> Option<Finding> {
    const CHECK: &str = "wsl";
    if !seen.is_wsl {
        return None;
    }
    if seen.has_dxg {
        return Some(Finding::ok(
            CHECK,
            "WSL, with the GPU of Windows (/dev/dxg)",
        ));
    }
    let what = "WSL without the GPU of Windows: there is no /dev/dxg";
    if !build.cuda && !build.vulkan {
        return Some(Finding::ok(CHECK, what));
    }
    let why = "only WSL 2 with a current driver in Windows gives programs the GPU";
    let fix = "in Windows: wsl --update, wsl --set-version DISTRIBUTION 2, and the driver of the GPU's maker";
    Some(Finding::warning(CHECK, what, why).mended_by(fix))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::machine::MadeUp;
    use super::*;

    const CPU: Build = Build {
        cuda: false,
        vulkan: false,
    };
    const CUDA: Build = Build {
        cuda: true,
        vulkan: false,
    };
    const VULKAN: Build = Build {
        cuda: false,
        vulkan: true,
    };
    const NVIDIA_CARD: [(&str, &str); 2] = [
        ("/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
        ("/sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n"),
    ];
    const NVIDIA_DRIVER: (&str, &str) = ("/dev/nvidia0", "");
    const RENDER: (&str, &str) = ("/dev/dri/renderD128", "");

    fn no_gpu() -> Answer {
        Err("the drivers report no GPU".to_owned())
    }

    fn gpu(description: &str) -> devices::Device {
        devices::Device {
            name: "Vulkan0".to_owned(),
            description: description.to_owned(),
            free: 1 << 30,
            total: 2 << 30,
        }
    }

    /// As on a machine with these files; drivers are asked by builds for GPUs only, and here they report none.
    fn findings(files: &[(&str, &str)], build: Build, device: Device) -> Vec<Finding> {
        let answer = (build.cuda || build.vulkan).then(no_gpu);
        let answer = answer.filter(|_| device != Device::Cpu);
        examine(
            &MadeUp::new(files).machine(),
            build,
            device,
            answer.as_ref(),
        )
    }

    /// Severity and remedy of the first finding.
    fn first(files: &[(&str, &str)], build: Build, device: Device) -> (Severity, String) {
        let first = findings(files, build, device).swap_remove(0);
        (first.severity, first.fix.unwrap_or_default())
    }

    #[test]
    fn a_build_for_the_cpu_points_to_the_build_for_the_gpu_that_is_there() {
        let fix = |files: &[(&str, &str)]| first(files, CPU, Device::Auto);
        assert_eq!(fix(&[]), (Severity::Ok, String::new()));
        let (severity, text) = fix(&[NVIDIA_DRIVER]);
        assert_eq!(severity, Severity::Note);
        assert_eq!(text, "scripts/build --features cuda");
        assert!(fix(&NVIDIA_CARD).1.contains("nvidia-driver"));
        assert_eq!(fix(&[RENDER]).1, "scripts/build --features vulkan");
        // The files of other things than GPUs.
        let others = [
            ("/dev/nvidiactl", ""),
            ("/dev/nvidia-uvm", ""),
            ("/dev/dri/card0", ""),
        ];
        assert_eq!(fix(&others).0, Severity::Ok);
        assert_eq!(first(&[RENDER], CPU, Device::Cpu).0, Severity::Ok);
    }

    #[test]
    fn a_build_for_gpus_without_one_says_what_gives_it_one() {
        let wsl = ("/proc/version", "5.15-microsoft-standard-WSL2");
        let container = ("/run/.containerenv", "");
        for (build, device, files, expected) in [
            (CUDA, Device::Cuda, &[][..], "DEVICE=cpu"),
            (CUDA, Device::Cuda, &NVIDIA_CARD[..], "nvidia-driver"),
            (CUDA, Device::Cuda, &[NVIDIA_DRIVER][..], "nvidia-smi"),
            (CUDA, Device::Cuda, &[wsl][..], "in Windows"),
            (CUDA, Device::Cuda, &[container][..], "nvidia.com/gpu=all"),
            (VULKAN, Device::Vulkan, &[][..], "mesa-vulkan-drivers"),
            (VULKAN, Device::Vulkan, &[container][..], "/dev/dri"),
        ] {
            let (severity, fix) = first(files, build, Device::Auto);
            assert_eq!(severity, Severity::Warning);
            assert!(fix.contains(expected), "{fix}");
            assert_eq!(first(files, build, device).0, Severity::Error);
            assert_eq!(first(files, build, Device::Cpu).0, Severity::Ok);
        }
    }

    #[test]
    fn a_gpu_that_the_cpu_imitates_is_a_warning() {
        let severity = |description| {
            let answer = Ok(gpu(description));
            let machine = MadeUp::new(&[]).machine();
            let found = examine(&machine, VULKAN, Device::Auto, Some(&answer));
            found[0].severity
        };
        assert_eq!(severity("AMD Radeon RX 7600"), Severity::Ok);
        assert_eq!(severity("llvmpipe (LLVM 15.0.6)"), Severity::Warning);
    }

    #[test]
    fn a_device_file_that_the_user_may_not_open_names_its_group() {
        let closed = |path: &str, group: &str| DeviceFile {
            path: path.to_owned(),
            group: Some(group.to_owned()),
            may_open: false,
        };
        let mut seen = Seen {
            render: vec![closed("/dev/dri/renderD128", "render")],
            ..Seen::default()
        };
        let finding = of_permissions(&seen, VULKAN, Device::Auto).expect("a finding");
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.what, "this user may not open /dev/dri/renderD128");
        let fix = finding.fix.expect("a command");
        assert!(fix.starts_with("sudo usermod -aG render $USER"), "{fix}");
        let required = of_permissions(&seen, VULKAN, Device::Vulkan).expect("a finding");
        assert_eq!(required.severity, Severity::Error);
        // The build does not use it.
        assert_eq!(of_permissions(&seen, CUDA, Device::Auto), None);
        seen.is_container = true;
        let finding = of_permissions(&seen, VULKAN, Device::Auto).expect("a finding");
        assert!(finding.fix.expect("a command").contains("--group-add"));
        seen.render[0].may_open = true;
        assert_eq!(of_permissions(&seen, VULKAN, Device::Auto), None);
    }

    #[test]
    fn a_host_with_an_nvidia_driver_is_told_of_the_missing_cdi_file() {
        let has_cdi_note = |files: &[(&str, &str)]| {
            let found = findings(files, CUDA, Device::Auto);
            found.iter().any(|finding| finding.check == "cdi")
        };
        assert!(has_cdi_note(&[NVIDIA_DRIVER]));
        assert!(!has_cdi_note(&[
            NVIDIA_DRIVER,
            ("/etc/cdi/nvidia.yaml", "")
        ]));
        assert!(!has_cdi_note(&[
            NVIDIA_DRIVER,
            ("/var/run/cdi/nvidia.json", "")
        ]));
        assert!(has_cdi_note(&[NVIDIA_DRIVER, ("/etc/cdi/README", "")]));
        assert!(!has_cdi_note(&[NVIDIA_DRIVER, ("/.dockerenv", "")]));
        assert!(!has_cdi_note(&[RENDER]));
    }

    #[test]
    fn wsl_without_the_gpu_of_windows_matters_to_gpu_builds_only() {
        let wsl = ("/proc/version", "5.15-microsoft-standard-WSL2");
        let of_wsl = |build| {
            let found = findings(&[wsl], build, Device::Auto);
            let mut found = found.into_iter().filter(|f| f.check == "wsl");
            found.next().expect("a finding").severity
        };
        assert_eq!(of_wsl(CPU), Severity::Ok);
        assert_eq!(of_wsl(CUDA), Severity::Warning);
    }
}
