//! The end of a worker process. One task owns the child, always waits for it, and reports how it ended. Its
//! memory counts as free only then.

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stt_actors::domain::error::EngineExit;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::engine::protocol::OUT_OF_MEMORY_EXIT;
use crate::host_memory::oom_kills;

/// How long a worker may take to exit after its handle was dropped and its socket closed.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Requests to the owner of a child.
#[derive(Debug)]
pub enum End {
    /// The socket was closed: wait for half of `grace`, send SIGTERM, wait for the other half, then send
    /// SIGKILL.
    Stop {
        /// The whole time that the worker may take.
        grace: Duration,
    },
    /// Kill the child at once, for this cause.
    Kill(EngineExit),
}

/// A handle to the task that owns one worker process.
#[derive(Clone, Debug)]
pub struct ChildOwner {
    requests: mpsc::UnboundedSender<End>,
    exit: watch::Receiver<Option<EngineExit>>,
    process_id: Option<u32>,
}

impl ChildOwner {
    /// Takes over the child. When the last clone is dropped, the child is stopped.
    pub fn own(child: Child) -> Self {
        let process_id = child.id();
        let (requests, inbox) = mpsc::unbounded_channel();
        let (exit, watcher) = watch::channel(None);
        // Detached on purpose: the caller that requests the end may itself be dropped before it comes.
        let killed_before = oom_kills();
        tokio::spawn(async move {
            let how = reap(child, inbox).await;
            exit.send_replace(Some(lack_of_memory(how, killed_before)));
        });
        Self {
            requests,
            exit: watcher,
            process_id,
        }
    }

    /// The process id, also after the process ended.
    pub fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    /// Requests the end. The first request decides the cause that is reported.
    pub fn ask(&self, end: End) {
        // If the child has ended, so has its owner.
        let _ = self.requests.send(end);
    }

    /// Resolves once the process has ended.
    pub async fn exited(&self) -> EngineExit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        let how = ended.ok().and_then(|how| how.clone());
        // The sender is dropped unsent only when the runtime itself goes down.
        how.unwrap_or(EngineExit::Stopped)
    }
}

/// Tells exits for lack of memory from others. When an allocation fails, ggml aborts, and the worker turns
/// that into an exit code of its own. The kernel's out-of-memory killer leaves no message; only its counter,
/// which rises, distinguishes it from any other SIGKILL.
fn lack_of_memory(exit: EngineExit, killed_before: Option<u64>) -> EngineExit {
    let kernel_killed = || {
        let now = oom_kills();
        now.zip(killed_before)
            .is_some_and(|(now, before)| now > before)
    };
    match exit {
        EngineExit::Code(OUT_OF_MEMORY_EXIT) => EngineExit::OutOfMemory,
        EngineExit::Killed { ref signal } if signal == "SIGKILL" && kernel_killed() => {
            EngineExit::OutOfMemory
        }
        other => other,
    }
}

/// Waits for the child and carries out requests meanwhile.
async fn reap(mut child: Child, mut inbox: mpsc::UnboundedReceiver<End>) -> EngineExit {
    let asked = tokio::select! {
        status = child.wait() => return classify(status, None),
        asked = inbox.recv() => asked,
    };
    match asked {
        Some(End::Kill(cause)) => {
            // Fails only if the child has already ended.
            let _ = child.start_kill();
            classify(child.wait().await, Some(cause))
        }
        Some(End::Stop { grace }) => stop(&mut child, &mut inbox, grace).await,
        None => stop(&mut child, &mut inbox, ORPHAN_GRACE).await,
    }
}

async fn stop(
    child: &mut Child,
    inbox: &mut mpsc::UnboundedReceiver<End>,
    grace: Duration,
) -> EngineExit {
    for signal in [None, Some(Signal::SIGTERM)] {
        if let (Some(signal), Some(pid)) = (signal, child.id()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
        let patience = tokio::time::sleep(grace / 2);
        tokio::select! {
            _ended = child.wait() => return EngineExit::Stopped,
            () = patience => {}
            Some(End::Kill(_)) = inbox.recv() => break,
        }
    }
    warn!("worker did not stop in time, killed it");
    let _ = child.start_kill();
    let _ = child.wait().await;
    EngineExit::Stopped
}

/// The meaning of an exit status. The `cause` of a requested kill takes precedence over the SIGKILL.
fn classify(status: std::io::Result<ExitStatus>, cause: Option<EngineExit>) -> EngineExit {
    use std::os::unix::process::ExitStatusExt;
    if let Some(cause) = cause {
        return cause;
    }
    let status = match status {
        Ok(status) => status,
        Err(error) => return EngineExit::Protocol(format!("cannot wait for the process: {error}")),
    };
    let Some(number) = status.signal() else {
        return EngineExit::Code(status.code().unwrap_or(-1));
    };
    let signal = Signal::try_from(number).map_or_else(
        |_unknown| format!("signal {number}"),
        |s| s.as_str().to_owned(),
    );
    match Signal::try_from(number) {
        Ok(
            Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGILL | Signal::SIGFPE,
        ) => EngineExit::Crashed { signal },
        Ok(_) | Err(_) => EngineExit::Killed { signal },
    }
}

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::*;

    fn sh(script: &str) -> ChildOwner {
        let child = Command::new("sh").arg("-c").arg(script).spawn();
        ChildOwner::own(child.expect("sh starts"))
    }

    #[tokio::test]
    async fn crashes_kills_and_codes_are_told_apart() {
        let crashed = sh("kill -SEGV $$").exited().await;
        assert_eq!(
            crashed,
            EngineExit::Crashed {
                signal: "SIGSEGV".to_owned()
            }
        );
        assert!(crashed.counts_against_chunk());
        let killed = sh("kill -KILL $$").exited().await;
        assert_eq!(
            killed,
            EngineExit::Killed {
                signal: "SIGKILL".to_owned()
            }
        );
        assert!(!killed.counts_against_chunk());
        assert_eq!(sh("exit 7").exited().await, EngineExit::Code(7));
        let script = format!("exit {OUT_OF_MEMORY_EXIT}");
        let short = sh(&script).exited().await;
        assert_eq!(short, EngineExit::OutOfMemory);
        assert!(!short.counts_against_chunk());
    }

    #[tokio::test]
    async fn our_own_kill_keeps_its_cause() {
        let reaper = sh("exec sleep 1000");
        reaper.ask(End::Kill(EngineExit::TimedOut));
        assert_eq!(reaper.exited().await, EngineExit::TimedOut);
    }

    #[tokio::test]
    async fn one_that_ignores_sigterm_is_killed_after_the_grace() {
        let reaper = sh("trap '' TERM; while :; do sleep 0.05; done");
        reaper.ask(End::Stop {
            grace: Duration::from_millis(200),
        });
        assert_eq!(reaper.exited().await, EngineExit::Stopped);
    }
}
