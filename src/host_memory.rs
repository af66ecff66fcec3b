//! Memory of the machine and of its processes, from `/proc`.

/// Resident memory of a process, in bytes; `None` if it is gone.
pub fn resident_bytes(process_id: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{process_id}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page_size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page_size).ok()?)
}
