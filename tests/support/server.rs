//! A running server, and requests to it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use reqwest::multipart::Form;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::task::JoinHandle;
use uttera_stt::settings::variables::VARIABLES;

use crate::http::{client, client_builder, form};
use crate::models::voice_activity;
use crate::networks::Machine;
use crate::processes::{children, signal};
use crate::program;
use crate::samples::sample;
use crate::waiting::{until, until_or_show};

/// A running server.
pub struct Server {
    /// The process.
    pub child: Child,
    /// The base URL without a trailing slash.
    pub url: String,
    /// The HTTP client for [`Self::get`] and the other requests.
    pub client: Client,
    log: Mutex<Log>,
    folder: tempfile::TempDir,
}

/// What the server writes to its standard error: a file, so that a line can be read as soon as it is written.
struct Log {
    file: File,
    /// The part of a line that is not complete.
    rest: Vec<u8>,
    lines: Vec<String>,
}

impl Log {
    /// The log, and the end to which the server writes.
    fn new() -> (Self, Stdio) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let end = OpenOptions::new().append(true).open(file.path());
        let log = Self {
            file: file.into_file(),
            rest: Vec::new(),
            lines: Vec::new(),
        };
        (log, end.expect("opens").into())
    }

    /// All complete lines so far.
    fn lines(&mut self) -> &[String] {
        self.file.read_to_end(&mut self.rest).expect("reads");
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n');
        if let Some(end) = complete {
            let rest = self.rest.split_off(end + 1);
            let text = std::mem::replace(&mut self.rest, rest);
            let text = String::from_utf8_lossy(&text);
            self.lines.extend(text.lines().map(str::to_owned));
        }
        &self.lines
    }
}

impl Server {
    /// Starts a server on a free port and waits until it listens. It may not be ready yet.
    pub async fn start(model: &Path, settings: &[(&str, &str)]) -> Self {
        let environment = usual(model, settings);
        Self::start_as(&["serve"], &[], &environment).await
    }

