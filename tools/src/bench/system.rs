//! A system under test: starting it, waiting until it answers, and stopping it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
// Measures another process, so that the clock must be the real one.
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::process_tree;

/// Long enough for a program that loads a model with Python from a slow disk.
const READY_LIMIT: Duration = Duration::from_secs(300);
/// Short, because it adds to the measured time of a start.
const READY_INTERVAL: Duration = Duration::from_millis(20);
/// Time for a system to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Placeholders for free ports in commands and addresses: of the API, and of the Wyoming protocol.
const PORT: &str = "{port}";
const WYOMING_PORT: &str = "{wyoming_port}";

/// A system as listed in the file of systems (`--systems`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Name in tables.
    pub name: String,
    /// The program and its arguments; `{port}` stands for a free port. Empty: the system is already running.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment variables for the program.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Address of its API.
    #[serde(default = "local_url")]
    pub url: String,
    /// Address of its Wyoming server, as host:port; `{wyoming_port}` stands for another free port.
    #[serde(default)]
    pub wyoming: Option<String>,
    /// Path that answers 200 as soon as the system can transcribe.
    #[serde(default = "health")]
    pub ready: String,
    /// Whether the other systems are compared with it.
    #[serde(default)]
    pub ours: bool,
    /// API key, sent as a bearer token.
    #[serde(skip)]
    pub key: Option<String>,
}

fn local_url() -> String {
    format!("http://127.0.0.1:{PORT}")
}

fn health() -> String {
    "/health".to_owned()
}

/// Reads a file of systems.
pub fn read_specs(path: &Path) -> anyhow::Result<Vec<Spec>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let specs: Vec<Spec> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a list of systems", path.display()))?;
    let names: std::collections::BTreeSet<&str> =
        specs.iter().map(|spec| spec.name.as_str()).collect();
    ensure!(
        names.len() == specs.len(),
        "{}: two systems have the same name",
        path.display()
    );
    Ok(specs)
}

/// A system that can be started, stopped and queried.
pub struct System {
    /// How to start it.
    pub spec: Spec,
    /// Its current address.
    pub url: String,
    /// The current address of its Wyoming server, if it has one.
    pub wyoming: Option<String>,
    /// Why it is excluded, if it failed.
    pub failed: Option<String>,
    process: Option<Process>,
    log: PathBuf,
}

impl System {
    /// A system that is not started yet; its output goes to a file in `logs`.
    pub fn new(spec: Spec, logs: &Path) -> Self {
        let safe = |c: char| if c.is_alphanumeric() { c } else { '-' };
        let name: String = spec.name.chars().map(safe).collect();
        Self {
            url: spec.url.clone(),
            wyoming: spec.wyoming.clone(),
            failed: None,
            process: None,
            log: logs.join(format!("{name}.log")),
            spec,
        }
    }

    /// Name in tables.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Whether this program starts it.
    pub fn is_started_here(&self) -> bool {
        !self.spec.command.is_empty()
    }

    /// Id of its first process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.leader)
    }

    /// Starts it and waits until it can transcribe.
    pub async fn start(&mut self, client: &Client) -> anyhow::Result<()> {
        if self.is_started_here() {
            let ports = Ports::free()?;
            self.url = ports.fill_in(&self.spec.url);
            let wyoming = self.spec.wyoming.as_ref();
            self.wyoming = wyoming.map(|address| ports.fill_in(address));
            self.process = Some(Process::spawn(&self.spec, &ports, &self.log)?);
        }
        let ready = self.until_ready(client).await;
        if ready.is_err() {
            self.process = None;
        }
        ready
    }

    async fn until_ready(&mut self, client: &Client) -> anyhow::Result<()> {
        let url = format!("{}{}", self.url, self.spec.ready);
        let begin = Instant::now();
        loop {
            let answer = client.get(&url).timeout(READY_LIMIT).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(process) = &mut self.process
                && let Some(status) = process.child.try_wait()?
            {
                bail!(
                    "it exited before it was ready ({status}){}",
                    last_words(&self.log)
                );
            }
            if begin.elapsed() > READY_LIMIT || !self.is_started_here() {
                bail!("it does not answer at {url}{}", last_words(&self.log));
            }
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    /// Asks the process to end, and kills it if it does not.
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process_tree::terminate(process.leader);
        let _ = tokio::time::timeout(STOP_GRACE, process.child.wait()).await;
    }

    /// Kills the process.
    pub fn end(&mut self) {
        self.process = None;
    }

    /// Replaces a stuck process with a new one.
    pub async fn restart(&mut self, client: &Client) -> anyhow::Result<()> {
        self.process = None;
        self.start(client).await
    }
}

