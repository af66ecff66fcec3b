//! The program on the command line.

use std::process::Command;

use test_support::command_line::{err, out, run};
use test_support::{model, program, sample, sample_text, words};

#[tokio::test]
async fn files_are_transcribed_to_stdout_and_beside_and_one_that_fails_harms_no_other() {
    let model = model("tiny.en").await;
    let model = model.to_str().expect("UTF-8");
    let folder = tempfile::tempdir().expect("a folder");
    let good = folder.path().join("good.wav");
    std::fs::copy(sample("en-command.wav"), &good).expect("copies");
    std::fs::write(folder.path().join("bad.wav"), "no audio").expect("writes");

    let output = run(folder.path(), &["--model", model, "transcribe", "good.wav"]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(words(&out(&output)), words(&sample_text("en-command.wav")));

    let arguments = [
        "--model",
        model,
        "transcribe",
        "missing.wav",
        "bad.wav",
        "good.wav",
        "--format",
        "srt",
        "--beside",
    ];
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert!(told.contains("missing.wav: cannot be read"), "{told}");
    assert!(
        told.contains("bad.wav: the audio could not be decoded"),
        "{told}"
    );
    let subtitles = std::fs::read_to_string(folder.path().join("good.srt")).expect("is there");
    assert!(subtitles.starts_with("1\n00:00:00,"), "{subtitles}");
}

#[tokio::test]
async fn a_language_that_the_model_does_not_know_is_refused_before_any_work() {
    let model = model("tiny.en").await;
    let model = model.to_str().expect("UTF-8");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(sample("en-command.wav"), folder.path().join("a.wav")).expect("copies");
    let of_the_file = ["transcribe", "a.wav", "--language", "German"];
    let by_default = ["--set", "DEFAULT_LANGUAGE=de", "transcribe", "a.wav"];
    for arguments in [of_the_file, by_default] {
        let output = run(
            folder.path(),
            &[&["--model", model], &arguments[..]].concat(),
        );
        assert_eq!(output.status.code(), Some(1));
        let told = err(&output);
        assert!(told.contains("knows English only"), "{told}");
        assert_eq!(out(&output), "");
    }
}

#[tokio::test]
async fn two_results_with_the_same_path_are_rejected_before_any_work() {
    let model = model("tiny.en").await;
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.wav", "a.mp3"] {
        std::fs::copy(sample("en-command.wav"), folder.path().join(name)).expect("copies");
    }
    let model = model.to_str().expect("UTF-8");
    let arguments = ["--model", model, "transcribe", "a.wav", "a.mp3", "--beside"];
    let output = run(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("a.txt would be written twice"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_wrong_setting_stops_the_start_with_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(".env"), "PORT=many # ports\n").expect("writes");
    let output = run(folder.path(), &["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert_eq!(
        told,
        "error: PORT=many (.env) is invalid: expected a port from 0 to 65535\n"
    );
}

#[test]
fn the_settings_in_force_are_printed_without_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(".env"), "API_KEYS=sesame\nPORT=1234\n").expect("writes");
    let arguments = ["--print-config", "--set", "HOST=0.0.0.0", "--set"];
    let unused = "HOT_QUEUE_SAFETY_FACTOR=0.5";
    let output = run(folder.path(), &[&arguments[..], &[unused]].concat());
    let printed = out(&output);
    let warned = "warning: HOT_QUEUE_SAFETY_FACTOR is set, but has no effect in this version\n";
    assert_eq!(err(&output), warned);
    for line in [
        "PORT=1234",
        "HOST=0.0.0.0",
        "API_KEYS=***",
        "MAX_UPLOAD_MB=512",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line} in {printed}");
    }
    assert!(!printed.contains("sesame"));
}

#[test]
fn check_config_reports_settings_that_will_not_work() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(".env"), "WISPER_MODEL=base\n").expect("writes");
    let output = run(folder.path(), &["check-config"]);
    assert!(output.status.success());
    assert!(
        out(&output).contains("did you mean WHISPER_MODEL"),
        "{}",
        out(&output)
    );
    let output = run(folder.path(), &["check-config", "--set", "LOG_FORMAT=xml"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_worker_started_by_hand_explains_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(program())
        .arg("worker")
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("only the server starts"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_port_in_use_is_reported_with_its_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port().to_string();
    let output = run(folder.path(), &["serve", "--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let message = format!("cannot listen on 127.0.0.1:{port} (HOST, PORT)");
    assert!(err(&output).contains(&message), "{}", err(&output));
}
