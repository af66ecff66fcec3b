//! A real Redis for one test, on a free port, with its files in a temporary folder. It ends when it is
//! dropped.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use deadpool_redis::redis::{self, Client, Connection, FromRedisValue, RedisResult};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::port::{free_port, on_free_port};
use crate::processes::{Process, log_in, start_server};
use crate::tls::{Authority, text};
use crate::waiting::until_or_show;

/// A Redis that can be paused, stopped and restarted on the same port.
pub struct RedisServer {
    port: u16,
    password: Option<String>,
    /// The arguments of every start.
    options: Vec<String>,
    process: Option<Process>,
    folder: TempDir,
}

impl RedisServer {
    /// Starts one without a password.
    pub async fn start() -> Self {
        Self::start_with(None, &[]).await
    }

    /// Starts one with this password.
    pub async fn start_with_password(password: &str) -> Self {
        Self::start_with(Some(password), &[]).await
    }

    /// Starts a Redis with these command-line options.
    pub async fn start_with(password: Option<&str>, options: &[&str]) -> Self {
        let mut server = Self {
            port: 0,
            password: password.map(str::to_owned),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            process: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        server.process = on_free_port(async |port| {
            server.port = port;
            server.start_process().await
        })
        .await
        .into();
        server
    }

    /// Starts a Redis with a certificate of this authority, and returns its port for TLS. `asks_clients`: clients need one
    /// of it, too.
    pub async fn start_with_tls(authority: &Authority, asks_clients: bool) -> (Self, u16) {
        let (own, ca) = (authority.issue("redis"), authority.certificate());
        let port = free_port();
        let options = [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", text(&own.certificate)],
            ["--tls-key-file", text(&own.key)],
            ["--tls-ca-cert-file", text(&ca)],
            [
                "--tls-auth-clients",
                if asks_clients { "yes" } else { "no" },
            ],
        ];
        (Self::start_with(None, &options.concat()).await, port)
    }

    /// The port on 127.0.0.1, which stays the same after restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Ends Redis and discards its data.
    pub fn stop(&mut self) {
        // With SIGKILL, because a paused process handles no other signal, and there is nothing to save.
        self.process = None;
    }

    /// Restarts Redis, empty, on the same port.
    pub async fn restart(&mut self) {
        self.stop();
        self.process = self.start_process().await;
        assert!(self.process.is_some(), "it does not start again");
    }

    /// Restarts Redis with another password, or without one.
    pub async fn restart_with_password(&mut self, password: Option<&str>) {
        self.password = password.map(str::to_owned);
        self.restart().await;
    }

    /// Pauses Redis: the kernel still accepts connections and data, but there are no answers.
    pub async fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        self.until("it is paused", |server| server.state() == Some('T'))
            .await;
    }

    /// Ends a pause: Redis answers what arrived meanwhile.
    pub async fn resume(&self) {
        self.signal(Signal::SIGCONT);
        self.until("it runs again", |server| server.state() != Some('T'))
            .await;
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<String> {
        self.ask(&["GET", key])
    }

    /// Remaining lifetime of a key in seconds; -1: unlimited, -2: the key does not exist.
    pub fn ttl(&self, key: &str) -> i64 {
        self.ask(&["TTL", key])
    }

    /// All its keys.
    pub fn keys(&self) -> Vec<String> {
        self.ask(&["KEYS", "*"])
    }

    /// Changes a setting of the running server.
    pub fn set_option(&self, name: &str, value: &str) {
        self.ask::<()>(&["CONFIG", "SET", name, value]);
    }

    /// Sends a command and returns the answer.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        command.arg(words);
        let answer = self.connect().and_then(|mut c| command.query(&mut c));
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Waits until a condition holds; a panic shows the log.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        until_or_show(what, async || condition(self), || self.log()).await;
    }

    async fn start_process(&self) -> Option<Process> {
        let folder = self.folder.path();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--unixsocket", "redis.sock", "--dir"])
            .arg(folder)
            .current_dir(folder)
            .args(&self.options);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        // Another process may have taken the port, and may be a Redis as well.
        let answers =
            async |process: &Process| self.process_id().is_ok_and(|id| id == process.id());
        start_server(&mut command, &self.log_file(), answers).await
    }

    fn connect(&self) -> RedisResult<Connection> {
        let limit = Duration::from_secs(5);
        let connection = Client::open(self.url())?.get_connection_with_timeout(limit)?;
        connection.set_read_timeout(Some(limit))?;
        Ok(connection)
    }

    fn process_id(&self) -> RedisResult<u32> {
        let info: redis::InfoDict = redis::cmd("INFO")
            .arg("server")
            .query(&mut self.connect()?)?;
        Ok(info.get("process_id").unwrap_or_default())
    }

    fn running(&self) -> Pid {
        let process = self.process.as_ref().expect("it was not stopped");
        Pid::from_raw(process.id().cast_signed())
    }

    fn signal(&self, signal: Signal) {
        kill(self.running(), signal).expect("it is running");
    }

    /// The state in /proc: `T` means stopped by a signal.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.running())).ok()?;
        stat.rsplit(')').next()?.trim_start().chars().next()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    fn log(&self) -> String {
        log_in(&self.log_file())
    }
}
