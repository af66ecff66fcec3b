//! Free ports.

use std::net::TcpListener;

use tokio::net::TcpSocket;

/// Attempts to start on a free port, because another process may take it first.
const ATTEMPTS: usize = 5;

/// A port on 127.0.0.1 on which nothing listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Starts a server on a free port; `None` from `start` means that another process took the port first.
pub async fn on_free_port<T>(mut start: impl AsyncFnMut(u16) -> Option<T>) -> T {
    for _ in 0..ATTEMPTS {
        if let Some(started) = start(free_port()).await {
            return started;
        }
    }
    panic!("it does not start");
}

/// A free port, held until this is dropped: the kernel gives it only to a process that asks for its number.
pub struct HeldPort {
    /// The port number as the value of a setting.
    pub number: String,
    /// Bound, but not listening, so that one server at a time may use the same address.
    _socket: TcpSocket,
}

impl HeldPort {
    /// Finds a free port and holds it.
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("can be shared");
        let any = "127.0.0.1:0".parse().expect("an address");
        socket.bind(any).expect("a port is free");
        let address = socket.local_addr().expect("an address");
        Self {
            number: address.port().to_string(),
            _socket: socket,
        }
    }

    /// The setting with the port.
    pub fn setting(&self) -> (&str, &str) {
        ("PORT", &self.number)
    }
}