/// A running process group, killed on drop.
struct Process {
    child: Child,
    leader: u32,
}

impl Process {
    fn spawn(spec: &Spec, ports: &Ports, log: &Path) -> anyhow::Result<Self> {
        let with_port = |text: &String| ports.fill_in(text);
        let words: Vec<String> = spec.command.iter().map(with_port).collect();
        let (program, arguments) = words.split_first().context("the command is empty")?;
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| log.display().to_string())?;
        let child = Command::new(program)
            .args(arguments)
            .envs(
                spec.env
                    .iter()
                    .map(|(name, value)| (name, with_port(value))),
            )
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C at the terminal is for the benchmark, which then ends its systems.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        let leader = child.id().context("it exited immediately")?;
        Ok(Self { child, leader })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            process_tree::kill_all(self.leader);
        } else {
            // The leader's exit status was read, so that its id may belong to another process by now; the
            // remaining members of the group keep the group's id.
            process_tree::kill_group(self.leader);
        }
    }
}

/// Two free ports. Another process may take them before the system does, but the kernel assigns other ports first.
struct Ports {
    http: u16,
    wyoming: u16,
}

impl Ports {
    fn free() -> std::io::Result<Self> {
        let bind = || TcpListener::bind(("127.0.0.1", 0));
        // Both are bound at the same time, so that they differ.
        let (http, wyoming) = (bind()?, bind()?);
        Ok(Self {
            http: http.local_addr()?.port(),
            wyoming: wyoming.local_addr()?.port(),
        })
    }

    /// Replaces the placeholders.
    fn fill_in(&self, text: &str) -> String {
        let text = text.replace(PORT, &self.http.to_string());
        text.replace(WYOMING_PORT, &self.wyoming.to_string())
    }
}

/// The last line of a system's log, to append to a message.
fn last_words(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("; last log line: {}", line.trim()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(command: &[&str]) -> Spec {
        Spec {
            name: "a system".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::new(),
            url: local_url(),
            wyoming: None,
            ready: health(),
            ours: false,
            key: None,
        }
    }

    fn client() -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new()
    }

    #[test]
    fn a_file_of_systems_needs_few_fields_and_unknown_ones_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("systems.json");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(r#"[{"name": "peer", "command": ["peer", "{port}"], "ready": "/"}]"#);
        let specs = read_specs(&path).unwrap();
        assert_eq!(
            (specs[0].url.as_str(), specs[0].ours),
            ("http://127.0.0.1:{port}", false)
        );
        write(r#"[{"name": "peer", "comand": []}]"#);
        assert!(format!("{:#}", read_specs(&path).unwrap_err()).contains("comand"));
        write(r#"[{"name": "a"}, {"name": "a"}]"#);
        assert!(format!("{:#}", read_specs(&path).unwrap_err()).contains("same name"));
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut system = System::new(spec(&["/nowhere/program"]), folder.path());
        let error = system.start(&client()).await.unwrap_err();
        let told = format!("{error:#}");
        assert!(
            told.contains("/nowhere/program cannot be started"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_program_that_exits_is_an_error_with_its_last_log_line() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo no model here >&2; exit 3";
        let mut system = System::new(spec(&["sh", "-c", script]), folder.path());
        let error = system.start(&client()).await.unwrap_err();
        let told = format!("{error:#}");
        assert!(
            told.contains("exit status: 3") && told.contains("no model here"),
            "{told}"
        );
    }

    async fn until(condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        waited.expect("it never happened");
    }

    #[tokio::test]
    async fn descendants_of_a_system_end_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let spec = spec(&["sh", "-c", "setsid sleep 1000 & sleep 1000"]);
        let process = Process::spawn(&spec, &Ports::free().unwrap(), &log).unwrap();
        let leader = process.leader;
        until(|| process_tree::members(leader).len() == 3).await;
        let members = process_tree::members(leader);
        drop(process);
        let lives = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z")
        };
        until(|| !members.iter().any(lives)).await;
    }
}
