//! A real sentinel, which watches a master with one replica.

use std::fs;
use std::process::{Child, Command, Stdio};

use deadpool_redis::redis::{self, Client};
use tempfile::TempDir;

use crate::redis_server::{RedisServer, free_port};
use crate::waiting::until_or_show;

/// The name of the master.
const MASTER: &str = "main";

/// A master, its replica, and the sentinel that makes the replica the master when the master is gone.
pub struct RedisSentinel {
    /// The first master.
    pub master: RedisServer,
    /// Its replica.
    pub replica: RedisServer,
    port: u16,
    process: Child,
    folder: TempDir,
}

impl RedisSentinel {
    /// Starts all three, and waits until the sentinel knows the replica.
    pub async fn start() -> Self {
        let master = RedisServer::start().await;
        let of = format!("127.0.0.1 {}", master.port());
        let replica = RedisServer::start_with(None, &["--replicaof", &of]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nlogfile sentinel.log\ndir {}\nsentinel monitor {MASTER} {of} 1\n\
             sentinel down-after-milliseconds {MASTER} 300\nsentinel failover-timeout {MASTER} 3000\n",
            folder.path().display()
        );
        let file = folder.path().join("sentinel.conf");
        fs::write(&file, settings).expect("writes");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null());
        let process = command.stdout(Stdio::null()).spawn();
        let started = Self {
            master,
            replica,
            port,
            process: process.expect("redis-server is installed"),
            folder,
        };
        let knows_the_replica = async || {
            let found = started.ask(&["SENTINEL", "REPLICAS", MASTER]);
            found.is_some_and(|replicas| replicas.contains("slave"))
        };
        until_or_show("it knows the replica", knows_the_replica, || started.log()).await;
        started
    }

    /// The URL of the master, by the sentinel, and by another one that is away.
    pub fn url(&self) -> String {
        let away = free_port();
        format!(
            "redis+sentinel://127.0.0.1:{away},127.0.0.1:{}/{MASTER}",
            self.port
        )
    }

    /// Waits until a condition holds; a panic shows the log of the sentinel.
    pub async fn until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        until_or_show(what, condition, || self.log()).await;
    }

    /// Asks the sentinel; `None`: it does not answer yet.
    fn ask(&self, words: &[&str]) -> Option<String> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).ok()?;
        let mut command = redis::Cmd::new();
        let answer: redis::Value = command
            .arg(words)
            .query(&mut client.get_connection().ok()?)
            .ok()?;
        Some(format!("{answer:?}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("sentinel.log")).unwrap_or_default()
    }
}

impl Drop for RedisSentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
