//! Connections on which nothing goes on are closed: the HTTP library limits the head of the first request
//! and the time between two; the head of a later one, and a body in chunks that is refused unread, could
//! take as long as the client likes.

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
pub struct Attendance(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// The same socket once more: closing it needs nobody's help.
    socket: TcpStream,
    requests: u32,
    /// Since when there have been so many.
    since: Instant,
}

impl Attendance {
    /// Attends to a new connection until what is given is dropped. `None`: it is no socket.
    pub fn enter(&self, socket: &dyn Any) -> Option<Attended> {
        let socket = socket.downcast_ref::<actix_web::rt::net::TcpStream>()?;
        let socket = socket.as_fd().try_clone_to_owned();
        // It is served all the same: who has no file left has other worries.
        let socket = socket.inspect_err(|reason| warn!(%reason, "a connection goes unattended"));
        let connection = Connection {
            socket: socket.ok()?.into(),
            requests: 0,
            since: Instant::now(),
        };
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.open().insert(number, connection);
        Some(Attended {
            all: Arc::clone(&self.0),
            number,
        })
    }

    /// From now on, connections without a request for so long are closed; they are looked at so often.
    pub fn close_idle(&self, limit: Duration, every: Duration) {
        let all = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                let Some(all) = all.upgrade() else { return };
                all.close_idle(limit);
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
            if connection.requests == 0 && connection.since.elapsed() >= limit {
                // The server notices as if the client had done it. One that is closed already is fine.
                let _ = connection.socket.shutdown(Shutdown::Both);
                debug!("a connection without a request was closed");
            }
        }
    }

    fn count(&self, number: u64, count: impl FnOnce(&mut u32)) {
        if let Some(connection) = self.open().get_mut(&number) {
            count(&mut connection.requests);
            connection.since = Instant::now();
        }
    }
}

/// A connection that is attended to.
#[derive(Debug)]
pub struct Attended {
    all: Arc<Inner>,
    number: u64,
}

impl Attended {
    /// A request has come; it is under way until what is given is dropped.
    pub fn request(&self) -> UnderWay {
        self.all.count(self.number, |requests| *requests += 1);
        UnderWay {
            all: Arc::clone(&self.all),
            number: self.number,
        }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.all.open().remove(&self.number);
    }
}

/// A request under way.
#[derive(Debug)]
pub struct UnderWay {
    all: Arc<Inner>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.count(self.number, |requests| *requests -= 1);
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

    use crate::http::connections::Seats;
    use crate::http::connections::guard;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(100);

    /// What `/wait` tells and waits for.
    struct Door {
        came: Semaphore,
        go: Semaphore,
    }

    /// A server that reads no body, on which nothing but this is limited.
    fn serve(seats: &Seats, door: &Arc<Door>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("an address");
        let (seats, door) = (seats.clone(), Arc::clone(door));
        let server = HttpServer::new(move || {
            let door = Arc::clone(&door);
            App::new()
                .wrap(from_fn(guard::hold))
                .default_service(web::to(move |request: HttpRequest| {
                    let door = Arc::clone(&door);
                    async move {
                        match request.path() {
                            "/wait" => {
                                door.came.add_permits(1);
                                let _ = door.go.acquire().await;
                                HttpResponse::Ok().body("waited")
                            }
                            "/refused" => HttpResponse::Unauthorized().body("no"),
                            _ => HttpResponse::Ok().body("yes"),
                        }
                    }
                }))
        })
        .workers(1)
        .on_connect(move |socket, connection| seats.welcome(socket, connection))
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

    fn door() -> Arc<Door> {
        Arc::new(Door {
            came: Semaphore::new(0),
            go: Semaphore::new(0),
        })
    }

    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(text.as_bytes()).await.expect("sends");
        stream
    }

    /// All that comes until the server closes the connection.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = Vec::new();
        let read = stream.read_to_end(&mut text);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        read.expect("it is closed").expect("reads");
        String::from_utf8(text).expect("UTF-8")
    }

    #[tokio::test]
    async fn what_has_no_request_is_closed_whatever_was_sent_and_what_has_one_is_not() {
        let (seats, door) = (Seats::new(8), door());
        let address = serve(&seats, &door);
        let busy = send(address, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let came = door.came.acquire().await.expect("comes");
        seats.close_idle(SHORT, SHORT);
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
            let got = rest(send(address, sent).await).await;
            assert!(got.ends_with(expected), "{sent:?}: {got}");
        }
        drop(came);
        door.go.add_permits(1);
        let got = rest(busy).await;
        assert!(got.ends_with("waited"), "{got}");
        let all_gone = async {
            while !seats.attendance().0.open().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(60);
        let gone = tokio::time::timeout(patience, all_gone).await;
        gone.expect("nothing of them is left");
    }

    #[tokio::test]
    async fn a_body_in_chunks_that_is_refused_unread_has_its_connection_closed() {
        let (seats, door) = (Seats::new(8), door());
        let address = serve(&seats, &door);
        let head = "POST /refused HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let got = rest(send(address, head).await).await;
        assert!(got.starts_with("HTTP/1.1 401"), "{got}");
        assert!(got.contains("connection: close"), "{got}");
    }
}
