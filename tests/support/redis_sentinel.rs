//! A real sentinel, which watches a master with one replica.

use std::fs;
use std::process::{Command, Stdio};

use deadpool_redis::redis::{self, Client};
use tempfile::TempDir;

use crate::port::free_port;
use crate::processes::Process;
use crate::redis_server::RedisServer;
use crate::tls::{Authority, text};
use crate::waiting::until_or_show;

/// The name of the master.
const MASTER: &str = "main";

/// A master, its replica, and the sentinel that makes the replica the master when the master is gone.
pub struct RedisSentinel {
    /// The first master.
    pub master: RedisServer,
    /// Its replica.
    pub replica: RedisServer,
    /// Its port, without and with TLS.
    port: u16,
    tls_port: Option<u16>,
    _process: Process,
    folder: TempDir,
}

impl RedisSentinel {
    /// Starts all three, and waits until the sentinel knows the replica.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same with TLS between all of them and clients, who need a certificate of this authority.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority)).await
    }

    async fn start_with(authority: Option<&Authority>) -> Self {
        let issued = authority.map(|authority| (authority.issue("redis"), authority.certificate()));
        let options = |port: u16| -> Vec<(&str, String)> {
            let Some((issued, ca)) = &issued else {
                return Vec::new();
            };
            vec![
                ("tls-port", port.to_string()),
                ("tls-cert-file", text(&issued.certificate).to_owned()),
                ("tls-key-file", text(&issued.key).to_owned()),
                ("tls-ca-cert-file", text(ca).to_owned()),
                ("tls-auth-clients", "yes".to_owned()),
                ("tls-replication", "yes".to_owned()),
            ]
        };
        let arguments = |options: &[(&str, String)]| -> Vec<String> {
            let pairs = options.iter();
            pairs
                .flat_map(|(name, value)| [format!("--{name}"), value.clone()])
                .collect()
        };
        let server = async |more: &[&str]| {
            let port = free_port();
            let arguments = arguments(&options(port));
            let arguments = arguments.iter().map(String::as_str);
            let all: Vec<_> = arguments.chain(more.iter().copied()).collect();
            let server = RedisServer::start_with(None, &all).await;
            let port = if authority.is_some() {
                port
            } else {
                server.port()
            };
            (server, port)
        };
        let (master, port) = server(&[]).await;
        let of = format!("127.0.0.1 {port}");
        let (replica, _) = server(&["--replicaof", &of]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let (port, tls_port) = (free_port(), authority.map(|_| free_port()));
        let of_tls: String = options(tls_port.unwrap_or_default())
            .iter()
            .map(|(name, value)| [name, " ", value, "\n"].concat())
            .collect();
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nlogfile sentinel.log\ndir {}\nsentinel monitor {MASTER} {of} 1\n\
             sentinel down-after-milliseconds {MASTER} 3600000\nsentinel failover-timeout {MASTER} 3000\n{of_tls}",
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
            tls_port,
            _process: Process(process.expect("redis-server is installed")),
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
        let (scheme, port) = match self.tls_port {
            Some(port) => ("rediss", port),
            None => ("redis", self.port),
        };
        format!("{scheme}+sentinel://127.0.0.1:{away},127.0.0.1:{port}/{MASTER}")
    }

    /// Lets the sentinel replace the master when that gives no answer for three seconds. Before, it waits for an hour,
    /// however slow the machine is. It takes no replica that lost its master more than ten times as long ago.
    pub fn allow_failover(&self) {
        let soon = ["SENTINEL", "SET", MASTER, "down-after-milliseconds", "3000"];
        self.ask(&soon).expect("the sentinel answers");
    }

    /// Waits until the sentinel names the replica as the master. The replica itself cannot be asked reliably: the
    /// sentinel ends its connections when it makes it the master.
    pub async fn until_failover(&self) {
        let port = self.replica.port().to_string();
        let is_named = async || {
            let named = self.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
            named.is_some_and(|address| address.contains(&port))
        };
        self.until("the replica is the master", is_named).await;
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
