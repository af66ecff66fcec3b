//! Who comes first when the processor is short: the server and its hot worker, then ffmpeg, then cold
//! workers, which are there for work that can wait.

use nix::errno::Errno;
use nix::libc;

/// Steps of niceness by which cold workers stand behind: beside a busy one, the hot worker gets nine
/// tenths of a core that both want.
pub const COLD_WORKER: i32 = 10;
/// Of ffmpeg: before cold workers, which wait for what it decodes, and behind the hot one.
pub const DECODER: i32 = 5;

/// Makes a process step back; the threads that it has started already stay as they are. To step back
/// is always allowed; it fails only for a process that is gone.
///
/// # Errors
/// The kernel's word. `process`: 0 is the caller itself.
pub fn step_back(process: u32, niceness: i32) -> Result<(), Errno> {
    // SAFETY: a bare system call on numbers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, process, niceness) };
    Errno::result(result).map(drop)
}
