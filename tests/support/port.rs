//! A port for several servers, one after the other.

use tokio::net::TcpSocket;

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
