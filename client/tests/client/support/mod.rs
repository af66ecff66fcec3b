//! A scripted server, a frozen clock, and a recorder for the telemetry hook.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uttera_stt_client::{Attempt, Client, ClientBuilder, RetryPolicy};

/// A test fails if a condition takes longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server does with a connection.
#[derive(Clone, Debug)]
pub enum Act {
    /// Reads the request, sends these bytes and closes the connection.
    Reply(String),
    /// Reads the request, sends these bytes and keeps the connection open.
    ReplyAndHang(String),
    /// Sends these bytes after the head, without reading the body.
    ReplyEarly(String),
    /// Reads the head and does nothing more.
    HangAtHead,
}

/// A reply with this status and a JSON body.
pub fn json(status: u16, headers: &str, body: &str) -> Act {
    Act::Reply(reply(status, headers, body))
}

/// The bytes of a reply. `headers` are lines that end in CRLF.
pub fn reply(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// A reply with a minimal transcript.
pub fn fine() -> Act {
    json(200, "", r#"{"text":"Hello."}"#)
}

/// A received request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// The body without the boundary, which is random.
    pub fn form(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let lines = text.lines().filter(|line| !line.starts_with("--"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[derive(Default)]
struct Shared {
    acts: VecDeque<Act>,
    requests: Vec<Request>,
    connections: usize,
}

/// A scripted server. Each connection gets the next act; the last act repeats.
pub struct Scripted {
    pub url: String,
    shared: Arc<Mutex<Shared>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    pub async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        Self::on(listener, acts)
    }

    pub fn on(listener: TcpListener, acts: impl IntoIterator<Item = Act>) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Mutex::new(Shared {
            acts: acts.into_iter().collect(),
            ..Shared::default()
        }));
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, task }
    }

    /// Replaces the acts.
    pub fn then(&self, acts: impl IntoIterator<Item = Act>) {
        lock(&self.shared).acts = acts.into_iter().collect();
    }

    /// The received requests: complete ones, or heads if the act reads no further.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared).requests.clone()
    }

    pub fn connections(&self) -> usize {
        lock(&self.shared).connections
    }

    pub async fn until_requests(&self, count: usize) {
        until(&format!("{count} requests"), || {
            self.requests().len() >= count
        })
        .await;
    }

    /// Stops the server and returns its address, which then refuses connections.
    pub async fn stop(self) -> String {
        self.task.abort();
        let _ = self.task.await;
        self.url
    }

    /// A client of this server whose retries do not wait.
    pub fn client(&self) -> ClientBuilder {
        client(&self.url)
    }
}

/// A client whose retries do not wait.
pub fn client(url: &str) -> ClientBuilder {
    let policy = RetryPolicy {
        base: Duration::ZERO,
        ..RetryPolicy::default()
    };
    Client::builder(url).no_proxy().retry(policy)
}

/// An address that refuses connections.
pub async fn refusing_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    format!("http://{}", listener.local_addr().expect("bound"))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let act = {
            let mut shared = lock(&shared);
            shared.connections += 1;
            match shared.acts.len() {
                0 | 1 => shared.acts.front().cloned(),
                _ => shared.acts.pop_front(),
            }
        };
        let Some(act) = act else { continue };
        connections.spawn(serve(stream, act, Arc::clone(&shared)));
    }
}

async fn serve(mut stream: TcpStream, act: Act, shared: Arc<Mutex<Shared>>) -> Option<()> {
    let (head, rest) = read_head(&mut stream).await?;
    let reads_body = matches!(act, Act::Reply(_) | Act::ReplyAndHang(_));
    let body = if reads_body {
        read_body(&mut stream, &head, rest).await?
    } else {
        rest
    };
    lock(&shared).requests.push(Request { head, body });
    match act {
        Act::Reply(bytes) | Act::ReplyEarly(bytes) => {
            stream.write_all(bytes.as_bytes()).await.ok()?;
            stream.shutdown().await.ok()
        }
        Act::ReplyAndHang(bytes) => {
            stream.write_all(bytes.as_bytes()).await.ok()?;
            std::future::pending().await
        }
        Act::HangAtHead => std::future::pending().await,
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8_lossy(&read).to_lowercase(), rest));
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

async fn read_body(stream: &mut TcpStream, head: &str, mut body: Vec<u8>) -> Option<Vec<u8>> {
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
    let is_chunked = head.contains("transfer-encoding: chunked");
    loop {
        let is_whole = match length {
            Some(length) => body.len() >= length,
            None => !is_chunked || body.ends_with(b"0\r\n\r\n"),
        };
        if is_whole {
            return Some(body);
        }
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
}

/// Lets other tasks run until a condition holds. Does not depend on tokio's clock.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "never happened: {what}");
        tokio::task::yield_now().await;
    }
}

/// A clock that moves only in [`Frozen::advance`]. tokio's paused clock advances by itself whenever all tasks
/// are idle, and counts waiting for a socket as idle, but it does not advance during blocking work.
pub struct Frozen {
    _end: std::sync::mpsc::Sender<()>,
}

impl Frozen {
    pub fn clock() -> Self {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv());
        tokio::time::pause();
        Self { _end: end }
    }

    /// Advances the clock, and lets the tasks that waited for it run.
    pub async fn advance(&self, seconds: f64) {
        tokio::time::advance(Duration::from_secs_f64(seconds)).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
}

/// Records the attempts that a telemetry hook reports.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Told>>>);

/// A reported attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub server: String,
    pub attempt: u32,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub will_retry: Option<Duration>,
    pub duration: Duration,
    pub request_id: Option<String>,
}

impl Heard {
    pub fn hook(&self) -> impl Fn(&Attempt<'_>) + Send + Sync + 'static {
        let heard = self.clone();
        move |attempt: &Attempt<'_>| {
            lock(&heard.0).push(Told {
                server: attempt.server.to_owned(),
                attempt: attempt.attempt,
                status: attempt.status,
                error: attempt.error.map(ToString::to_string),
                will_retry: attempt.will_retry,
                duration: attempt.duration,
                request_id: attempt.headers.request_id.clone(),
            });
        }
    }

    /// Waits until this many attempts are reported.
    pub async fn until(&self, attempts: usize) {
        until("an attempt ends", || self.all().len() >= attempts).await;
    }

    pub fn all(&self) -> Vec<Told> {
        lock(&self.0).clone()
    }
}
