//! Closes idle connections. The HTTP library limits the time for the head of a connection's first
//! request and between two requests; without this module, the head of a later request, or a rejected
//! chunked body that is not read, could take any time.

use std::any::Any;
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

/// All open connections.
#[derive(Clone, Debug, Default)]
pub struct IdleTracker(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// A duplicate of the socket, through which this module can close the connection.
    socket: TcpStream,
    requests: u32,
    /// When `requests` last changed.
    changed_at: Instant,
}

impl IdleTracker {
    /// Tracks a new connection until the returned guard is dropped. `None` if the socket cannot be
    /// duplicated.
    pub fn track(&self, socket: &dyn Any) -> Option<TrackedConnection> {
        let socket = socket.downcast_ref::<actix_web::rt::net::TcpStream>()?;
        let socket = socket.as_fd().try_clone_to_owned();
        // Probably out of file descriptors: serve the connection without idle tracking.
        let socket =
            socket.inspect_err(|reason| warn!(%reason, "a connection has no idle tracking"));
        let connection = Connection {
            socket: socket.ok()?.into(),
            requests: 0,
            changed_at: Instant::now(),
        };
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.0.open().insert(id, connection);
        Some(TrackedConnection {
            tracker: Arc::clone(&self.0),
            id,
        })
    }

    /// Starts to close connections that had no request for `limit`, checking every `interval`.
    pub fn close_idle(&self, limit: Duration, interval: Duration) {
        let tracker = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                let Some(tracker) = tracker.upgrade() else {
                    return;
                };
                tracker.close_idle(limit);
            }
        });
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_idle(&self, limit: Duration) {
        for connection in self.open().values_mut() {
            if connection.requests == 0 && connection.changed_at.elapsed() >= limit {
                // The server sees the same as if the client had closed it. Ignore that it may be closed
                // already.
                let _ = connection.socket.shutdown(Shutdown::Both);
                debug!("closed an idle connection");
            }
        }
    }

    fn count(&self, id: u64, count: impl FnOnce(&mut u32)) {
        if let Some(connection) = self.open().get_mut(&id) {
            count(&mut connection.requests);
            connection.changed_at = Instant::now();
        }
    }
}

/// A tracked connection.
#[derive(Debug)]
pub struct TrackedConnection {
    tracker: Arc<Inner>,
    id: u64,
}

impl TrackedConnection {
    /// Marks the connection as busy until the returned guard is dropped.
    pub fn begin_request(&self) -> RequestInProgress {
        self.tracker.count(self.id, |requests| *requests += 1);
        RequestInProgress {
            tracker: Arc::clone(&self.tracker),
            id: self.id,
        }
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        self.tracker.open().remove(&self.id);
    }
}

/// A request in progress on a tracked connection.
#[derive(Debug)]
pub struct RequestInProgress {
    tracker: Arc<Inner>,
    id: u64,
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.tracker.count(self.id, |requests| *requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use crate::http::connections::ConnectionLimit;
    use crate::http::connections::guard;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);

    /// Lets a test hold a request to `/wait`.
    struct Gate {
        arrived: Semaphore,
        open: Semaphore,
    }

    /// A server that reads no body and has no other limit than this one.
    fn serve(limit: &ConnectionLimit, gate: &Arc<Gate>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let (limit, gate) = (limit.clone(), Arc::clone(gate));
        let server = HttpServer::new(move || {
            let gate = Arc::clone(&gate);
            App::new()
                .wrap(from_fn(guard::guard_connection))
                .default_service(web::to(move |request: HttpRequest| {
                    let gate = Arc::clone(&gate);
                    async move {
                        match request.path() {
                            "/wait" => {
                                gate.arrived.add_permits(1);
                                let _ = gate.open.acquire().await;
                                HttpResponse::Ok().body("waited")
                            }
                            "/rejected" => HttpResponse::Unauthorized().body("no"),
                            _ => HttpResponse::Ok().body("yes"),
                        }
                    }
                }))
        })
        .workers(1)
        .on_connect(move |socket, connection| limit.on_connect(socket, connection))
        .keep_alive(LONG)
        .client_request_timeout(LONG)
        .client_disconnect_timeout(SHORT)
        .h1_allow_half_closed(false)
        .disable_signals()
        .listen(listener)
        .expect("listens");
        tokio::spawn(server.run());
        address
    }

    fn gate() -> Arc<Gate> {
        Arc::new(Gate {
            arrived: Semaphore::new(0),
            open: Semaphore::new(0),
        })
    }

    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(text.as_bytes()).await.expect("sends");
        stream
    }

    /// Everything that the server sends until it closes the connection.
    async fn read_to_end(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let read = stream.read_to_end(&mut text);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        read.expect("it is closed").expect("reads");
        String::from_utf8(text).expect("UTF-8")
    }

    #[tokio::test]
    async fn idle_connections_are_closed_whatever_was_sent_and_busy_ones_are_not() {
        let (limit, gate) = (ConnectionLimit::new(8), gate());
        let address = serve(&limit, &gate);
        let busy = send(address, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let arrived = gate.arrived.acquire().await.expect("arrives");
        limit.close_idle(SHORT, SHORT);
        for (sent, expected) in [
            ("", ""),
            ("GET", ""),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "yes"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\nG", "yes"),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                "yes",
            ),
        ] {
            let got = read_to_end(send(address, sent).await).await;
            assert!(got.ends_with(expected), "{sent:?}: {got}");
        }
        drop(arrived);
        gate.open.add_permits(1);
        let got = read_to_end(busy).await;
        assert!(got.ends_with("waited"), "{got}");
        let all_gone = async {
            while !limit.idle_tracker().0.open().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(60);
        let gone = tokio::time::timeout(patience, all_gone).await;
        gone.expect("none of them is left");
    }

    #[tokio::test]
    async fn a_rejected_chunked_body_has_its_connection_closed_unread() {
        let (limit, gate) = (ConnectionLimit::new(8), gate());
        let address = serve(&limit, &gate);
        let head = "POST /rejected HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let got = read_to_end(send(address, head).await).await;
        assert!(got.starts_with("HTTP/1.1 401"), "{got}");
        assert!(got.contains("connection: close"), "{got}");
    }
}
