//! A real S3 server for one test, rclone's, which shows a folder as a bucket. It ends when it is dropped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use reqwest::Client;
use tempfile::TempDir;

use crate::http::client;
use crate::port::on_free_port;
use crate::processes::{Process, start_server};
use crate::python;

/// The bucket.
pub const BUCKET: &str = "recordings";
/// The id of the access key.
pub const KEY_ID: &str = "node";
/// The access key.
pub const KEY: &str = "the-secret-of-the-node";

/// An S3 server that can be stopped and restarted on the same port with the same objects.
pub struct S3Server {
    program: PathBuf,
    port: u16,
    process: Option<Process>,
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
        server.process = on_free_port(async |port| {
            server.port = port;
            server.start_process().await
        })
        .await
        .into();
        Some(server)
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
        self.process = None;
    }

    /// Starts it again.
    pub async fn restart(&mut self) {
        self.stop();
        self.process = self.start_process().await;
        assert!(self.process.is_some(), "it does not start again");
    }

    async fn start_process(&self) -> Option<Process> {
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "s3", "--addr", &format!("127.0.0.1:{}", self.port)])
            .arg(format!("--auth-key={KEY_ID},{KEY}"))
            .args(["--config", "", "--vfs-cache-mode=off", "data"])
            .current_dir(self.folder.path());
        let url = self.url();
        let answers = async |_: &Process| self.client.get(&url).send().await.is_ok();
        start_server(&mut command, &self.folder.path().join("log"), answers).await
    }
}
