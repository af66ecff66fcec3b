//! Other programs that the checks ask, each with a time limit.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// Time limit of a program. All of them only print what they know.
const LIMIT: Duration = Duration::from_secs(10);

/// How a program ended.
pub(super) struct Ended {
    pub(super) succeeded: bool,
    pub(super) out: String,
}

/// Why a program gave no output.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no such program.
    Missing,
    /// It could not be started, or exceeded [`LIMIT`].
    Other(String),
}

/// Runs a program to its end. A program that exceeds the limit is killed.
pub(super) async fn run(mut command: Command) -> Result<Ended, Failure> {
    command
        .stdin(Stdio::null())
        // The language of the messages, which the checks compare.
        .env("LC_ALL", "C")
        .kill_on_drop(true);
    let output = match timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::Missing);
        }
        Ok(Err(error)) => return Err(Failure::Other(format!("it does not start: {error}"))),
        Err(_) => {
            let seconds = LIMIT.as_secs();
            return Err(Failure::Other(format!("it did not end within {seconds} s")));
        }
    };
    Ok(Ended {
        succeeded: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    })
}