    /// Starts a server on its own terminal, which closes when the second value is dropped.
    pub async fn start_at_terminal(model: &Path, settings: &[(&str, &str)]) -> (Self, OwnedFd) {
        let terminal = openpty(None, None).expect("a terminal");
        // The server must not keep the test's end open.
        let close = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        fcntl(&terminal.master, close).expect("it is there");
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program()).stdin(terminal.slave);
        let environment = usual(model, settings);
        let server = Self::start_by(command, &["serve"], &[], &environment).await;
        (server, terminal.master)
    }

    /// Starts a server on another machine of the test, and waits until it can transcribe. It must listen on the address
    /// of that machine (`HOST`).
    pub async fn ready_on(machine: &Machine, model: &Path, settings: &[(&str, &str)]) -> Self {
        let environment = usual(model, settings);
        let mut command = machine.command();
        command.arg(program()).stdin(Stdio::null());
        let server = Self::start_by(command, &["serve"], &[], &environment).await;
        server.until_ready().await;
        server
    }

    /// Starts a server with these arguments, and with these files in its working folder.
    pub async fn start_as(
        arguments: &[&str],
        files: &[(&str, &str)],
        settings: &BTreeMap<&str, &str>,
    ) -> Self {
        let mut command = Command::new(program());
        command.stdin(Stdio::null());
        Self::start_by(command, arguments, files, settings).await
    }

    async fn start_by(
        mut command: Command,
        arguments: &[&str],
        files: &[(&str, &str)],
        settings: &BTreeMap<&str, &str>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let weights = voice_activity().await;
        let jobs = folder.path().join("jobs");
        let usual = [
            ("JOBS_DIR", jobs.to_str().expect("UTF-8")),
            ("VAD_MODEL", weights.to_str().expect("UTF-8")),
            ("PORT", "0"),
        ];
        let mut environment = BTreeMap::from(usual);
        environment.extend(settings);
        // Two levels down, because the server also reads a settings file in the parent folder.
        let working = folder.path().join("run/here");
        std::fs::create_dir_all(&working).expect("makes");
        for (name, text) in files {
            std::fs::write(working.join(name), text).expect("writes");
        }
        for variable in VARIABLES {
            command.env_remove(variable.name);
        }
        let is_encrypted = environment.contains_key("TLS_CERT");
        let (log, written) = Log::new();
        let child = command
            .args(arguments)
            .current_dir(working)
            .env("TMPDIR", folder.path())
            .env("RUST_LOG", "info,uttera_stt=debug,stt_actors=debug")
            .envs(environment)
            .stdout(Stdio::null())
            .stderr(written)
            .spawn()
            .expect("the server starts");
        let mut server = Self {
            child,
            url: String::new(),
            client: if is_encrypted {
                // Tests of certificates have clients of their own.
                let client = client_builder().tls_danger_accept_invalid_certs(true);
                client.build().expect("a client")
            } else {
                client()
            },
            log: Mutex::new(log),
            folder,
        };
        let listening = server.log_line("the model is loading").await;
        // As text, or as JSON.
        let address = listening.replace("\"address\":\"", "address=");
        let address = address.split("address=").nth(1).expect("an address");
        let end = |character: char| character.is_whitespace() || character == '"';
        let address = address.split(end).next().expect("an address");
        // A server that listens on all addresses gets its requests on 127.0.0.1.
        let scheme = if is_encrypted { "https" } else { "http" };
        server.url = format!("{scheme}://{}", address.replace("0.0.0.0", "127.0.0.1"));
        server
    }

    /// The same, and waits until it can transcribe.
    pub async fn ready(model: &Path, settings: &[(&str, &str)]) -> Self {
        let server = Self::start(model, settings).await;
        server.until_ready().await;
        server
    }

    /// Waits until the server can transcribe.
    pub async fn until_ready(&self) {
        let ready = || async { self.get("/readyz").await.status() == 200 };
        self.until("the server is ready", ready).await;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder of this server's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All lines of the log so far.
    pub fn log(&self) -> Vec<String> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines().to_vec()
    }

    /// Waits for a line of the log with this text and returns the first one.
    pub async fn log_line(&self, text: &str) -> String {
        let logged = || async { !self.log_lines(text).is_empty() };
        self.until(&format!("a log line with {text:?}"), logged)
            .await;
        self.log_lines(text).swap_remove(0)
    }

    /// Waits until a condition holds.
    pub async fn until<F, R>(&self, what: &str, condition: F)
    where
        F: Fn() -> R,
        R: Future<Output = bool>,
    {
        until_or_show(what, async || condition().await, || self.log().join("\n")).await;
    }

    /// The reply to a GET request.
    pub async fn get(&self, path: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.url));
        request.send().await.expect("an answer")
    }

    /// The body of `/health`.
    pub async fn health(&self) -> Value {
        self.get("/health").await.json().await.expect("JSON")
    }

    /// Sends a form and returns the reply.
    pub async fn post(&self, path: &str, form: Form) -> Response {
        let request = self
            .client
            .post(format!("{}{path}", self.url))
            .multipart(form);
        request.send().await.expect("an answer")
    }

    /// Transcribes a file with these fields.
    pub async fn transcribe(&self, file: &Path, fields: &[(&str, &str)]) -> Response {
        self.post("/v1/audio/transcriptions", form(file, fields))
            .await
    }

    /// The request for a transcription of a sample, to be sent in a task.
    pub fn transcription(
        &self,
        name: &str,
    ) -> impl Future<Output = reqwest::Result<Response>> + Send + use<> {
        let url = format!("{}/v1/audio/transcriptions", self.url);
        let request = self.client.post(url).multipart(form(&sample(name), &[]));
        request.send()
    }

    /// Transcribes a file with this request id.
    pub async fn transcribe_as(&self, id: &str, file: &Path, fields: &[(&str, &str)]) -> Response {
        let request = self
            .client
            .post(format!("{}/v1/audio/transcriptions", self.url))
            .header("x-request-id", id)
            .multipart(form(file, fields));
        request.send().await.expect("an answer")
    }

    /// Transcribes a file with this key.
    pub async fn transcribe_with(&self, key: &str, file: &Path) -> Response {
        let request = self
            .client
            .post(format!("{}/v1/audio/transcriptions", self.url))
            .bearer_auth(key)
            .multipart(form(file, &[]));
        request.send().await.expect("an answer")
    }

    /// The number of chunks that engines have transcribed.
    pub async fn inferences(&self) -> f64 {
        let mut sum = 0.0;
        for op in ["whisper_transcribe_hot", "whisper_transcribe_cold"] {
            let series = format!("uttera_stt_inference_duration_seconds_count{{op=\"{op}\"}}");
            sum += self.metric(&series).await;
        }
        sum
    }

    /// Lines of the log with this text.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let mut log = self.log();
        log.retain(|line| line.contains(text));
        log
    }

    /// From now on, identical requests share their work, as those of usual clients do.
    pub fn share_work(&mut self) {
        self.client = Client::new();
    }

    /// A recording of some minutes: the long sample this many times.
    pub fn long_file(&self, times: u32) -> PathBuf {
        let path = self.folder().join(format!("long-{times}.flac"));
        let repeats = (times - 1).to_string();
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-stream_loop", &repeats, "-i"])
            .arg(sample("en-long.ogg"))
            .args(["-ar", "16000"])
            .arg(&path)
            .stdin(Stdio::null())
            .status();
        assert!(made.expect("ffmpeg runs").success());
        path
    }

    /// A recording of these samples, one after the other.
    pub fn joined_file(&self, names: &[&str]) -> PathBuf {
        let path = self.folder().join("joined.flac");
        let mut made = Command::new("ffmpeg");
        made.args(["-v", "error", "-y"]);
        for name in names {
            made.arg("-i").arg(sample(name));
        }
        made.arg("-filter_complex")
            .arg(format!("concat=n={}:v=0:a=1,aresample=16000", names.len()))
            .arg(&path)
            .stdin(Stdio::null());
        assert!(made.status().expect("ffmpeg runs").success());
        path
    }

    /// Sends a long file in its own task, and waits until a chunk of it runs.
    pub async fn start_long_request(&self) -> JoinHandle<reqwest::Result<Response>> {
        let request = self
            .client
            .post(format!("{}/v1/audio/transcriptions", self.url))
            .multipart(form(&sample("en-long.ogg"), &[]))
            .send();
        let running = tokio::spawn(request);
        self.until_a_lane_has_work().await;
        running
    }

    /// Starts the first cold worker and waits until it is ready. Meanwhile the hot worker stands still: on a fast
    /// machine it would finish the work before.
    pub async fn start_cold_worker(&self) {
        let hot = self.workers()[0];
        signal(hot, "STOP");
        let requests: Vec<_> = (0..16)
            .map(|_| tokio::spawn(self.transcription("en-command.wav")))
            .collect();
        self.until_a_cold_worker_is_ready().await;
        signal(hot, "CONT");
        for request in requests {
            let response = request.await.expect("no panic").expect("an answer");
            assert_eq!(response.status(), 200);
        }
    }

    /// Waits until the first cold worker is ready. It gets work at once, if there is any.
    pub async fn until_a_cold_worker_is_ready(&self) {
        let is_ready = || async {
            let ready = self.log_lines("worker ready");
            ready.iter().any(|line| line.contains("cold-1"))
        };
        self.until("a cold worker is ready", is_ready).await;
    }

    /// The running worker processes of this server.
    pub fn workers(&self) -> Vec<u32> {
        children(self.pid(), "worker")
    }

    /// Whether a request is admitted and not finished. Its upload may still be running.
    pub async fn is_busy(&self) -> bool {
        let health = self.health().await;
        health["smart_routing"]["queue_audio_seconds"].as_f64() > Some(0.0)
    }

    /// The number of chunks handed to lanes.
    pub fn chunks_handed_out(&self) -> usize {
        let log = self.log();
        log.iter()
            .filter(|line| line.contains("chunk assigned"))
            .count()
    }

    /// The audio handed to lanes, in seconds. Unlike the number of chunks it does not depend on the machine's speed.
    pub fn seconds_handed_out(&self) -> f64 {
        let lines = self.log_lines("chunk assigned");
        let of = |line: &String| {
            let value = line.split("seconds=").nth(1)?;
            value.split_whitespace().next()?.parse::<f64>().ok()
        };
        lines
            .iter()
            .map(|line| of(line).expect("its seconds"))
            .sum()
    }

    /// Waits until a lane gets another chunk.
    pub async fn until_a_lane_has_work(&self) {
        let before = self.chunks_handed_out();
        let given = || async { self.chunks_handed_out() > before };
        self.until("a lane has work", given).await;
    }

    /// The page of metrics.
    pub async fn metrics(&self) -> String {
        let response = self.get("/metrics").await;
        assert_eq!(response.status(), 200);
        response.text().await.expect("a body")
    }

    /// The value of a series, `name` or `name{labels}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.metrics().await;
        let line = page.lines().find(|line| {
            let rest = line.strip_prefix(series);
            rest.is_some_and(|rest| rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
        let value = line.rsplit(' ').next().expect("a value");
        value.parse().expect("a number")
    }

    /// Asks it to stop and returns its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        signal(self.pid(), "TERM");
        self.exit_code().await
    }

    /// Waits until it ends and returns its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        let ended = async || {
            status = self.child.try_wait().expect("a child of this process");
            status.is_some()
        };
        until("the server ends", ended).await;
        status.and_then(|status| status.code())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The default settings of a server in tests.
fn usual<'a>(model: &'a Path, settings: &[(&'a str, &'a str)]) -> BTreeMap<&'a str, &'a str> {
    let mut environment = BTreeMap::from([
        // One worker, unless a test needs more.
        ("COLD_POOL_SIZE", "0"),
        // Tests run in parallel, one on each core.
        ("WHISPER_THREADS", "1"),
        ("WHISPER_MODEL", model.to_str().expect("UTF-8")),
        // However slow the machine is, a server that ends finishes its work.
        ("DRAIN_GRACE_SECONDS", "3600"),
    ]);
    environment.extend(settings.iter().copied());
    environment
}
