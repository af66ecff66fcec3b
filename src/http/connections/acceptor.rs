//! From a new socket to a connection of HTTP: refuses addresses that are not allowed before it reads a byte, and makes
//! the TLS handshake.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix_http::ServiceConfig;
use actix_http::error::DispatchError;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::request_reader::RequestReader;
use super::stream::Stream;
use crate::allow_list::{AllowList, is_in};
use crate::metrics::tls::{Protocol, Refusal, record_refused};
use crate::throttle::Throttle;
use crate::tls::server::ServerCertificates;

/// How long a client may take for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How often a refused client certificate is logged at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
const PLAIN_HTTP: &str =
    "it is plain HTTP, and this server speaks HTTPS only: the address begins with https://";

/// Makes connections of sockets.
#[derive(Debug)]
pub struct Acceptor {
    allow_list: AllowList,
    trusted_proxies: Vec<IpNet>,
    certificates: Option<ServerCertificates>,
    log: Throttle,
}

/// What is known of a client before its first request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// It runs on this machine.
    pub is_this_machine: bool,
    /// It should have presented a certificate, and has not.
    pub lacks_certificate: bool,
}

impl Acceptor {
    pub fn new(
        allow_list: AllowList,
        trusted_proxies: Vec<IpNet>,
        certificates: Option<ServerCertificates>,
    ) -> Self {
        Self {
            allow_list,
            trusted_proxies,
            certificates,
            log: Throttle::new(LOG_INTERVAL),
        }
    }

    /// Makes a connection of a socket. `config`: that of the HTTP library.
    ///
    /// # Errors
    /// The connection is refused; the client gets no reply.
    pub async fn accept(
        &self,
        socket: TcpStream,
        config: ServiceConfig,
    ) -> Result<(RequestReader<Stream>, Option<SocketAddr>), DispatchError> {
        let address = socket.peer_addr()?;
        let is_this_machine = is_this_machine(&socket);
        // A proxy's client is known after the head of its request; this machine may ask for the server's health.
        let may_connect = is_this_machine
            || self.allow_list.admits(address.ip())
            || is_in(address.ip(), &self.trusted_proxies);
        if !may_connect {
            let address = address.ip().to_canonical();
            self.allow_list.refused(Protocol::Http, address);
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        let Some(certificates) = &self.certificates else {
            let stream = Stream::Plain(socket);
            return Ok((RequestReader::new(stream, config), Some(address)));
        };
        // A handshake is a dialogue of small messages.
        let _ = socket.set_nodelay(true);
        let acceptor = TlsAcceptor::from(certificates.config(is_this_machine));
        let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, async {
            if is_plain(&socket).await? {
                return Ok(RequestReader::unreadable(
                    Stream::Plain(socket),
                    config,
                    PLAIN_HTTP,
                ));
            }
            let stream = Stream::Tls(Box::new(acceptor.accept(socket).await?));
            Ok(RequestReader::new(stream, config))
        });
        let failed = match handshake.await {
            Ok(Ok(reader)) => return Ok((reader, Some(address))),
            Ok(Err(error)) => error,
            Err(_elapsed) => io::ErrorKind::TimedOut.into(),
        };
        self.handshake_failed(address, &failed);
        Err(failed.into())
    }

    /// What is known of the client of a connection.
    pub fn peer(&self, stream: &Stream) -> Peer {
        let demands = self.certificates.as_ref();
        let demands = demands.is_some_and(ServerCertificates::demands_certificates);
        Peer {
            is_this_machine: is_this_machine(stream.socket()),
            lacks_certificate: demands && !stream.has_client_certificate(),
        }
    }

    fn handshake_failed(&self, address: SocketAddr, error: &io::Error) {
        let refusal = match error.kind() {
            // The client asked whether the port is open, and no more.
            io::ErrorKind::NotConnected => return,
            io::ErrorKind::TimedOut => Refusal::HandshakeTimeout,
            _ if is_about_client_certificate(error) => Refusal::ClientCertificate,
            _ => Refusal::Handshake,
        };
        record_refused(Protocol::Http, refusal);
        debug!(%address, %error, "a TLS handshake failed");
        if refusal == Refusal::ClientCertificate
            && let Some(left_out) = self.log.pass()
        {
            warn!(
                %address, %error, left_out,
                "refused a connection: it needs a certificate of an authority in TLS_CLIENT_CA"
            );
        }
    }
}

/// Whether the client runs on this machine.
fn is_this_machine(socket: &TcpStream) -> bool {
    match (socket.peer_addr(), socket.local_addr()) {
        (Ok(peer), Ok(local)) => {
            let peer = peer.ip().to_canonical();
            peer.is_loopback() || peer == local.ip().to_canonical()
        }
        _ => false,
    }
}

/// Whether the client's first byte is one of plain HTTP. Leaves the byte in the socket.
async fn is_plain(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match socket.peek(&mut first).await? {
        0 => Err(io::ErrorKind::NotConnected.into()),
        // Methods are capital letters.
        _ => Ok(first[0] != HANDSHAKE && first[0].is_ascii_uppercase()),
    }
}

fn is_about_client_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref();
    let error = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_))
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tokio::net::TcpListener;
    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::*;
    use crate::settings::TlsSettings;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_or_half_a_handshake_is_disconnected() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
            .args("-subj /CN=server -keyout key.pem -out cert.pem".split(' '))
            .current_dir(folder.path())
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        let settings = TlsSettings {
            certificate: Some(folder.path().join("cert.pem")),
            key: Some(folder.path().join("key.pem")),
            client_ca: None,
        };
        let certificates = ServerCertificates::load(&settings).expect("loads");
        let acceptor = Acceptor::new(AllowList::new(&[]), Vec::new(), certificates);
        for sent in [&b""[..], b"\x16\x03\x01\x02"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let address = listener.local_addr().expect("bound");
            let client = TcpStream::connect(address).await.expect("connects");
            assert_eq!(client.try_write(sent).unwrap_or(0), sent.len());
            let (socket, _) = listener.accept().await.expect("accepts");
            let begin = Instant::now();
            // The library's clock is a task of this thread.
            let accepted = LocalSet::new()
                .run_until(async { acceptor.accept(socket, ServiceConfig::default()).await })
                .await;
            let error = accepted.err().expect("refused");
            assert!(
                matches!(&error, DispatchError::Io(error) if error.kind() == io::ErrorKind::TimedOut),
                "{error}"
            );
            assert!(begin.elapsed() >= HANDSHAKE_LIMIT);
        }
    }
}
