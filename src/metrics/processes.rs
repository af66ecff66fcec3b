//! Series of the server's process, of its workers' processes, and of the memory that they share. They are sampled in
//! the background, because a scrape must not wait for the kernel.

use std::collections::BTreeMap;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use procfs::process::{LimitValue, Process, Stat};
use procfs::{ProcError, ProcResult};
use stt_actors::domain::ids::WorkerRole;
use stt_actors::ports::VramProbe;

use crate::host_memory::{HostMemoryProbe, private_bytes, resident_bytes};

const CPU_SECONDS: &str = "process_cpu_seconds_total";
const RESIDENT: &str = "process_resident_memory_bytes";
const VIRTUAL: &str = "process_virtual_memory_bytes";
const OPEN_FILES: &str = "process_open_fds";
const MOST_OPEN_FILES: &str = "process_max_fds";
const THREADS: &str = "process_threads";
const START_TIME: &str = "process_start_time_seconds";

const WORKER_CPU_SECONDS: &str = "uttera_stt_worker_cpu_seconds_total";
const WORKER_MEMORY: &str = "uttera_stt_worker_resident_bytes";
const WORKER_OPEN_FILES: &str = "uttera_stt_worker_open_files";
const WORKER_THREADS: &str = "uttera_stt_worker_threads";

const MEMORY_FREE: &str = "uttera_stt_memory_free_bytes";
const MEMORY_LIMIT: &str = "uttera_stt_memory_limit_bytes";

/// Reads `/proc` and remembers what ended workers used.
#[derive(Default)]
pub(super) struct Sampler {
    memory: HostMemoryProbe,
    workers: Workers,
}

impl Sampler {
    /// Sets the series. `workers`: the processes of the workers. Blocks while the kernel answers.
    pub(super) fn sample(&mut self, workers: &[(WorkerRole, u32)]) {
        // A value that cannot be read stays as it was.
        let _ = sample_server();
        let usage = workers
            .iter()
            .filter_map(|&(role, process)| Some((role, Usage::of(process)?)))
            .collect::<Vec<_>>();
        for (role, sum) in self.workers.add(&usage) {
            let role = role.as_str();
            counter!(WORKER_CPU_SECONDS, "role" => role).absolute(sum.cpu_seconds as u64);
            gauge!(WORKER_MEMORY, "role" => role).set(sum.memory as f64);
            gauge!(WORKER_OPEN_FILES, "role" => role).set(sum.open_files as f64);
            gauge!(WORKER_THREADS, "role" => role).set(sum.threads as f64);
        }
        let memory = self.memory.sample(&[]).ok();
        let bytes = |read: Option<u64>| read.map_or(f64::NAN, |bytes| bytes as f64);
        gauge!(MEMORY_FREE).set(bytes(memory.as_ref().map(|memory| memory.free)));
        gauge!(MEMORY_LIMIT).set(bytes(memory.as_ref().map(|memory| memory.total)));
    }
}

fn sample_server() -> ProcResult<()> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    counter!(CPU_SECONDS).absolute(cpu_seconds(&stat) as u64);
    if let Some(resident) = resident_bytes(std::process::id()) {
        gauge!(RESIDENT).set(resident as f64);
    }
    gauge!(VIRTUAL).set(stat.vsize as f64);
    gauge!(THREADS).set(stat.num_threads as f64);
    gauge!(OPEN_FILES).set(process.fd_count()? as f64);
    let most = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(most) => most as f64,
    };
    gauge!(MOST_OPEN_FILES).set(most);
    let since_boot = stat.starttime as f64 / procfs::ticks_per_second() as f64;
    gauge!(START_TIME).set(procfs::boot_time_secs()? as f64 + since_boot);
    Ok(())
}

/// Seconds of processor time in user and kernel mode.
fn cpu_seconds(stat: &Stat) -> f64 {
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// What a worker uses.
#[derive(Clone, Copy, Debug)]
struct Usage {
    process: ProcessKey,
    /// Seconds of processor time since its start.
    cpu_seconds: f64,
    /// Resident memory without the pages of files, in bytes.
    memory: u64,
    open_files: usize,
    threads: i64,
}

/// Identifies a process for as long as the machine runs: its id and when it started.
type ProcessKey = (u32, u64);

impl Usage {
    /// `None`: the process is gone.
    fn of(process_id: u32) -> Option<Self> {
        let read = || {
            let process = Process::new(process_id.cast_signed())?;
            let stat = process.stat()?;
            Ok::<_, ProcError>(Self {
                process: (process_id, stat.starttime),
                cpu_seconds: cpu_seconds(&stat),
                memory: private_bytes(process_id).unwrap_or_default(),
                open_files: process.fd_count()?,
                threads: stat.num_threads,
            })
        };
        read().ok()
    }
}

/// The sums over the workers of one role.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    /// Seconds of processor time, those of ended workers included.
    cpu_seconds: f64,
    memory: u64,
    open_files: usize,
    threads: i64,
}

