//! The GPU probe through the real wrapper, with a stand-in for NVIDIA's library that the test builds.

use std::path::Path;
use std::time::Duration;

use stt_actors::ports::{MemoryKind, MemorySample, VramProbe};
use test_support::nvml_driver::{Driver, TWO_GPUS, probe};
use uttera_stt::nvml::NvmlProbe;

/// Longer than the probe's wait between two starts of the library.
const NEXT_START: Duration = Duration::from_secs(31);

fn free_and_total(probe: &NvmlProbe) -> (u64, u64) {
    let sample = probe.sample(&[]).expect("a sample");
    (sample.free, sample.total)
}

/// The messages.
fn error(probe: &NvmlProbe) -> String {
    probe.sample(&[100]).expect_err("no sample").to_string()
}

#[test]
fn a_sample_has_the_gpus_memory_and_that_of_each_queried_process() {
    let driver = Driver::installed();
    let probe = driver.probe(0);
    assert_eq!(probe.kind(), MemoryKind::Vram);
    assert_eq!(driver.starts(), (0, 0), "loaded before the first sample");
    let sample = probe.sample(&[7, 100]).expect("a sample");
    let expected = MemorySample {
        utilization_percent: None,
        free: 20_000,
        total: 24_000,
        used_by_process: vec![(100, 3000)],
    };
    assert_eq!(sample, expected);
    driver.says("device GPU-aaaa-1111 24000 19000\ncompute 0 100 4000\n");
    let sample = probe.sample(&[100]).expect("a sample");
    assert_eq!(
        (sample.free, sample.used_by_process),
        (19_000, vec![(100, 4000)])
    );
    assert_eq!(driver.starts(), (1, 0), "one start is enough");
    drop(probe);
    assert_eq!(driver.starts(), (1, 1));
}

#[test]
fn the_index_chooses_the_gpu_and_processes_on_others_do_not_count() {
    let driver = Driver::installed();
    let sample = driver.probe(1).sample(&[100, 101, 102]).expect("a sample");
    assert_eq!((sample.free, sample.total), (1000, 8000));
    // Process 100 uses this GPU only for graphics, which is where Vulkan appears.
    assert_eq!(sample.used_by_process, [(100, 77), (102, 500)]);
}

#[test]
fn a_process_that_computes_and_draws_counts_once() {
    let driver = Driver::installed();
    driver.says("device GPU-a 24000 20000\ncompute 0 100 3000\ngraphics 0 100 3000\n");
    let sample = driver.probe(0).sample(&[100]).expect("a sample");
    assert_eq!(sample.used_by_process, [(100, 3000)]);
}

#[test]
fn a_process_whose_memory_is_unavailable_is_left_out() {
    let driver = Driver::installed();
    let sample = driver.probe(0).sample(&[101, 100]).expect("a sample");
    assert_eq!(sample.used_by_process, [(100, 3000)]);
    driver.says("device GPU-a 24000 20000\ncompute 0 100 -1\ngraphics 0 100 -1\n");
    let sample = driver.probe(0).sample(&[100]).expect("a sample");
    assert_eq!((sample.free, sample.used_by_process), (20_000, vec![]));
}

#[test]
fn more_processes_than_one_would_think_are_all_found() {
    let driver = Driver::installed();
    let processes: Vec<u32> = (1000..1200).collect();
    let mut lines = vec!["device GPU-a 24000 20000".to_owned()];
    lines.extend(processes.iter().map(|p| format!("compute 0 {p} 5")));
    driver.says(&lines.join("\n"));
    let sample = driver.probe(0).sample(&processes).expect("a sample");
    assert_eq!(sample.used_by_process.len(), 200);
}

#[test]
fn cuda_visible_devices_decides_which_gpu_an_index_means() {
    let driver = Driver::installed();
    let seen = |list: &str, index: u32| {
        let probe = driver
            .probe(index)
            .with_visible_devices(Some(list.to_owned()));
        probe.sample(&[]).map(|sample| sample.total)
    };
    assert_eq!(seen("1,0", 0), Ok(8000));
    assert_eq!(seen("1,0", 1), Ok(24_000));
    assert_eq!(seen("GPU-aaaa-2222", 0), Ok(8000));
    assert_eq!(seen("GPU-aaaa-2", 0), Ok(8000));
    for (list, index, complaint) in [
        ("GPU-aaaa", 0, "several GPUs"),
        ("GPU-bbbb", 0, "no GPU with UUID"),
        ("MIG-1", 0, "no GPU with UUID"),
        ("1", 1, "CUDA_VISIBLE_DEVICES"),
        ("", 0, "CUDA_VISIBLE_DEVICES"),
        ("5", 0, "no GPU with index 5"),
    ] {
        let refused = seen(list, index).expect_err(list).to_string();
        assert!(refused.contains(complaint), "{list:?}: {refused}");
    }
}

#[test]
fn an_index_out_of_range_is_refused_with_the_count_until_there_is_such_a_gpu() {
    let driver = Driver::installed();
    let probe = driver.probe(2);
    let refused = error(&probe);
    assert!(refused.contains("index 2"), "{refused}");
    assert!(refused.contains("reports 2 GPUs"), "{refused}");
    driver.says(&format!("{TWO_GPUS}device GPU-c 16000 15000\n"));
    assert_eq!(free_and_total(&probe), (15_000, 16_000));
}

