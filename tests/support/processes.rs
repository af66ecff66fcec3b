//! Processes of tests, and information on processes from `/proc`.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::waiting::until_or_show;

/// A child process that ends when it is dropped.
pub struct Process(pub Child);

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server that logs to a file, and waits until it answers. `None`: it has ended, because another process has its
/// port.
pub async fn start_server(
    command: &mut Command,
    log: &Path,
    mut answers: impl AsyncFnMut(&Process) -> bool,
) -> Option<Process> {
    let output = File::create(log).expect("creates");
    let errors = output.try_clone().expect("a second handle");
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let mut process = Process(command.spawn().expect("it is installed"));
    let mut has_ended = false;
    let answers_or_ended = async || {
        has_ended = process.try_wait().expect("a child").is_some();
        has_ended || answers(&process).await
    };
    until_or_show("it answers", answers_or_ended, || log_in(log)).await;
    if has_ended {
        eprintln!("it has ended:\n{}", log_in(log));
    }
    (!has_ended).then_some(process)
}

/// What a server has logged to this file.
pub fn log_in(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// Sends the signal with this name.
pub fn signal(pid: u32, name: &str) {
    let signal: Signal = format!("SIG{name}").parse().expect("a signal");
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is there");
}

/// Running children of a process that have this argument.
pub fn children(parent: u32, argument: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = after_name.split_whitespace();
        let (state, its_parent) = (fields.next(), fields.next());
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        state.is_some_and(|state| state != "Z")
            && its_parent == Some(&parent.to_string())
            && command.split('\0').any(|word| word == argument)
    })
    .collect()
}

/// Whether a process is running.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

/// Memory that a process has allocated, in KiB. Pages of its program file do not count: how many of them are mapped
/// depends on the machine's page cache.
pub fn allocated_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a process is stopped.
pub fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") T")
}