/// Adds up workers.
#[derive(Debug, Default)]
struct Workers {
    /// Seconds of processor time by role, of all workers so far.
    cpu_seconds: BTreeMap<WorkerRole, f64>,
    /// Seconds of processor time of each running worker at the last sample.
    last: BTreeMap<ProcessKey, f64>,
}

impl Workers {
    fn add(&mut self, running: &[(WorkerRole, Usage)]) -> BTreeMap<WorkerRole, Sum> {
        let mut sums: BTreeMap<WorkerRole, Sum> =
            WorkerRole::ALL.map(|role| (role, Sum::default())).into();
        let before = std::mem::take(&mut self.last);
        for (role, usage) in running {
            let since = before.get(&usage.process).copied().unwrap_or_default();
            let total = self.cpu_seconds.entry(*role).or_default();
            *total += (usage.cpu_seconds - since).max(0.0);
            self.last.insert(usage.process, usage.cpu_seconds);
            let sum = sums.entry(*role).or_default();
            sum.memory += usage.memory;
            sum.open_files += usage.open_files;
            sum.threads += usage.threads;
        }
        for (role, sum) in &mut sums {
            sum.cpu_seconds = self.cpu_seconds.get(role).copied().unwrap_or_default();
        }
        sums
    }
}

pub(super) fn describe() {
    describe_counter!(
        CPU_SECONDS,
        "Processor time of the server without its workers, in whole seconds."
    );
    describe_gauge!(
        RESIDENT,
        "Resident memory of the server without its workers, in bytes."
    );
    describe_gauge!(VIRTUAL, "Virtual memory of the server, in bytes.");
    describe_gauge!(
        OPEN_FILES,
        "Open files of the server, connections included."
    );
    describe_gauge!(MOST_OPEN_FILES, "Maximum number of open files.");
    describe_gauge!(THREADS, "Threads of the server.");
    describe_gauge!(
        START_TIME,
        "When the server started, in seconds since 1970 (Unix time)."
    );
    describe_counter!(
        WORKER_CPU_SECONDS,
        "Processor time of all workers since the server started, in whole seconds, by role."
    );
    describe_gauge!(
        WORKER_MEMORY,
        "Resident memory of the running workers in bytes, without pages of files, which they share, by role."
    );
    describe_gauge!(
        WORKER_OPEN_FILES,
        "Open files of the running workers, by role."
    );
    describe_gauge!(WORKER_THREADS, "Threads of the running workers, by role.");
    describe_gauge!(
        MEMORY_FREE,
        "Memory that programs can still use, in bytes: of the machine, or of this service's cgroup if it is less."
    );
    describe_gauge!(
        MEMORY_LIMIT,
        "Memory of the machine, or the limit of this service's cgroup if it is less, in bytes."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(process_id: u32, started: u64, cpu_seconds: f64) -> Usage {
        Usage {
            process: (process_id, started),
            cpu_seconds,
            memory: 100,
            open_files: 10,
            threads: 2,
        }
    }

    #[test]
    fn processor_time_of_ended_workers_stays_in_the_sum_even_if_their_id_comes_back() {
        let cold = |usage| (WorkerRole::Cold, usage);
        let mut workers = Workers::default();
        let two = [cold(usage(7, 1, 4.0)), cold(usage(8, 1, 2.0))];
        let sum = workers.add(&two)[&WorkerRole::Cold];
        let expected = Sum {
            cpu_seconds: 6.0,
            memory: 200,
            open_files: 20,
            threads: 4,
        };
        assert_eq!(sum, expected);
        let none = workers.add(&[])[&WorkerRole::Cold];
        assert_eq!((none.cpu_seconds, none.memory), (6.0, 0));
        let again = workers.add(&[cold(usage(7, 2, 1.0))])[&WorkerRole::Cold];
        assert_eq!((again.cpu_seconds, again.memory), (7.0, 100));
        assert_eq!(workers.add(&[])[&WorkerRole::Hot], Sum::default());
    }

    #[test]
    fn this_process_can_be_read_and_one_that_does_not_exist_is_no_error() {
        let own = Usage::of(std::process::id()).expect("it runs");
        assert!(own.memory > 0 && own.open_files > 2 && own.threads > 0);
        assert!(Usage::of(i32::MAX.cast_unsigned()).is_none());
    }
}
