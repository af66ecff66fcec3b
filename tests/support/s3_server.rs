//! A real S3 server for one test, rclone's, which shows a folder as a bucket. It ends when it is dropped.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use tempfile::TempDir;

use crate::http::client;
use crate::python;
use crate::redis_server::free_port;
use crate::waiting::until_or_show;

/// The bucket.
pub const BUCKET: &str = "recordings";
/// The id of the access key.
pub const KEY_ID: &str = "node";
/// The access key.
pub const KEY: &str = "the-secret-of-the-node";
/// Attempts to find a free port, because another process may take it first.
const ATTEMPTS: usize = 5;

/// An S3 server that can be stopped and restarted on the same port with the same objects.
pub struct S3Server {
    program: PathBuf,
    port: u16,
    process: Option<Child>,
    folder: TempDir,
    client: Client,
}

impl S3Server {
    /// Starts one with an empty bucket, if its program can be installed.
    pub async fn start() -> Option<Self> {
        let mut server = Self {
            program: python::rclone()?,
            port: 0,
            process: None,
            folder: tempfile::tempdir().expect("a folder"),
            client: client(),
        };
        fs::create_dir_all(server.bucket()).expect("a folder");
        for _ in 0..ATTEMPTS {
            server.port = free_port();
            if server.try_start().await {
                return Some(server);
            }
        }
        panic!("rclone does not start:\n{}", server.log());
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The names of all objects, with their folders, in order.
    pub fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.bucket()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("reads").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.bucket()).expect("is within");
                    found.push(name.display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    /// The folder that is the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("data").join(BUCKET)
    }

    /// Ends it; its objects stay.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it was running");
            process.wait().expect("it ended");
        }
    }

    /// Starts it again.
    pub async fn restart(&mut self) {
        self.stop();
        assert!(self.try_start().await, "no restart:\n{}", self.log());
    }

    async fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("log")).expect("creates");
        let mut process = Command::new(&self.program)
            .args(["serve", "s3", "--addr", &format!("127.0.0.1:{}", self.port)])
            .arg(format!("--auth-key={KEY_ID},{KEY}"))
            .args(["--config", "", "--vfs-cache-mode=off", "data"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it is installed");
        let mut ended = false;
        let (url, client) = (self.url(), self.client.clone());
        let answers_or_ended = async || {
            ended = process.try_wait().expect("a child").is_some();
            ended || client.get(&url).send().await.is_ok()
        };
        until_or_show("it answers", answers_or_ended, || self.log()).await;
        if !ended {
            self.process = Some(process);
        }
        !ended
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}
