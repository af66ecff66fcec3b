//! HAProxy's agent check (`AGENT_CHECK_PORT`): each connection gets one line about this node and is closed.
//!
//! | line | the node |
//! |---|---|
//! | `up 73% ready` | takes requests; the number is the weight that its load leaves, never 0 |
//! | `drain` | finishes what it has and takes nothing new: it drains, or its load is at the limit |
//! | `down #…` | cannot transcribe; the reason follows |
//!
//! HAProxy keeps `drain` as an administrative state, which `up` does not end: `ready` does. It therefore follows every
//! `up`, also after a restart of the node that HAProxy saw drain.

use std::fmt::{self, Write as _};
use std::io;
use std::net;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stt_actors::{HotState, Snapshot, Stt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::allow_list::AllowList;
use crate::metrics::tls::Protocol;
use crate::settings::Settings;

/// The most connections at the same time; HAProxy opens one for each check.
const MAX_CONNECTIONS: usize = 64;
/// How long a peer may take to accept the line.
const WRITE_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be accepted, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest reason in a line, in characters: HAProxy keeps the start of it for its page.
const LONGEST_REASON: usize = 100;

/// The port, bound and listening.
#[derive(Debug)]
pub struct AgentSocket(net::TcpListener);

/// The running server of agent checks. It ends when it is dropped.
pub struct AgentCheck(JoinHandle<()>);

impl AgentSocket {
    /// Binds the port of the settings; `None` if they name none.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn bind(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let Some(port) = settings.agent_check_port else {
            return Ok(None);
        };
        let host = settings.host;
        let listener = net::TcpListener::bind((host, port))
            .with_context(|| format!("cannot listen on {host}:{port} (HOST, AGENT_CHECK_PORT)"))?;
        listener.set_nonblocking(true)?;
        Ok(Some(Self(listener)))
    }
}

impl AgentCheck {
    /// Answers clients in these networks on this socket until it is dropped, also while the node drains.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn start(socket: AgentSocket, allow_list: AllowList, stt: Stt) -> io::Result<Self> {
        let listener = TcpListener::from_std(socket.0)?;
        let address = listener.local_addr()?;
        info!(%address, "the agent check of HAProxy is answered");
        Ok(Self(tokio::spawn(accept(listener, allow_list, stt))))
    }
}

impl Drop for AgentCheck {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, allow_list: AllowList, stt: Stt) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((_, address)) if !allow_list.admits(address.ip()) => {
                allow_list.refused(Protocol::AgentCheck, address.ip().to_canonical());
            }
            Ok((stream, _)) => {
                // Beyond the limit, the connection is closed; HAProxy keeps the state and asks again.
                if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                    let line = Line::of(&stt.snapshot()).to_string();
                    tokio::spawn(async move {
                        let _ = tokio::time::timeout(WRITE_LIMIT, answer(stream, &line)).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => {
                warn!(%error, "a connection for the agent check cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, line: &str) -> io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await
}

/// What a connection gets.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The weight in percent.
    Up(u8),
    Drain,
    Down(String),
}

impl Line {
    fn of(snapshot: &Snapshot) -> Self {
        if snapshot.draining {
            return Self::Drain;
        }
        match &snapshot.hot {
            HotState::Ready(_) | HotState::Asleep(_) if snapshot.accepts_requests() => {
                let left = (1.0 - snapshot.load_score()) * 100.0;
                Self::Up(left.round().clamp(1.0, 100.0) as u8)
            }
            HotState::Ready(_) | HotState::Asleep(_) => Self::Drain,
            HotState::Starting => Self::Down("loading".to_owned()),
            HotState::Restarting { reason } => Self::Down(format!("restarting: {reason}")),
            HotState::Failed { reason } => Self::Down(format!("failed: {reason}")),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(percent) => writeln!(f, "up {percent}% ready"),
            Self::Drain => f.write_str("drain\n"),
            Self::Down(reason) => {
                f.write_str("down #")?;
                for character in reason.chars().take(LONGEST_REASON) {
                    // A line break would end the line, and HAProxy shows what follows # as it is.
                    let is_plain = character.is_ascii_graphic() || character == ' ';
                    f.write_char(if is_plain { character } else { '?' })?;
                }
                f.write_str("\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_haproxy_reads() {
        assert_eq!(Line::Up(73).to_string(), "up 73% ready\n");
        assert_eq!(Line::Drain.to_string(), "drain\n");
        let reason = format!("failed: no model\nup 100%\u{e9}{}", "x".repeat(200));
        let line = Line::Down(reason).to_string();
        assert!(
            line.starts_with("down #failed: no model?up 100%?xx"),
            "{line}"
        );
        assert_eq!(line.len(), "down #\n".len() + LONGEST_REASON);
        assert_eq!(line.matches('\n').count(), 1);
    }
}
