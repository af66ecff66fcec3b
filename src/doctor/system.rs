//! The processor, the limit on open files, and the clock by itself.

use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};
use time::OffsetDateTime;

use super::finding::Finding;
use crate::engine::cpu;

/// No build of this version is older.
const YEAR_OF_BUILD: i32 = 2026;

/// Findings that need no settings but the number of threads (`WHISPER_THREADS`).
pub(super) fn examine(threads: Option<u32>) -> Vec<Finding> {
    vec![processor(), cores(threads), year(SystemTime::now())]
}

fn processor() -> Finding {
    const CHECK: &str = "cpu";
    match (cpu::check(), &cpu::present()[..]) {
        (Ok(()), []) => Finding::ok(CHECK, std::env::consts::ARCH),
        (Ok(()), known) => Finding::ok(
            CHECK,
            format!("{} with {}", std::env::consts::ARCH, known.join(", ")),
        ),
        (Err(error), _) => Finding::error(CHECK, error, "the server does not start")
            .mended_by("scripts/build --cpu any"),
    }
}

fn cores(threads: Option<u32>) -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    of_cores(cores, threads)
}

fn of_cores(cores: usize, threads: Option<u32>) -> Finding {
    const CHECK: &str = "cores";
    let what = format!("this process may use {cores}");
    match threads {
        Some(threads) if threads as usize > cores => {
            Finding::note(CHECK, format!("{what}, and WHISPER_THREADS is {threads}"))
                .because("a worker uses one thread for each core at most")
        }
        _ if cores == 1 => Finding::note(CHECK, what)
            .because("a long file takes long, and there is no cold worker beside the hot one"),
        _ => Finding::ok(CHECK, what),
    }
}

/// Compares the limit on open files with what the server needs.
pub(super) fn open_files(needed: u64) -> Finding {
    const CHECK: &str = "open-files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => of_open_files(needed, hard),
        Err(error) => Finding::note(CHECK, format!("not checked: {error}")),
    }
}

/// The server raises its limit itself, up to the hard one.
fn of_open_files(needed: u64, hard: u64) -> Finding {
    const CHECK: &str = "open-files";
    if hard >= needed {
        let hard = match hard {
            nix::libc::RLIM_INFINITY => "unlimited".to_owned(),
            number => number.to_string(),
        };
        return Finding::ok(CHECK, format!("{needed} needed, {hard} allowed"));
    }
    let what = format!("MAX_CONNECTIONS needs {needed} open files, and {hard} are allowed");
    Finding::warning(CHECK, what, "under load, connections and uploads fail").mended_by(format!(
        "LimitNOFILE={needed} in the systemd unit, or a lower MAX_CONNECTIONS"
    ))
}

/// A clock that was never set, as on a board without a battery.
fn year(now: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    let year = OffsetDateTime::from(now).year();
    if year >= YEAR_OF_BUILD {
        return Finding::ok(CHECK, format!("the year is {year}"));
    }
    Finding::warning(
        CHECK,
        format!("the year is {year}, before this program was made"),
        "HTTPS certificates count as not yet valid, so downloads fail, and times in logs and in Redis are wrong",
    )
    .mended_by("sudo timedatectl set-ntp true")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn a_clock_before_the_build_is_a_warning() {
        assert_eq!(year(UNIX_EPOCH).severity, Severity::Warning);
        let of_2030 = UNIX_EPOCH + Duration::from_secs(60 * 365 * 24 * 3600 + 20 * 24 * 3600);
        assert_eq!(year(of_2030).severity, Severity::Ok);
    }

    #[test]
    fn the_hard_limit_on_open_files_counts() {
        assert_eq!(of_open_files(1792, 1024).severity, Severity::Warning);
        assert_eq!(of_open_files(1792, 1792).severity, Severity::Ok);
        let unlimited = of_open_files(1792, nix::libc::RLIM_INFINITY);
        assert_eq!(unlimited.what, "1792 needed, unlimited allowed");
    }

    #[test]
    fn one_core_and_more_threads_than_cores_are_worth_a_note() {
        assert_eq!(of_cores(4, None).severity, Severity::Ok);
        assert_eq!(of_cores(1, None).severity, Severity::Note);
        assert_eq!(of_cores(4, Some(4)).severity, Severity::Ok);
        assert_eq!(of_cores(4, Some(5)).severity, Severity::Note);
    }
}
