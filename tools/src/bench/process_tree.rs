//! A process and its descendants: their memory and their termination, read from `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Interval between samples of the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// The process and its descendants, without zombies.
pub fn members(root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut living = BTreeSet::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some((state, parent)) = state_and_parent(&stat) {
            children.entry(parent).or_default().push(pid);
            if state != "Z" {
                living.insert(pid);
            }
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    &found & &living
}

/// The name, in parentheses, may contain any character; the state and the parent's id follow it.
fn state_and_parent(stat: &str) -> Option<(&str, u32)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    Some((fields.next()?, fields.next()?.parse().ok()?))
}

/// Memory of a process and its descendants in MiB. Shared pages count proportionally (PSS) if the kernel
/// reports it.
pub fn mebibytes(root: u32) -> f64 {
    let bytes = |pid: &u32| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let proportional = rollup.ok().and_then(|text| bytes_of(&text, "Pss:"));
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.ok().and_then(|text| bytes_of(&text, "VmRSS:"))
        };
        proportional.or_else(resident).unwrap_or(0)
    };
    members(root).iter().map(bytes).sum::<u64>() as f64 / MEBIBYTE
}

/// A size in a file of `/proc`, by the name of its field.
fn bytes_of(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Sends SIGTERM to a process group.
pub fn terminate(leader: u32) {
    // The group may have ended already.
    let _ = killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGTERM);
}

/// Kills a process group.
pub fn kill_group(leader: u32) {
    let _ = killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
}

/// Kills a process group and all descendants of its leader, including those in other groups.
pub fn kill_all(leader: u32) {
    let members = members(leader);
    kill_group(leader);
    for pid in members {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}

/// Tracks the peak memory of a process tree on a separate thread until it is finished.
pub struct PeakWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<f64>>,
}

impl PeakWatch {
    /// Starts tracking.
    pub fn start(root: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = mebibytes(root);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(SAMPLE_INTERVAL);
                peak = peak.max(mebibytes(root));
            }
            peak
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends tracking and returns the peak in MiB.
    pub fn finish(mut self) -> f64 {
        self.end().unwrap_or(0.0)
    }

    fn end(&mut self) -> Option<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        thread.join().ok()
    }
}

impl Drop for PeakWatch {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(state_and_parent("12 (a) b) S 7 12 12"), Some(("S", 7)));
        assert_eq!(state_and_parent(""), None);
    }

    #[test]
    fn shared_pages_count_in_proportion() {
        let rollup = "00400000-7fff [rollup]\nRss:   900 kB\nPss:      40 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(bytes_of(rollup, "Pss:"), Some(40 * 1024));
        assert_eq!(bytes_of("Rss: 1 kB", "Pss:"), None);
    }

    #[test]
    fn this_process_uses_memory_and_is_in_its_own_tree() {
        let own = std::process::id();
        assert!(members(own).contains(&own));
        let peak = PeakWatch::start(own).finish();
        assert!(peak > 1.0, "{peak}");
    }
}
