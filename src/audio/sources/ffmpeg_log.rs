//! Extracts a few facts and the first errors from ffmpeg's standard error.
//!
//! It takes raw bytes in blocks of any size; its memory is fixed, however much ffmpeg prints.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use ffmpeg_sidecar::log_parser::try_parse_duration;
use nix::sys::signal::Signal;
use stt_actors::domain::error::DecodeError;

/// The input that ffmpeg is given for its standard input, and its name in the log.
pub(super) const INPUT_NAME: &str = "file:/dev/stdin";

/// Longer lines are cut.
const LONGEST_LINE: usize = 512;

/// Number of errors to keep: the first ones tell the cause, the others are consequences.
const KEPT_ERRORS: usize = 8;

/// Exit code of ffmpeg when more than two thirds of all packets could not be decoded.
const EXIT_MOSTLY_ERRORS: i32 = 69;

/// The log so far.
#[derive(Debug, Default)]
pub(super) struct FfmpegLog {
    line: Vec<u8>,
    errors: Vec<String>,
    error_count: u64,
    claimed: Option<Duration>,
    /// Whether the length is guessed from the bit rate of the beginning.
    estimated: bool,
    /// Whether the format was guessed from very little data.
    doubtful: bool,
    /// The signal that ended ffmpeg, according to its log.
    heard_signal: Option<i32>,
}

impl FfmpegLog {
    /// Adds bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.end_line();
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
    }

    /// The length that the container claims.
    pub(super) fn claimed_duration(&self) -> Option<Duration> {
        self.claimed
    }

    /// The claimed length, if the container states it.
    pub(super) fn promised_duration(&self) -> Option<Duration> {
        self.claimed.filter(|_| !self.estimated)
    }

    /// Whether this is noise that resembles a format by chance: the format was guessed from little data, and
    /// errors followed. Short valid files are guessed from little data too, but without errors.
    pub(super) fn is_misdetection(&self) -> bool {
        self.doubtful && self.error_count > 0
    }

    /// The errors, for the log.
    pub(super) fn errors(&self) -> String {
        self.errors.join("; ")
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.contains("[error]") || line.contains("[fatal]") || line.contains("[panic]") {
            self.error_count += 1;
            if self.errors.len() < KEPT_ERRORS {
                self.errors.push(plain(&line));
            }
        } else if line.contains("[warning]") && line.contains("misdetection possible") {
            self.doubtful = true;
        } else if line.contains("Estimating duration from bitrate") || is_of_broadcast(&line) {
            self.estimated = true;
        } else if let Some((_, signal)) = line.split_once("Exiting normally, received signal ") {
            self.heard_signal = signal.trim_end_matches('.').parse().ok();
        } else if self.claimed.is_none() {
            self.claimed = try_parse_duration(&line)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|duration| !duration.is_zero());
        }
    }

    /// Judges the exit: `None` if the decoded audio may be used. `any`: whether ffmpeg produced samples.
    pub(super) fn verdict(&mut self, status: ExitStatus, any: bool) -> Option<DecodeError> {
        self.end_line();
        if let Some(error) = self.ended_by_signal(status) {
            return Some(error);
        }
        if self.is_misdetection() {
            return Some(undecodable("this is not audio"));
        }
        if status.code() == Some(EXIT_MOSTLY_ERRORS) {
            return Some(undecodable("most of it is damaged"));
        }
        if any {
            return None;
        }
        let explained = self.errors.iter().find_map(|error| explain(error));
        Some(explained.unwrap_or_else(|| match self.errors.first() {
            Some(error) => undecodable(error),
            None if status.success() => DecodeError::Empty("it has no sound in it".into()),
            None => undecodable("ffmpeg gave no reason"),
        }))
    }

    /// The error for an ffmpeg that a signal ended, which must never count as the end of the audio.
    fn ended_by_signal(&self, status: ExitStatus) -> Option<DecodeError> {
        // ffmpeg catches some signals, finishes its output and logs the signal.
        let caught = self.heard_signal.filter(|_| status.code() == Some(255));
        let signal = status.signal().or(caught)?;
        let name = Signal::try_from(signal).map_or("an unknown signal", Signal::as_str);
        Some(match Signal::try_from(signal) {
            Ok(Signal::SIGXCPU) => undecodable("it takes too much computing for its length"),
            Ok(
                Signal::SIGSEGV
                | Signal::SIGABRT
                | Signal::SIGBUS
                | Signal::SIGILL
                | Signal::SIGFPE,
            ) => undecodable(&format!("ffmpeg crashed on it ({name})")),
            _ => DecodeError::Unavailable(format!("ffmpeg was ended by {name}")),
        })
    }
}

