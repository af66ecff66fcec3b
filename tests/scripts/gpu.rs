//! Which GPU `scripts/run --gpu` chooses, with stand-ins for the programs that list GPUs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use test_support::repository;

const NO_VULKAN: &str = "exit 1";
const NO_DRIVER: &str =
    "echo 'NVIDIA-SMI has failed because it cannot communicate with the driver'; exit 9";

fn script(path: &Path, body: &str) {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("makes it executable");
}

/// The feature, the architecture and the reason that `find_gpu` sets.
fn found(nvidia_smi: &str, vulkaninfo: &str) -> (String, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    script(&folder.path().join("nvidia-smi"), nvidia_smi);
    script(&folder.path().join("vulkaninfo"), vulkaninfo);
    let path = std::env::var("PATH").expect("a PATH");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg(
            r#". scripts/lib.sh; device_files=/nonexistent; find_gpu; printf '%s\n' "$gpu" "$gpu_architecture" "$gpu_reason""#,
        )
        .current_dir(repository())
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .output()
        .expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().expect("three lines");
    (next(), next(), next())
}

fn nvidia(line: &str) -> String {
    format!("echo '{line}'")
}

/// What vulkaninfo prints of devices, as pairs of type and name.
fn vulkan(devices: &[(&str, &str)]) -> String {
    let lines = devices.iter().map(|(kind, name)| {
        format!("echo '  deviceType = PHYSICAL_DEVICE_TYPE_{kind}'; echo '  deviceName = {name}'")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_nvidia_driver_is_used_through_cuda_for_the_capability_of_the_first_gpu() {
    let two = "NVIDIA GeForce RTX 3090, 580.95.05, 8.6\nNVIDIA GeForce RTX 4090, 580.95.05, 8.9";
    let (gpu, architecture, reason) = found(&nvidia(two), NO_VULKAN);
    assert_eq!((gpu.as_str(), architecture.as_str()), ("cuda", "86"));
    assert!(
        reason.contains("RTX 3090") && reason.contains("580.95.05"),
        "{reason}"
    );
}

#[test]
fn a_driver_or_gpu_that_is_too_old_for_cuda_is_used_through_vulkan_and_the_reason_says_so() {
    let vulkan = vulkan(&[
        ("CPU", "llvmpipe"),
        ("DISCRETE_GPU", "NVIDIA GeForce GTX 1080"),
    ]);
    let old_gpu = found(&nvidia("NVIDIA GeForce GTX 1080, 580.95.05, 6.1"), &vulkan);
    assert_eq!(old_gpu.0, "vulkan");
    assert!(
        old_gpu.2.contains("too old") && old_gpu.2.contains("GTX 1080"),
        "{}",
        old_gpu.2
    );
    let old_driver = found(&nvidia("NVIDIA GeForce RTX 3060, 550.163.01, 8.6"), &vulkan);
    assert_eq!(old_driver.0, "vulkan");
    assert!(old_driver.2.contains("550.163.01"), "{}", old_driver.2);
}

#[test]
fn a_discrete_gpu_is_named_before_an_integrated_one_and_a_device_in_software_is_none() {
    let both = [
        ("INTEGRATED_GPU", "Intel UHD 630"),
        ("DISCRETE_GPU", "AMD Radeon RX 6800"),
    ];
    let (gpu, _, reason) = found(NO_DRIVER, &vulkan(&both));
    assert_eq!(gpu, "vulkan");
    assert!(reason.contains("RX 6800"), "{reason}");
    let (gpu, _, reason) = found(
        NO_DRIVER,
        &vulkan(&[("CPU", "llvmpipe (LLVM 15.0.6, 256 bits)")]),
    );
    assert_eq!(gpu, "");
    assert!(reason.contains("software"), "{reason}");
}

#[test]
fn without_any_device_the_reason_names_what_was_looked_for() {
    let (gpu, _, reason) = found(NO_DRIVER, NO_VULKAN);
    assert_eq!(gpu, "");
    assert!(
        reason.contains("NVIDIA") && reason.contains("Vulkan"),
        "{reason}"
    );
}