#[test]
fn a_call_that_fails_for_a_moment_is_an_error_once_and_needs_no_new_start() {
    let driver = Driver::installed();
    let probe = driver.probe(0);
    for function in [
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ] {
        // A timeout, and a code that the wrapper does not know.
        for code in [10, 1234] {
            driver.fails(function, code);
            assert!(error(&probe).contains("cannot "), "{function}");
            driver.says(TWO_GPUS);
            assert_eq!(free_and_total(&probe), (20_000, 24_000), "{function}");
        }
    }
    assert_eq!(driver.starts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lost_gpu_is_found_again_by_a_new_start() {
    let driver = Driver::installed();
    let probe = driver.probe(0);
    let mut starts = 1;
    // Not initialised, driver not loaded, GPU lost, library of another version, unknown.
    for code in [1, 9, 15, 18, 999] {
        for function in [
            "nvmlDeviceGetHandleByIndex_v2",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetComputeRunningProcesses_v3",
        ] {
            assert_eq!(free_and_total(&probe), (20_000, 24_000));
            driver.fails(function, code);
            let told = error(&probe);
            assert_eq!(driver.starts(), (starts, starts), "{function} {code}");
            driver.says(TWO_GPUS);
            // The next start is not due yet, so the error stays.
            assert_eq!(error(&probe), told);
            tokio::time::advance(NEXT_START).await;
            assert_eq!(free_and_total(&probe), (20_000, 24_000), "{function}");
            starts += 1;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_is_lost_long_after_the_start_is_looked_for_at_the_next_sample() {
    let driver = Driver::installed();
    let probe = driver.probe(0);
    assert_eq!(free_and_total(&probe), (20_000, 24_000));
    tokio::time::advance(NEXT_START).await;
    driver.fails("nvmlDeviceGetMemoryInfo_v2", 15);
    assert!(error(&probe).contains("fell off the bus"));
    driver.says(TWO_GPUS);
    assert_eq!(free_and_total(&probe), (20_000, 24_000));
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_installed_later_is_found_without_a_search_at_each_sample() {
    let driver = Driver::missing();
    let probe = driver.probe(0);
    let told = error(&probe);
    assert!(told.contains("cannot be loaded"), "{told}");
    assert!(told.contains("libnvidia-ml.so.1"), "{told}");
    driver.install(&[]);
    assert_eq!(error(&probe), told);
    assert_eq!(driver.starts(), (0, 0));
    tokio::time::advance(NEXT_START).await;
    assert_eq!(free_and_total(&probe), (20_000, 24_000));
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_start_yet_is_tried_again_now_and_then() {
    let driver = Driver::installed();
    driver.fails("nvmlInit_v2", 9);
    let probe = driver.probe(0);
    for _ in 0..5 {
        assert!(error(&probe).contains("driver is not loaded"));
    }
    assert_eq!(driver.starts(), (1, 0));
    tokio::time::advance(NEXT_START).await;
    assert!(error(&probe).contains("driver is not loaded"));
    assert_eq!(driver.starts(), (2, 0));
    driver.says(TWO_GPUS);
    tokio::time::advance(NEXT_START).await;
    assert_eq!(free_and_total(&probe), (20_000, 24_000));
}

#[test]
fn the_first_library_that_starts_is_used_and_a_broken_one_is_reported_before_a_missing_one() {
    let (older, driver) = (Driver::installed(), Driver::installed());
    older.fails("nvmlInit_v2", 18);
    let nowhere = Path::new("/nowhere/libnvidia-ml.so.1");
    let libraries = [nowhere, &older.library(), &driver.library()];
    assert_eq!(free_and_total(&probe(&libraries, 0)), (20_000, 24_000));
    let told = error(&probe(&libraries[..2], 0));
    assert!(told.contains("version mismatch"), "{told}");
}

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let driver = Driver::missing();
    for content in [&b""[..], b"no library", b"\x7fELF\x02\x01\x01"] {
        std::fs::write(driver.library(), content).expect("writes");
        let told = error(&driver.probe(0));
        assert!(told.contains("cannot be loaded"), "{told}");
    }
    let told = error(&probe(&[], 0));
    assert!(told.contains("no path of"), "{told}");
}

#[test]
fn a_library_without_a_required_function_is_an_error() {
    for function in [
        "nvmlInit_v2",
        "nvmlShutdown",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetMemoryInfo_v2",
    ] {
        let driver = Driver::missing();
        driver.install(&[function]);
        let probe = driver.probe(0);
        let told = error(&probe);
        let missing = if function == "nvmlShutdown" {
            "is not NVML"
        } else {
            function
        };
        assert!(told.contains(missing), "{told}");
        assert_eq!(error(&probe), told);
    }
}

#[test]
fn without_lists_of_processes_there_is_still_free_memory() {
    let driver = Driver::missing();
    driver.install(&[
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ]);
    let sample = driver.probe(0).sample(&[100]).expect("a sample");
    assert_eq!((sample.free, sample.used_by_process), (20_000, vec![]));
    // Not supported, no permission.
    let driver = Driver::installed();
    for code in [3, 4] {
        driver.fails("nvmlDeviceGetGraphicsRunningProcesses_v3", code);
        let sample = driver.probe(0).sample(&[100]).expect("a sample");
        assert_eq!(sample.used_by_process, [(100, 3000)]);
    }
}

#[test]
fn probes_share_one_library_without_ending_it_for_each_other() {
    let driver = Driver::installed();
    let (first, second) = (driver.probe(0), driver.probe(1));
    assert_eq!(free_and_total(&first), (20_000, 24_000));
    assert_eq!(free_and_total(&second), (1000, 8000));
    drop(first);
    assert_eq!(free_and_total(&second), (1000, 8000));
}
