//! What the process is told from outside: to stop (SIGTERM, or Ctrl-C at the terminal), or to read its keys
//! again (SIGHUP).

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears both signals, as often as they come.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on, neither ends the process by itself.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Hears SIGHUP, as often as it comes.
pub struct HangUps {
    hang_up: Signal,
    /// The process was started at a terminal.
    had_terminal: bool,
}

/// What SIGHUP can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// The keys are to be read again.
    Reload,
    /// The terminal was closed.
    TerminalGone,
}

impl HangUps {
    /// From now on, it does not end the process by itself.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            had_terminal: std::io::stdin().is_terminal(),
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> HangUp {
        self.hang_up.recv().await;
        // One that was closed is none any more.
        if self.had_terminal && !std::io::stdin().is_terminal() {
            HangUp::TerminalGone
        } else {
            HangUp::Reload
        }
    }
}
