//! Jobs from the command line: `transcribe --job` and `watch`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_support::command_line::{err, out, run_with};
use test_support::port::HeldPort;
use test_support::processes::Process;
use test_support::{Server, model, program, sample, until};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `watch` for the folder `in`, with results in `out`.
struct Watching {
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Watching {
    /// A folder with these recordings, which is not watched yet.
    fn new(files: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("in")).expect("makes");
        let watching = Self {
            folder,
            process: None,
        };
        for name in files {
            let copied = std::fs::copy(sample(name), watching.recording(name));
            copied.expect("copies");
        }
        watching
    }

    fn start(&mut self, url: &str) {
        let errors = File::create(self.folder.path().join("errors")).expect("creates");
        let mut command = command(&["watch", "in", "--out", "out", "--url", url]);
        command.args(["--quiet-seconds", "1"]);
        command.current_dir(self.folder.path()).stderr(errors);
        command.stdout(Stdio::null());
        self.process = Some(Process(command.spawn().expect("runs")));
    }

    fn recording(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("in").join(name.as_ref())
    }

    fn result(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join("out").join(name.as_ref())
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.result(name)).unwrap_or_default()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("errors")).expect("reads")
    }

    async fn until_there(&self, name: impl AsRef<OsStr>) {
        let file = self.result(name);
        until(&file.display().to_string(), async || file.exists()).await;
    }

    fn failures(&self) -> usize {
        let all = std::fs::read_dir(self.folder.path().join("out")).expect("reads");
        let endings = all.map(|entry| entry.expect("an entry").path());
        endings
            .filter(|path| path.extension() == Some(OsStr::new("error")))
            .count()
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
    let interrupted = Process(command(&arguments).spawn().expect("runs"));
    server
        .until("it is submitted", async || jobs(&server).await.len() == 1)
        .await;
    drop(interrupted);
    let again = Process(
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
    let impatient = [&arguments[..], &["--limit-seconds", "5"]].concat();
    let mut impatient = command(&impatient);
    let mut impatient = impatient.stderr(Stdio::piped()).spawn().expect("runs");
    let errors = BufReader::new(impatient.stderr.take().expect("piped")).lines();
    let mut errors = errors.map(|line| line.expect("UTF-8"));
    assert!(errors.any(|line| line.contains(": job ")), "it is accepted");
    drop(server);
    let stays = errors.any(|line| line.contains("the job stays on the server"));
    assert!(stays && !impatient.wait().expect("it ends").success());
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let arguments = ["transcribe", file, "--url", &server.url, "--job"];
    let full = OpenOptions::new().write(true).open("/dev/full");
    let mut unwritten = command(&arguments);
    unwritten.stdout(full.expect("opens")).stderr(Stdio::null());
    assert!(!unwritten.status().expect("runs").success());
    assert_eq!(jobs(&server).await.len(), 1, "the result is not lost");
    let done = run_with(server.folder(), &arguments, &[]);
    let text = out(&done);
    assert!(text.contains("kitchen"), "{text}");
    assert!(jobs(&server).await.is_empty(), "it is removed");
}

#[tokio::test]
async fn files_that_appear_in_a_folder_get_subtitles() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut watching = Watching::new(&["en-command.wav"]);
    watching.start(&server.url);
    watching.until_there("en-command.srt").await;
    let subtitles = watching.text("en-command.srt");
    assert!(
        subtitles.contains("kitchen") && subtitles.contains("-->"),
        "{subtitles}"
    );
    std::fs::write(watching.recording("noise.mp3"), b"no audio").expect("writes");
    watching.until_there("noise.srt.error").await;
    let reason = watching.text("noise.srt.error");
    assert!(reason.contains("the job failed"), "{reason}");
    let removed = async || jobs(&server).await.is_empty();
    server.until("the jobs are removed", removed).await;
}

#[tokio::test]
async fn files_wait_for_a_server_that_restarts() {
    let (port, stored) = (HeldPort::new(), tempfile::tempdir().expect("a folder"));
    let stored = stored.path().to_str().expect("UTF-8");
    let settings = [port.setting(), ("JOBS_DIR", stored)];
    let stopped = [&settings[..], &[("JOB_CONCURRENCY", "0")]].concat();
    let model = model("tiny.en").await;
    let mut first = Server::start(&model, &stopped).await;
    let mut watching = Watching::new(&["en-command.wav"]);
    watching.start(&first.url);
    let file = sample("en-command.wav");
    let arguments = [
        "transcribe",
        file.to_str().expect("UTF-8"),
        "--url",
        &first.url,
        "--job",
    ];
    let text = watching.folder.path().join("text");
    let mut transcribing = command(&arguments);
    transcribing.stdout(File::create(&text).expect("creates"));
    let mut transcribing = Process(transcribing.spawn().expect("runs"));
    let accepted = async || first.log_lines("status=202").len() == 2;
    first.until("both commands have a job", accepted).await;
    first.child.kill().expect("it runs");
    first.child.wait().expect("it ends");
    let away = "files wait, and are tried again";
    until("it is reported", async || watching.errors().contains(away)).await;
    std::fs::copy(&file, watching.recording("later.wav")).expect("copies");
    let second = Server::start(&model, &settings).await;
    assert_eq!(first.url, second.url);
    watching.until_there("en-command.srt").await;
    watching.until_there("later.srt").await;
    assert_eq!(watching.failures(), 0);
    let errors = watching.errors();
    let unreachable = errors.lines().filter(|line| {
        line.contains("cannot connect") || line.contains("broke off") || line.contains("no reply")
    });
    assert_eq!(unreachable.count(), 1, "{errors}");
    until("the other command ends", async || {
        let ended = transcribing.try_wait().expect("a child");
        ended.is_some_and(|status| status.success())
    })
    .await;
    let text = std::fs::read_to_string(text).expect("reads");
    assert!(text.contains("kitchen"), "{text}");
}

