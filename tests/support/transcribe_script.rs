//! `scripts/transcribe.sh` as a child process with access only to curl, coreutils and bash.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::repository;

/// The tools that it may use.
const TOOLS: [&str; 12] = [
    "bash", "curl", "cat", "cut", "dirname", "head", "mkdir", "mktemp", "mv", "rm", "tail", "tr",
];

/// The script, and a folder for its files.
pub struct Script {
    folder: TempDir,
}

impl Script {
    /// Creates the folder with links to the tools.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["bin", "tmp", "here"] {
            std::fs::create_dir(folder.path().join(name)).expect("makes");
        }
        for tool in TOOLS {
            let path = std::env::var_os("PATH").expect("a PATH");
            let found = std::env::split_paths(&path).map(|folder| folder.join(tool));
            let found = found.into_iter().find(|path| path.exists());
            let link = folder.path().join("bin").join(tool);
            symlink(found.expect("the tool is there"), link).expect("links");
        }
        Self { folder }
    }

    /// Its working folder.
    pub fn here(&self) -> PathBuf {
        self.folder.path().join("here")
    }

    /// Its folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// The number of temporary files that it has left.
    pub fn leftovers(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path().join("tmp"));
        entries.expect("is there").count()
    }

    /// Writes a file into the working folder.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.here().join(name);
        std::fs::write(&path, bytes).expect("writes");
        path
    }

    /// The command that runs the script against a server.
    pub fn command(&self, url: &str, arguments: &[&str]) -> Command {
        let script = repository().join("scripts/transcribe.sh");
        let mut command = Command::new(script);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", self.folder.path().join("bin"))
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("HOME", self.folder.path())
            .env("WHISPER_API_URL", url)
            .current_dir(self.here())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs the script to its end.
    pub async fn run(&self, url: &str, arguments: &[&str]) -> Output {
        self.run_with(url, arguments, &[]).await
    }

    /// Runs the script to its end, with these variables.
    pub async fn run_with(
        &self,
        url: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Output {
        let mut command = self.command(url, arguments);
        command.envs(variables.iter().copied());
        let output = command.output().await.expect("runs");
        assert_eq!(self.leftovers(), 0, "{output:?}");
        output
    }
}

/// Its exit status and its messages.
pub fn told(output: &Output) -> (Option<i32>, String) {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), words)
}

/// A reply for a stand-in server.
pub fn answer(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_raw(body, kind)
}

/// A stand-in server with this reply to every POST request.
pub async fn server(response: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(response)
        .mount(&server)
        .await;
    server
}

/// A script with a recording `a.wav`, and a server with this answer.
pub async fn with_answer(status: u16, kind: &str, body: &str) -> (Script, MockServer) {
    let script = Script::new();
    script.file("a.wav", b"sound");
    (script, server(answer(status, kind, body)).await)
}

/// The body of the only request.
pub async fn sent(server: &MockServer) -> (Request, String) {
    let mut requests = server.received_requests().await.expect("recorded");
    assert_eq!(requests.len(), 1);
    let request = requests.remove(0);
    let body = String::from_utf8_lossy(&request.body).into_owned();
    (request, body)
}
