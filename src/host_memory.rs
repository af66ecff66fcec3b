//! Memory of the machine and of its processes, from `/proc` and from the cgroup (v2) of this process: a
//! container or a systemd unit may have a lower limit than the machine.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use stt_actors::ports::{MemoryKind, MemorySample, ProbeError, VramProbe};

/// Resident memory of a process, in bytes; `None` if it is gone.
pub fn resident_bytes(process_id: u32) -> Option<u64> {
    Some(memory_of(process_id)?.resident)
}

/// Resident memory of a process without the pages of files, which other processes may share; `None` if it is gone.
pub fn private_bytes(process_id: u32) -> Option<u64> {
    let memory = memory_of(process_id)?;
    Some(memory.resident.saturating_sub(memory.of_files))
}

/// Memory of GPUs that a process uses, in bytes, as the kernel's graphics drivers report it (`drm-usage-stats`); `None`
/// if they report nothing.
pub fn gpu_bytes(process_id: u32) -> Option<u64> {
    let folder = std::fs::read_dir(format!("/proc/{process_id}/fdinfo")).ok()?;
    let files = folder.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
    gpu_bytes_in(files)
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessMemory {
    /// In bytes.
    resident: u64,
    /// Bytes of `resident` that belong to files, which other processes may use too.
    of_files: u64,
}

fn memory_of(process_id: u32) -> Option<ProcessMemory> {
    let statm = std::fs::read_to_string(format!("/proc/{process_id}/statm")).ok()?;
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    memory_in(&statm, u64::try_from(page_size).ok()?)
}

/// Number of processes that the kernel has killed for lack of memory since boot; `None` if the kernel
/// does not count them.
pub fn oom_kills() -> Option<u64> {
    counter(&std::fs::read_to_string("/proc/vmstat").ok()?, "oom_kill")
}

/// Samples the memory of the machine, bounded by the limits of this process's cgroup.
pub struct HostMemoryProbe {
    proc: PathBuf,
    cgroups: PathBuf,
}

impl Default for HostMemoryProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl HostMemoryProbe {
    /// A probe of this machine.
    pub fn new() -> Self {
        Self::under(PathBuf::from("/proc"), PathBuf::from("/sys/fs/cgroup"))
    }

    /// A probe that reads these folders in place of `/proc` and `/sys/fs/cgroup`, except for the memory
    /// of processes.
    pub fn under(proc: PathBuf, cgroups: PathBuf) -> Self {
        Self { proc, cgroups }
    }

    /// The limits of this process's cgroup and of all its ancestors.
    fn allowances(&self) -> Vec<Allowance> {
        let groups = std::fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        own_group(&groups)
            .map(|group| levels(&self.cgroups, group))
            .unwrap_or_default()
            .iter()
            .filter_map(|folder| allowance_of(folder))
            .collect()
    }
}

impl VramProbe for HostMemoryProbe {
    fn kind(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn sample(&self, processes: &[u32]) -> Result<MemorySample, ProbeError> {
        let path = self.proc.join("meminfo");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| ProbeError(format!("{} cannot be read: {e}", path.display())))?;
        let field = |name: &str| {
            meminfo_bytes(&text, name)
                .ok_or_else(|| ProbeError(format!("{} has no {name}", path.display())))
        };
        let (mut free, mut total) = (field("MemAvailable")?, field("MemTotal")?);
        for allowance in self.allowances() {
            free = free.min(allowance.free());
            total = total.min(allowance.limit);
        }
        Ok(MemorySample {
            utilization_percent: None,
            free,
            total,
            used_by_process: processes
                .iter()
                .filter_map(|&process| {
                    // All workers share the pages of the prepared model, which the kernel counts as available.
                    Some((process, private_bytes(process)?))
                })
                .collect(),
        })
    }
}

/// Limit and use of one cgroup, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowance {
    limit: u64,
    used: u64,
    /// The reclaimable part of `used`: the cache of files that were not read recently.
    inactive_file: u64,
}

impl Allowance {
    fn free(self) -> u64 {
        self.limit
            .saturating_sub(self.used.saturating_sub(self.inactive_file))
    }
}

/// The limit of the cgroup in this folder; `None` without one, as for the root.
fn allowance_of(folder: &Path) -> Option<Allowance> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let statistics = read("memory.stat").unwrap_or_default();
    Some(Allowance {
        // `max` (no limit) is not a number.
        limit: number(&read("memory.max")?)?,
        used: number(&read("memory.current")?)?,
        inactive_file: counter(&statistics, "inactive_file").unwrap_or(0),
    })
}

