//! Commands from outside: stop (SIGTERM, or Ctrl-C at the terminal, or `POST /admin/drain`), and reload of the keys and
//! certificates (SIGHUP).

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Requests of clients to drain the server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DrainRequests(Arc<Notify>);

impl DrainRequests {
    /// Requests a drain.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits for the next request.
    pub async fn next(&self) {
        self.0.notified().await;
    }
}

/// Receives SIGTERM and SIGINT.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Installs the handlers. From now on, neither signal ends the process by itself.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Receives SIGHUP.
pub struct HangUps {
    hang_up: Signal,
    /// Whether the process was started in a terminal.
    had_terminal: bool,
}

/// The meaning of a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// Reload the keys and certificates.
    Reload,
    /// The terminal was closed.
    TerminalClosed,
}

impl HangUps {
    /// Installs the handler. From now on, SIGHUP does not end the process by itself.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            had_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> HangUp {
        self.hang_up.recv().await;
        // A closed terminal no longer counts as a terminal.
        if self.had_terminal && !std::io::stdin().is_terminal() {
            HangUp::TerminalClosed
        } else {
            HangUp::Reload
        }
    }
}
