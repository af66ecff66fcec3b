//! Jobs from the command line: `transcribe --job` and `watch`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use test_support::command_line::{out, run_with};
use test_support::{Server, model, program, sample, until};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn jobs(server: &Server) -> Vec<Value> {
    let list: Value = (server.get("/v1/audio/jobs").await.json().await).expect("JSON");
    list["data"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_file_is_a_job_that_stays_when_the_command_is_interrupted() {
    let server = Server::start(&model("tiny.en").await, &[("JOB_CONCURRENCY", "0")]).await;
    let file = sample("en-command.wav");
    let file = file.to_str().expect("UTF-8");
    let arguments = ["transcribe", file, "--url", &server.url, "--job"];
    let interrupted = Running(command(&arguments).spawn().expect("runs"));
    server
        .until("it is submitted", async || jobs(&server).await.len() == 1)
        .await;
    drop(interrupted);
    let again = Running(
        command(&arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs"),
    );
    server.log_line("status=202").await;
    let is_repeated = async || server.log_lines("status=202").len() == 2;
    server.until("it is submitted again", is_repeated).await;
    assert_eq!(
        jobs(&server).await.len(),
        1,
        "the same file is the same job"
    );
    drop(again);
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let arguments = ["transcribe", file, "--url", &server.url, "--job"];
    let done = run_with(server.folder(), &arguments, &[]);
    let text = out(&done);
    assert!(text.contains("kitchen"), "{text}");
    assert!(jobs(&server).await.is_empty(), "it is removed");
}

#[tokio::test]
async fn files_that_appear_in_a_folder_get_subtitles() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (recordings, results) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir(&recordings).expect("makes");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let arguments = [
        "watch",
        &text(&recordings),
        "--out",
        &text(&results),
        "--url",
        &server.url,
    ];
    let _watching = Running(
        command(&arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("runs"),
    );
    // The folder for results is made just before the watch begins, so that the first file may come before it.
    until("it watches", async || results.exists()).await;
    let mut number = 0;
    let has_result = async || {
        number += 1;
        let hidden = recordings.join(format!(".copy-{number}"));
        std::fs::copy(sample("en-command.wav"), &hidden).expect("copies");
        std::fs::rename(&hidden, recordings.join("command.wav")).expect("moves");
        results.join("command.srt").exists()
    };
    until("it has subtitles", has_result).await;
    let subtitles = std::fs::read_to_string(results.join("command.srt")).expect("reads");
    assert!(
        subtitles.contains("kitchen") && subtitles.contains("-->"),
        "{subtitles}"
    );
    std::fs::write(recordings.join("noise.mp3"), b"no audio").expect("writes");
    until("it has an error", async || {
        results.join("noise.srt.error").exists()
    })
    .await;
    let reason = std::fs::read_to_string(results.join("noise.srt.error")).expect("reads");
    assert!(reason.contains("the job failed"), "{reason}");
}