fn undecodable(why: &str) -> DecodeError {
    DecodeError::Undecodable(why.into())
}

/// Errors with a clearer explanation than ffmpeg's message.
fn explain(error: &str) -> Option<DecodeError> {
    let has = |text: &str| error.contains(text);
    Some(
        if has("matches no streams") || has("does not contain any stream") {
            DecodeError::NoAudioStream
        } else if has("Format not on whitelist") {
            undecodable("this kind of file is not accepted: an image, a text or a playlist")
        } else if has("moov atom not found") {
            undecodable(
                "it is incomplete: its index (the moov atom) is missing, as after a cut-off upload",
            )
        } else if has("no 'data' tag found") {
            DecodeError::Empty("a WAV header without sound".into())
        } else if has("not on whitelist") {
            undecodable("it refers to something outside itself")
        } else if has("Unrecognized option") || has("Option not found") {
            DecodeError::Unavailable(format!("this ffmpeg is too old or too new: {error}"))
        } else if has("Invalid data found when processing input") {
            undecodable("it is damaged, or in no format that ffmpeg knows")
        } else {
            return None;
        },
    )
}

/// A line without level, addresses, the input's stand-in name and unprintable characters.
fn plain(line: &str) -> String {
    let mut text = line;
    while let Some((bracketed, rest)) = text
        .trim_start()
        .strip_prefix('[')
        .and_then(|text| text.split_once(']'))
    {
        let is_prefix = bracketed.contains(" @ ")
            || matches!(bracketed, "error" | "fatal" | "panic" | "warning" | "info");
        if !is_prefix {
            break;
        }
        text = rest;
    }
    let text = text
        .replace(&format!("{INPUT_NAME}: "), "")
        .replace(INPUT_NAME, "the file");
    text.trim()
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

/// Containers without a length: ffmpeg subtracts the first time stamp from the last, and those may jump.
fn is_of_broadcast(line: &str) -> bool {
    let format = line.split_once("Input #0, ").map(|(_, rest)| rest);
    format.is_some_and(|format| format.starts_with("mpegts,") || format.starts_with("mpeg,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn killed(signal: Signal) -> ExitStatus {
        ExitStatus::from_raw(signal as i32)
    }

    fn log(text: &str) -> FfmpegLog {
        let mut log = FfmpegLog::default();
        // In small parts, as from a pipe.
        for part in text.as_bytes().chunks(7) {
            log.feed(part);
        }
        log
    }

    fn undecodable_because(text: &str, status: ExitStatus) -> String {
        match log(text).verdict(status, false) {
            Some(DecodeError::Undecodable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_are_explained() {
        let no_audio = "[fatal] Stream map '0:a:0' matches no streams.\nTo ignore this, add…\n";
        assert_eq!(
            log(no_audio).verdict(exit(1), false),
            Some(DecodeError::NoAudioStream)
        );
        let why = undecodable_because(
            "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x56136faa9b00] [error] moov atom not found\n\
             [error] file:/dev/stdin: Invalid data found when processing input\n",
            exit(1),
        );
        assert!(why.contains("incomplete"), "{why}");
        let why = undecodable_because(
            "[hls @ 0x55dfe1cc3a00] [error] Format not on whitelist 'aac,wav'\n\
             [error] file:/dev/stdin: Invalid argument\n",
            exit(1),
        );
        assert!(why.contains("playlist"), "{why}");
    }

    #[test]
    fn an_unknown_error_is_given_in_plain_words() {
        let why = undecodable_because(
            "[wv @ 0x55dfe1cc3a00] [error] [3] of file:/dev/stdin \u{7}is odd\n",
            exit(1),
        );
        assert_eq!(why, "[3] of the file is odd");
        assert_eq!(undecodable_because("", exit(1)), "ffmpeg gave no reason");
    }

    #[test]
    fn errors_after_the_first_sample_leave_a_partial_result() {
        let mut log = log("[mp3float @ 0x1] [error] Header missing\n");
        assert_eq!(log.verdict(exit(0), true), None);
        assert_eq!(log.verdict(exit(1), true), None);
        assert_eq!(log.errors(), "Header missing");
    }

    #[test]
    fn mostly_damaged_audio_is_refused() {
        assert!(matches!(
            log("").verdict(exit(69), true),
            Some(DecodeError::Undecodable(_))
        ));
    }

    #[test]
    fn noise_that_looks_like_a_format_is_refused_but_a_tiny_file_is_not() {
        let guess = "[mp3 @ 0x1] [warning] Format mp3 detected only with low score of 1, misdetection possible!\n";
        assert_eq!(log(guess).verdict(exit(0), true), None);
        let noise = format!("{guess}[mp3float @ 0x1] [error] Header missing\n");
        assert!(log(&noise).is_misdetection());
        assert!(log(&noise).verdict(exit(0), true).is_some());
    }

    #[test]
    fn a_death_by_a_signal_is_never_the_end_of_the_audio() {
        assert_eq!(
            log("").verdict(killed(Signal::SIGKILL), true),
            Some(DecodeError::Unavailable(
                "ffmpeg was ended by SIGKILL".into()
            ))
        );
        assert_eq!(
            log("[info] Exiting normally, received signal 15.\n").verdict(exit(255), true),
            Some(DecodeError::Unavailable(
                "ffmpeg was ended by SIGTERM".into()
            ))
        );
        for (text, status) in [
            ("", killed(Signal::SIGSEGV)),
            ("[info] Exiting normally, received signal 24.\n", exit(255)),
        ] {
            let verdict = log(text).verdict(status, true);
            assert!(
                matches!(verdict, Some(DecodeError::Undecodable(_))),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn success_without_a_sample_is_empty() {
        assert!(matches!(
            log("").verdict(exit(0), false),
            Some(DecodeError::Empty(_))
        ));
    }

    #[test]
    fn a_guessed_length_is_no_promise() {
        let line = "[info]   Duration: 05:00:00.00, start: 0.0, bitrate: 64 kb/s\n";
        let guess =
            "[mp3 @ 0x1] [warning] Estimating duration from bitrate, this may be inaccurate\n";
        let five_hours = Some(Duration::from_secs(5 * 3600));
        assert_eq!(log(line).promised_duration(), five_hours);
        let broadcast = format!("[info] Input #0, mpegts, from 'file:/dev/stdin':\n{line}");
        assert_eq!(log(&broadcast).promised_duration(), None);
        let guessed = log(&format!("{guess}{line}"));
        assert_eq!(guessed.promised_duration(), None);
        assert_eq!(guessed.claimed_duration(), five_hours);
    }

    #[test]
    fn the_claimed_length_is_read() {
        let text = "[info]   Duration: 01:00:05.50, start: 0.025057, bitrate: 64 kb/s\n";
        assert_eq!(
            log(text).claimed_duration(),
            Some(Duration::from_millis(3_605_500))
        );
        assert_eq!(
            log("[info]   Duration: N/A, start: 0\n").claimed_duration(),
            None
        );
    }

    #[test]
    fn the_memory_is_fixed_however_much_ffmpeg_says() {
        let mut log = FfmpegLog::default();
        for _ in 0..10_000 {
            log.feed(b"[error] a line that comes again and again\n");
            log.feed(&[b'x'; 1000]);
            log.feed(b"\n");
        }
        assert_eq!(log.errors.len(), KEPT_ERRORS);
        assert!(log.line.capacity() <= 2 * LONGEST_LINE);
        assert_eq!(log.error_count, 10_000);
    }
}
