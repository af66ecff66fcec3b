//! CPU priority of processes: the server and its hot worker first, then ffmpeg, then cold workers,
//! whose work can wait.

use nix::errno::Errno;
use nix::libc;

/// Niceness of cold workers. With this value, the hot worker gets three quarters of a core that both
/// compete for; with more, a chunk of a large model could exceed the time limit of a lane.
pub const COLD_WORKER: i32 = 5;
/// Niceness of ffmpeg: ahead of cold workers, which wait for its output, and behind the hot worker.
pub const DECODER: i32 = 3;

/// Raises the niceness of the calling process by `steps`, which needs no permission. Threads that run
/// already keep theirs. Makes only system calls, so it may run between fork and exec.
///
/// # Errors
/// The error of the kernel.
pub fn lower_priority(steps: i32) -> Result<(), Errno> {
    // -1 is a valid niceness as well as the return value for an error.
    Errno::clear();
    // SAFETY: a bare system call on numbers.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if now == -1 && Errno::last_raw() != 0 {
        return Err(Errno::last());
    }
    // SAFETY: likewise; the kernel bounds the value.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, now + steps) };
    Errno::result(result).map(drop)
}