/// A recording without a header that tells its length, so that more can be appended.
fn appendable(name: &str) -> Vec<u8> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(sample(name));
    ffmpeg.args(["-write_xing", "0", "-id3v2_version", "0", "-f", "mp3", "-"]);
    let made = ffmpeg.stdin(Stdio::null()).output().expect("ffmpeg runs");
    assert!(made.status.success());
    made.stdout
}

#[tokio::test]
async fn a_file_is_transcribed_when_it_is_complete_and_again_when_it_changes() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut watching = Watching::new(&["en-command.wav"]);
    watching.start(&server.url);
    // Now it has seen the folder twice.
    watching.until_there("en-command.srt").await;
    let (sentence, path) = (
        appendable("en-sentence.wav"),
        watching.recording("held.mp3"),
    );
    let (half, rest) = sentence.split_at(sentence.len() / 2);
    let mut held = File::create(&path).expect("creates");
    held.write_all(half).expect("writes");
    // A link has no event that it is complete: its result shows that the other file was looked at twice, too.
    let name = OsStr::from_bytes(b"linked-\xff.wav");
    symlink(sample("en-command.wav"), watching.recording(name)).expect("links");
    watching
        .until_there(OsStr::from_bytes(b"linked-\xff.srt"))
        .await;
    assert!(!watching.result("held.srt").exists());
    let submitted = |server: &Server| server.log_lines("status=202").len();
    assert_eq!(submitted(&server), 2, "half a file was sent");
    held.write_all(rest).expect("writes");
    drop(held);
    watching.until_there("held.srt").await;
    let text = watching.text("held.srt");
    assert!(text.contains("train") && text.contains("eat"), "{text}");

    let mut appending = OpenOptions::new().append(true).open(&path).expect("opens");
    let command = appendable("en-command.wav");
    appending.write_all(&command).expect("writes");
    drop(appending);
    let is_new = async || watching.text("held.srt").contains("kitchen");
    until("the result has the appended sentence", is_new).await;

    // Another recording with the same stem.
    symlink(sample("en-command.wav"), watching.recording("held.wav")).expect("links");
    watching.until_there("held.wav.srt").await;
    watching.until_there("held.mp3.srt").await;
    assert!(!watching.text("held.wav.srt").contains("train"));
    assert!(watching.text("held.mp3.srt").contains("train"));
}

#[tokio::test]
async fn once_transcribes_what_is_there_also_into_the_same_folder() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let watching = Watching::new(&["en-command.wav"]);
    let folder = watching.folder.path().join("in");
    for other in ["poster.jpg", "movie.nfo", "empty.wav"] {
        std::fs::write(folder.join(other), "").expect("writes");
    }
    std::fs::write(folder.join("noise.mp3"), b"no audio").expect("writes");
    let run_at = |url: &str| {
        let arguments = ["watch", ".", "--out", ".", "--url", url, "--once"];
        let arguments = [&arguments[..], &["--quiet-seconds", "1"]].concat();
        run_with(&folder, &arguments, &[])
    };
    let run = || run_at(&server.url);
    let misdirected = run_at(&format!("{}/nothing", server.url));
    assert!(!misdirected.status.success());
    let names = || std::fs::read_dir(&folder).expect("reads").count();
    assert_eq!(names(), 5, "a wrong address is no failure of a file");
    let failed = run();
    assert!(!failed.status.success());
    assert!(err(&failed).contains("a file failed"), "{}", err(&failed));
    assert_eq!(names(), 7, "one result and one failure");
    assert!(folder.join("en-command.srt").exists() && folder.join("noise.srt.error").exists());
    let again = run();
    assert!(again.status.success(), "{}", err(&again));
    assert_eq!(out(&again), "", "there is nothing to do");
    // Whether there is a result, and what a recording is, the system does not say.
    std::fs::copy(sample("en-command.wav"), folder.join("other.wav")).expect("copies");
    for (name, other) in [("other.srt", "other.srt"), ("loop.wav", "loop.wav")] {
        symlink(other, folder.join(name)).expect("links");
    }
    let unsaid = run();
    assert!(!unsaid.status.success());
    for told in [
        "other.srt cannot be read",
        "loop.wav cannot be read",
        "2 files failed",
    ] {
        assert!(err(&unsaid).contains(told), "{told}: {}", err(&unsaid));
    }
    assert!(folder.join("other.srt").is_symlink(), "it is not replaced");
}
