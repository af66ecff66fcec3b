//! `uttera-stt bench` from outside: its output and files, and that it leaves no process behind.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use uttera_stt::settings::variables::VARIABLES;

use test_support::{model, program, signal, until, voice_activity};

/// The program in its own folder, which is also the working folder of all processes that it starts.
fn bench(folder: &Path) -> Command {
    let mut command = Command::new(program());
    for variable in VARIABLES {
        command.env_remove(variable.name);
    }
    let working = folder.join("run/here");
    std::fs::create_dir_all(&working).expect("makes");
    command.current_dir(working).stdin(Stdio::null());
    command
}

/// Ids of the processes with this working folder.
fn processes_in(folder: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_here = |pid: &u32| {
        let working = std::fs::read_link(format!("/proc/{pid}/cwd"));
        working.is_ok_and(|working| working.starts_with(folder)) && test_support::lives(*pid)
    };
    pids.filter(is_here).collect()
}

#[tokio::test]
async fn a_run_is_shown_and_saved_and_a_broken_peer_does_not_end_it() {
    let (model, weights) = (model("tiny.en").await, voice_activity().await);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("a path");
    // In a folder of its own, so that its weights are not shared with the workers of other tests.
    let own = folder.join("ggml-tiny.en.bin");
    std::os::unix::fs::symlink(&model, &own).expect("links");
    let systems = folder.join("systems.json");
    let broken = r#"[{"name": "broken", "command": ["/nowhere/peer", "{port}"]}]"#;
    std::fs::write(&systems, broken).expect("writes");
    let out = folder.join("out");
    let output = bench(&folder)
        .args(["--set", "COLD_POOL_SIZE=0", "bench"])
        .args(["--clips", "2", "--repeat", "1", "--requests", "3"])
        .args(["--peak-gflops", "50"])
        .arg("--systems")
        .arg(&systems)
        .arg("--out")
        .arg(&out)
        .env("WHISPER_MODEL", &own)
        .env("VAD_MODEL", &weights)
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stderr);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");

    assert!(
        table.contains("failed: broken: /nowhere/peer cannot be started"),
        "{table}"
    );
    for figure in [
        "start to first transcript",
        "a short clip",
        "words wrong, short clips",
        "the long file",
        "many requests at once",
        "a command, idle: median",
        "a command during the long file: 95th percentile",
        "memory, idle",
        "memory, most during a burst",
    ] {
        assert!(
            table.lines().any(|line| line.starts_with(figure)),
            "{figure} in {table}"
        );
    }
    let json = std::fs::read(out.join("bench.json")).expect("is there");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["machine"]["peak_gflops"], 50.0);
    assert_eq!(json["systems"][0]["failed"], Value::Null);
    let samples = json["samples"].as_array().expect("samples");
    let of = |quantity: &str| samples.iter().filter(|s| s["quantity"] == quantity).count();
    assert_eq!((of("short_seconds"), of("start_seconds")), (2, 1));
    assert!(samples.iter().all(|sample| sample["measured"].is_f64()));
    let memory = samples.iter().find(|s| s["quantity"] == "idle_mebibytes");
    let memory = memory.expect("a sample")["measured"].as_f64();
    assert!(memory > Some(70.0), "the worker counts as well: {memory:?}");
    let picture = std::fs::read_to_string(out.join("bench.svg")).expect("is there");
    assert!(picture.contains("Compared with uttera-stt"));
    until("the end of all processes", async || {
        processes_in(&folder).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_signal_ends_the_run_and_all_that_it_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("a path");
    let systems = folder.join("systems.json");
    let script = "setsid sleep 1000 & sleep 1000";
    let never_ready =
        serde_json::json!([{"name": "slow", "command": ["sh", "-c", script], "ours": true}]);
    std::fs::write(&systems, never_ready.to_string()).expect("writes");
    let mut run = bench(&folder)
        .args(["bench", "--only", "start", "--peak-gflops", "1"])
        .arg("--systems")
        .arg(&systems)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // This program, the shell and the shell's children.
    until("the start of the system", async || {
        processes_in(&folder).len() == 4
    })
    .await;
    signal(run.id(), "INT");
    assert_eq!(run.wait().expect("ends").code(), Some(1));
    let told = std::io::read_to_string(run.stderr.take().expect("piped")).expect("reads");
    assert!(told.ends_with("error: ended by SIGINT\n"), "{told}");
    until("the end of all processes", async || {
        processes_in(&folder).is_empty()
    })
    .await;
}

#[test]
fn a_system_that_cannot_be_measured_fails_the_run_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let systems = folder.path().join("systems.json");
    let ours = r#"[{"name": "ours", "command": ["/nowhere/ours"], "ours": true}]"#;
    std::fs::write(&systems, ours).expect("writes");
    let output = bench(folder.path())
        .args(["bench", "--only", "short", "--peak-gflops", "1"])
        .arg("--systems")
        .arg(&systems)
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("failed: ours: /nowhere/ours cannot be started"),
        "{table}"
    );
}
