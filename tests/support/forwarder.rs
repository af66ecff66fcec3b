//! A TCP port that leads to another one until a test cuts it.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections on 127.0.0.1. Dropping it ends all of them.
pub struct Forwarder {
    /// The port to connect to.
    pub port: u16,
    is_cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Starts one that leads to this port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let is_cut = watch::Sender::new(false);
        let watched = is_cut.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inner, _)) = listener.accept().await {
                let mut watched = watched.clone();
                connections.spawn(async move {
                    let forward = async {
                        let mut outer = TcpStream::connect(("127.0.0.1", port)).await?;
                        copy_bidirectional(&mut inner, &mut outer).await
                    };
                    tokio::select! {
                        _ = forward => {}
                        _ = watched.wait_for(|is_cut| *is_cut) => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            port: own,
            is_cut,
            task,
        }
    }

    /// Closes all connections, and each new one at once.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Forwards connections again.
    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