/// The folders of this cgroup and its ancestors up to `root`. In a container, the path may be that of
/// the host, of which only the root is visible: there, the root is the container's own cgroup.
fn levels(root: &Path, group: &str) -> Vec<PathBuf> {
    let group = Path::new(group.trim_start_matches('/'));
    if !group
        .components()
        .all(|c| matches!(c, Component::Normal(_)))
    {
        return vec![root.to_path_buf()];
    }
    group.ancestors().map(|part| root.join(part)).collect()
}

/// The cgroup in the unified hierarchy, from `/proc/self/cgroup`.
fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A field of `/proc/meminfo`, converted from kB (1024 bytes) to bytes.
fn meminfo_bytes(text: &str, field: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    number(rest.trim().strip_suffix("kB")?)?.checked_mul(1024)
}

/// A counter in a file with one name and number per line.
fn counter(text: &str, name: &str) -> Option<u64> {
    number(
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?,
    )
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The sum over all clients of a graphics driver. A client appears once for each of its open files.
fn gpu_bytes_in(files: impl Iterator<Item = String>) -> Option<u64> {
    let mut clients = BTreeMap::new();
    for file in files {
        let fields: BTreeMap<&str, &str> = (file.lines())
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let Some(client) = fields.get("drm-client-id") else {
            continue;
        };
        let device = fields.get("drm-pdev").copied().unwrap_or_default();
        // Older kernels report `drm-memory-` only.
        let sum = |prefix: &str| {
            let regions = fields.iter().filter_map(|(name, value)| {
                let region = name.strip_prefix(prefix)?;
                (region != "cpu").then(|| size(value))?
            });
            regions.reduce(u64::saturating_add)
        };
        let Some(bytes) = sum("drm-resident-").or_else(|| sum("drm-memory-")) else {
            continue;
        };
        clients.insert((device.to_owned(), (*client).to_owned()), bytes);
    }
    (!clients.is_empty()).then(|| clients.values().copied().fold(0, u64::saturating_add))
}

/// A size such as `12 KiB`; without a unit, bytes.
fn size(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let count = number(words.next()?)?;
    let unit = match words.next() {
        None => 1,
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some(_) => return None,
    };
    count.checked_mul(unit)
}

/// The second and the third number of `/proc/PID/statm`, converted from pages to bytes.
fn memory_in(statm: &str, page_size: u64) -> Option<ProcessMemory> {
    let mut pages = statm.split_whitespace().skip(1);
    let mut bytes = || number(pages.next()?)?.checked_mul(page_size);
    Some(ProcessMemory {
        resident: bytes()?,
        of_files: bytes()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:     800 kB\n";

    /// A machine with [`MEMINFO`], this `/proc/self/cgroup` and these files under `/sys/fs/cgroup`.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(own_group: &str, files: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().expect("a folder"));
            machine.write("proc/meminfo", MEMINFO);
            machine.write("proc/self/cgroup", own_group);
            for (path, text) in files {
                machine.write(&format!("cgroup/{path}"), text);
            }
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
            std::fs::write(path, text).expect("writes");
        }

        /// Free and total, in units of 1024 bytes.
        fn sample(&self) -> (u64, u64) {
            let root = self.0.path();
            let probe = HostMemoryProbe::under(root.join("proc"), root.join("cgroup"));
            let sample = probe.sample(&[]).expect("a sample");
            (sample.free / 1024, sample.total / 1024)
        }
    }

    #[test]
    fn without_a_limit_the_memory_of_the_machine_counts() {
        let version_1 = Machine::new("4:memory:/x\n1:cpu:/\n", &[]);
        assert_eq!(version_1.sample(), (800, 1000));
        let unlimited = [("a/memory.max", "max\n"), ("a/memory.current", "307200\n")];
        assert_eq!(Machine::new("0::/a\n", &unlimited).sample(), (800, 1000));
    }

    #[test]
    fn a_limit_is_reduced_by_the_use_without_reclaimable_file_cache() {
        let mut files = vec![
            ("a/memory.max", "512000\n"),
            ("a/memory.current", "307200\n"),
        ];
        assert_eq!(Machine::new("0::/a\n", &files).sample(), (200, 500));
        files.push((
            "a/memory.stat",
            "anon 1\ninactive_file 102400\nactive_file 9\n",
        ));
        assert_eq!(Machine::new("0::/a\n", &files).sample(), (300, 500));
    }

    #[test]
    fn the_tightest_limit_of_all_ancestors_counts() {
        let files = [
            ("a/memory.max", "409600\n"),
            ("a/memory.current", "102400\n"),
            ("a/b/memory.max", "614400\n"),
            ("a/b/memory.current", "0\n"),
        ];
        assert_eq!(Machine::new("0::/a/b/c\n", &files).sample(), (300, 400));
    }

    #[test]
    fn in_a_container_with_the_path_of_the_host_the_limit_of_the_root_counts() {
        let files = [("memory.max", "204800\n"), ("memory.current", "102400\n")];
        for own_group in ["0::/\n", "0::/docker/1f3c\n", "0::/../../1f3c\n"] {
            assert_eq!(Machine::new(own_group, &files).sample(), (100, 200));
        }
    }

    #[test]
    fn a_cgroup_over_its_limit_has_no_free_memory() {
        let files = [("a/memory.max", "1024\n"), ("a/memory.current", "2048\n")];
        assert_eq!(Machine::new("0::/a\n", &files).sample(), (0, 1));
    }

    #[test]
    fn a_meminfo_without_the_fields_is_an_error() {
        let machine = Machine::new("0::/\n", &[]);
        machine.write("proc/meminfo", "MemTotal: 1000 kB\n");
        let root = machine.0.path();
        let error = HostMemoryProbe::under(root.join("proc"), root.join("cgroup")).sample(&[]);
        assert!(error.is_err_and(|e| e.0.contains("MemAvailable")));
        let error = HostMemoryProbe::under(root.join("none"), root.join("cgroup")).sample(&[]);
        assert!(error.is_err_and(|e| e.0.contains("meminfo")));
    }

    #[test]
    fn a_sample_contains_this_process_and_omits_one_that_does_not_exist() {
        let probe = HostMemoryProbe::new();
        assert_eq!(probe.kind(), MemoryKind::Host);
        let own = std::process::id();
        let sample = probe.sample(&[own, u32::MAX]).expect("a sample");
        assert!(0 < sample.free && sample.free <= sample.total, "{sample:?}");
        let [(process, bytes)] = sample.used_by_process[..] else {
            panic!("{sample:?}");
        };
        assert!(process == own && bytes > 100_000, "{sample:?}");
    }

    #[test]
    fn the_counter_of_oom_kills_is_not_confused_with_similar_names() {
        let vmstat = "oom_kill_x 1\nnr_oom_kill 2\noom_kill 3\nkswapd 4\n";
        assert_eq!(counter(vmstat, "oom_kill"), Some(3));
        assert_eq!(counter("nr_free_pages 1\n", "oom_kill"), None);
        assert_eq!(counter("oom_kill x\n", "oom_kill"), None);
    }

    #[test]
    fn resident_memory_is_the_second_number_in_pages_and_the_part_of_files_the_third() {
        let memory = ProcessMemory {
            resident: 12_288,
            of_files: 4096,
        };
        assert_eq!(memory_in("9 3 1 1 0 1 0\n", 4096), Some(memory));
        assert_eq!(memory_in("", 4096), None);
        assert_eq!(memory_in("9 3", 4096), None);
        assert_eq!(memory_in("9 18446744073709551615 1", 4096), None);
    }

    #[test]
    fn memory_of_gpus_is_summed_over_regions_once_for_each_client() {
        let amd = "pos:\t0\ndrm-driver:\tamdgpu\ndrm-client-id:\t7\ndrm-pdev:\t0000:03:00.0\n\
                   drm-memory-vram:\t1024 KiB\ndrm-memory-gtt: \t4 KiB\ndrm-memory-cpu: \t99 KiB\n";
        let intel = "drm-client-id: 9\ndrm-total-local0: 5 MiB\ndrm-resident-local0: 2 MiB\n\
                     drm-resident-system0: 0\n";
        let none = "pos: 0\nflags: 02\n";
        let sum = |files: &[&str]| gpu_bytes_in(files.iter().map(|file| (*file).to_owned()));
        assert_eq!(sum(&[amd, none, amd]), Some(1028 << 10));
        assert_eq!(sum(&[amd, intel]), Some((1028 << 10) + (2 << 20)));
        assert_eq!(
            sum(&[none, "drm-client-id: 9\ndrm-memory-vram: x KiB\n"]),
            None
        );
        assert_eq!(size("3"), Some(3));
        assert_eq!(size("18446744073709551615 MiB"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(
            text in r"(MemTotal:|oom_kill|0::)?[ 0-9kBmax./\n]*|\PC*",
            number in any::<u64>(),
        ) {
            for text in [text, format!("MemTotal: {number} kB"), format!("1 {number}")] {
                let _ = meminfo_bytes(&text, "MemTotal");
                let _ = counter(&text, "oom_kill");
                let _ = memory_in(&text, 4096);
                let _ = gpu_bytes_in(std::iter::once(format!("drm-client-id: 1\n{text}")));
                if let Some(group) = own_group(&text) {
                    // No path leads outside the root.
                    for folder in levels(Path::new("/r"), group) {
                        prop_assert!(folder.starts_with("/r"));
                        prop_assert!(!folder.components().any(|c| c == Component::ParentDir));
                    }
                }
            }
        }

        #[test]
        fn free_memory_is_within_the_limit(limit: u64, used: u64, inactive_file: u64) {
            let free = Allowance { limit, used, inactive_file }.free();
            prop_assert!(free <= limit);
        }
    }
}
