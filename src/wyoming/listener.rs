//! The sockets that the server listens on.

use std::io;
use std::net::{self, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Caller, MAX_CONNECTIONS, Server, connection};
use crate::metrics::tls::Protocol;
use crate::settings::{Settings, WyomingAddress};

/// Pause after a connection that could not be accepted, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The sockets, bound and listening.
#[derive(Debug, Default)]
pub struct Sockets {
    tcp: Vec<(net::TcpListener, SocketAddr)>,
    unix: Vec<(unix::UnixListener, SocketFile)>,
}

/// The file of a unix socket. Dropping it removes the file.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Sockets {
    /// Binds the sockets of the settings; `None` if they name none.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn bind(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let mut sockets = Self::default();
        if let Some(port) = settings.wyoming.port {
            let host = settings.host;
            let listener = net::TcpListener::bind((host, port))
                .with_context(|| format!("cannot listen on {host}:{port} (HOST, WYOMING_PORT)"))?;
            sockets.add(listener)?;
        }
        for address in &settings.wyoming.addresses {
            match address {
                WyomingAddress::Tcp(address) => {
                    let listener = net::TcpListener::bind(address.as_str())
                        .with_context(|| format!("cannot listen on {address} (WYOMING_URI)"))?;
                    sockets.add(listener)?;
                }
                WyomingAddress::Unix(path) => {
                    let listener = bind_unix(path).with_context(|| {
                        format!("cannot listen on {} (WYOMING_URI)", path.display())
                    })?;
                    listener.set_nonblocking(true)?;
                    let file = SocketFile(path.clone());
                    sockets.unix.push((listener, file));
                }
            }
        }
        let is_none = sockets.tcp.is_empty() && sockets.unix.is_empty();
        Ok((!is_none).then_some(sockets))
    }

    fn add(&mut self, listener: net::TcpListener) -> anyhow::Result<()> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        self.tcp.push((listener, address));
        Ok(())
    }

    /// The address of the first TCP socket.
    pub(super) fn first_address(&self) -> Option<SocketAddr> {
        self.tcp.first().map(|(_, address)| *address)
    }

    /// Addresses that other machines may reach.
    pub fn open_to_others(&self) -> impl Iterator<Item = SocketAddr> {
        let addresses = self.tcp.iter().map(|(_, address)| *address);
        addresses.filter(|address| !address.ip().is_loopback())
    }

    /// Accepts connections until the server drains.
    pub(super) fn serve(self, server: Arc<Server>, tasks: &TaskTracker) -> io::Result<()> {
        let connections = Connections {
            server,
            tasks: tasks.clone(),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            accepted: Arc::default(),
        };
        for (listener, address) in self.tcp {
            let listener = TcpListener::from_std(listener)?;
            info!(%address, "Wyoming is served on TCP");
            tasks.spawn(connections.clone().accept_tcp(listener));
        }
        for (listener, file) in self.unix {
            let listener = UnixListener::from_std(listener)?;
            info!(path = %file.0.display(), "Wyoming is served on a unix socket");
            tasks.spawn(connections.clone().accept_unix(listener, file));
        }
        Ok(())
    }
}

/// Binds a unix socket. Replaces the file of a server that no longer runs.
fn bind_unix(path: &PathBuf) -> io::Result<unix::UnixListener> {
    match unix::UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            let is_left = is_socket
                && unix::UnixStream::connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if !is_left {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            unix::UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// Starts connections.
#[derive(Clone)]
struct Connections {
    server: Arc<Server>,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    accepted: Arc<AtomicU64>,
}

impl Connections {
    async fn accept_tcp(self, listener: TcpListener) {
        while let Some(accepted) = self.next(listener.accept()).await {
            match accepted {
                Ok((_, address)) if !self.server.allow_list.admits(address.ip()) => {
                    let address = address.ip().to_canonical();
                    self.server.allow_list.refused(Protocol::Wyoming, address);
                }
                Ok((stream, address)) => {
                    // Replies are small and awaited.
                    let _ = stream.set_nodelay(true);
                    let caller = self.caller(Some(address));
                    self.start(stream, caller);
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    async fn accept_unix(self, listener: UnixListener, _file: SocketFile) {
        while let Some(accepted) = self.next(listener.accept()).await {
            match accepted {
                Ok((stream, _)) => self.start(stream, self.caller(None)),
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// The next connection; `None` when the server drains.
    async fn next<T>(&self, accepted: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.server.draining.cancelled() => None,
            accepted = accepted => Some(accepted),
        }
    }

    async fn pause(&self, error: &io::Error) {
        warn!(%error, "a Wyoming connection cannot be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    fn caller(&self, address: Option<SocketAddr>) -> Caller {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        Caller {
            peer: address.map_or_else(|| "unix".to_owned(), |address| address.to_string()),
            address: address.map(|address| address.ip().to_canonical()),
            id: format!("wyoming-{number}").into(),
        }
    }

    fn start<S>(&self, stream: S, caller: Caller)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let limit = MAX_CONNECTIONS;
            warn!(
                peer = caller.peer,
                limit, "a Wyoming connection is closed: there are too many"
            );
            return;
        };
        let server = Arc::clone(&self.server);
        self.tasks.spawn(async move {
            let _permit = permit;
            connection::serve(stream, server, caller).await;
        });
    }
}
