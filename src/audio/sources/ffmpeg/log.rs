//! Extracts a few facts and the first errors from ffmpeg's standard error.
//!
//! It takes raw bytes in blocks of any size; its memory is fixed, however much ffmpeg prints.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use ffmpeg_sidecar::log_parser::try_parse_duration;
use nix::sys::signal::Signal;
use stt_actors::domain::error::DecodeError;

use super::timeline::{Clock, Gaps};

/// The input that ffmpeg is given for its standard input, and its name in the log.
pub(super) const INPUT_NAME: &str = "file:/dev/stdin";

/// Longer lines are cut.
const LONGEST_LINE: usize = 512;

/// Number of errors to keep: the first ones tell the cause, the others are consequences.
const KEPT_ERRORS: usize = 8;

/// What an error says of a file whose format is not accepted, after the format's name.
const FORMAT_REJECTED: &str = ": Format not on whitelist";

/// What ffmpeg 7 says of a track whose codec it does not know.
const NO_DECODER: &str = "no decoder found for";

/// Exit code of ffmpeg when more than two thirds of all packets could not be decoded.
const EXIT_MOSTLY_ERRORS: i32 = 69;

/// Formats with time stamps, by the beginning of ffmpeg's names. In all others, ffmpeg counts samples.
const TIMED_FORMATS: &[&str] = &[
    "asf", "avi", "dv", "flv", "gxf", "matroska", "mov", "mxf", "nut", "ogg", "rm", "wtv",
];

/// Containers without a length and with a clock that may jump.
const BROADCAST_FORMATS: &[&str] = &["mpeg", "mpegts"];

/// An audio track of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Track {
    /// Its number among all tracks of the file.
    pub(super) number: usize,
    /// Whether this ffmpeg knows its codec.
    pub(super) is_known: bool,
}

/// The log so far.
#[derive(Debug, Default)]
pub(super) struct FfmpegLog {
    line: Vec<u8>,
    errors: Vec<String>,
    error_count: u64,
    claimed: Option<Duration>,
    /// The time stamp of the file's beginning, in milliseconds.
    start: Option<i64>,
    /// The names of the file's format.
    format: Option<String>,
    tracks: Vec<Track>,
    /// The track that ffmpeg decodes.
    chosen: Option<usize>,
    /// Whether the description of the file is complete.
    is_open: bool,
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

    /// The file's clock.
    pub(super) fn clock(&self) -> Clock {
        let name = self.format.as_deref().unwrap_or_default();
        let name = name.split(',').next().unwrap_or_default();
        Clock {
            start: self.start,
            gaps: if BROADCAST_FORMATS.contains(&name) {
                Gaps::Short
            } else if TIMED_FORMATS.contains(&name) {
                Gaps::Any
            } else {
                Gaps::Never
            },
        }
    }

    /// Whether the description of the file is complete: its length, format and tracks.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The audio track that ffmpeg has chosen, and all others with a known codec.
    pub(super) fn tracks(&self) -> Vec<usize> {
        let known = self.tracks.iter().filter(|track| track.is_known);
        let others = known
            .map(|track| track.number)
            .filter(|number| Some(*number) != self.chosen);
        self.chosen.into_iter().chain(others).collect()
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
            // ffmpeg 7 ends before it says which track it has chosen.
            self.chosen = self.chosen.or_else(|| track_without_decoder(&line));
            if self.errors.len() < KEPT_ERRORS {
                self.errors.push(match rejected_format(&line) {
                    Some(name) => format!("{name}{FORMAT_REJECTED}"),
                    None => plain(&line),
                });
            }
        } else if line.contains("[warning]") && line.contains("misdetection possible") {
            self.doubtful = true;
        } else if let Some((_, signal)) = line.split_once("Exiting normally, received signal ") {
            self.heard_signal = signal.trim_end_matches('.').parse().ok();
        } else {
            self.describe(&line);
        }
    }

    /// Reads a line of the file's description. Tags of the file, which are indented further, may contain any text.
    fn describe(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("[info] ").filter(|_| !self.is_open) else {
            return;
        };
        if line.starts_with("Output #0, ") {
            self.is_open = true;
        } else if let Some(names) = line.strip_prefix("Input #0, ") {
            self.format = names
                .split_once(", from")
                .map(|(names, _)| names.to_owned());
        } else if let Some(track) = line.strip_prefix("  Stream #0:") {
            self.describe_track(track);
        } else if line.starts_with("  Duration: ") {
            self.claimed = try_parse_duration(line)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|duration| !duration.is_zero());
            let start = line.split_once("start: ").map(|(_, start)| start);
            let start = start.and_then(|start| start.split(',').next()?.parse::<f64>().ok());
            // Before zero lies what an encoder added.
            self.start = start.map(|seconds| (seconds.max(0.0) * 1000.0).round() as i64);
        }
    }

    /// Reads `1[0x2](eng): Audio: aac (LC), …` or `1 -> #0:0 (…)`.
    fn describe_track(&mut self, line: &str) {
        let end = line.find(|character: char| !character.is_ascii_digit());
        let (number, rest) = line.split_at(end.unwrap_or(line.len()));
        let Ok(number) = number.parse() else {
            return;
        };
        if rest.starts_with(" -> ") {
            self.chosen = Some(number);
        } else if let Some((_, codec)) = rest.split_once(": Audio: ") {
            let is_known = !codec.starts_with("none");
            self.tracks.push(Track { number, is_known });
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
        } else if let Some((name, _)) = error.split_once(FORMAT_REJECTED) {
            undecodable(&format!(
                "the server does not accept files of the format {name}"
            ))
        } else if has("moov atom not found") {
            undecodable(
                "it is incomplete: its index (the moov atom) is missing, as after a cut-off upload",
            )
        } else if has("not found for input stream") || has(NO_DECODER) {
            undecodable("no track of it has a codec that ffmpeg knows")
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

/// The number of the track in `[aist#0:1/none @ 0x5581] [error] Decoding requested, but no decoder found for: none`.
fn track_without_decoder(line: &str) -> Option<usize> {
    let (number, rest) = line.strip_prefix("[aist#0:")?.split_once('/')?;
    rest.contains(NO_DECODER).then(|| number.parse().ok())?
}

/// The format in `[png_pipe @ 0x5581] [error] Format not on whitelist 'aac,wav'`.
fn rejected_format(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix('[')?.split_once(" @ ")?;
    rest.contains("Format not on whitelist").then_some(name)
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

#[cfg(test)]
mod tests;
