//! Who comes first when the processor is short: the server and its hot worker, then ffmpeg, then cold
//! workers, which are there for work that can wait.

use nix::errno::Errno;
use nix::libc;

/// Steps of niceness by which cold workers stand behind: the hot worker gets three quarters of a core that
/// both want. With more, a large model's chunk could take longer than a lane may.
pub const COLD_WORKER: i32 = 5;
/// Of ffmpeg: before cold workers, which wait for what it decodes, and behind the hot one.
pub const DECODER: i32 = 3;

/// Makes the calling process step back by so much from where it is, which is always allowed. Threads that
/// it has started already stay as they are. Nothing but system calls: it may run between fork and exec.
///
/// # Errors
/// The kernel's word.
pub fn step_back(steps: i32) -> Result<(), Errno> {
    // -1 is a niceness as well as the sign of an error.
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
