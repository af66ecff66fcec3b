//! Strict parsers of SubRip and WebVTT: numbers, times to the millisecond, in order, within the audio.

use anyhow::{Context, bail, ensure};

use crate::probe::speech::Speech;

/// Codecs pad the end of the audio.
const PADDING_SECONDS: f64 = 0.2;

/// The text of SubRip subtitles.
///
/// # Errors
/// The subtitles are invalid; the message names the first fault.
pub fn srt(body: &str, speech: &Speech) -> anyhow::Result<String> {
    cues(body.trim_end(), ',', true, speech)
}

/// The text of WebVTT subtitles.
///
/// # Errors
/// The subtitles are invalid; the message names the first fault.
pub fn vtt(body: &str, speech: &Speech) -> anyhow::Result<String> {
    let body = body
        .strip_prefix("WEBVTT")
        .context("it does not begin with WEBVTT")?;
    let (_, cues_text) = body
        .split_once("\n\n")
        .context("an empty line after WEBVTT is missing")?;
    cues(cues_text.trim_end(), '.', false, speech)
}

fn cues(body: &str, separator: char, numbered: bool, speech: &Speech) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut last_end = 0.0;
    ensure!(!body.is_empty(), "the subtitles contain no cue");
    for (number, cue) in (1..).zip(body.split("\n\n")) {
        let mut lines = cue.trim_start_matches('\n').lines();
        if numbered {
            let found = lines.next().unwrap_or_default();
            ensure!(
                found == number.to_string(),
                "cue {number} has the number {found:?}"
            );
        }
        let times = lines.next().unwrap_or_default();
        let (start, end) = times
            .split_once(" --> ")
            .with_context(|| format!("{times:?} instead of two times"))?;
        let (start, end) = (seconds(start, separator)?, seconds(end, separator)?);
        ensure!(
            last_end <= start + 0.001 && start <= end,
            "the times run backwards at {times:?}"
        );
        ensure!(
            end <= speech.seconds + PADDING_SECONDS,
            "{times:?} is beyond the audio's {} s",
            speech.seconds
        );
        last_end = end;
        for line in lines {
            text.push_str(line);
            text.push(' ');
        }
    }
    Ok(text)
}

/// Parses `HH:MM:SS,mmm` to seconds.
fn seconds(clock: &str, separator: char) -> anyhow::Result<f64> {
    let digits = |part: &str, count: usize| {
        let fit = part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
        fit.then(|| part.parse::<f64>().ok()).flatten()
    };
    let read = || {
        let (clock, millis) = clock.split_once(separator)?;
        let mut parts = clock.split(':');
        let mut next = || digits(parts.next()?, 2);
        let seconds = next()? * 3600.0 + next()? * 60.0 + next()?;
        Some(seconds + digits(millis, 3)? / 1000.0)
    };
    match read() {
        Some(seconds) => Ok(seconds),
        None => bail!("{clock:?} is not a time of the form HH:MM:SS{separator}mmm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::speech::COMMAND;

    #[test]
    fn valid_subtitles_give_their_text() {
        let body = "1\n00:00:00,000 --> 00:00:00,900\nTurn on\n\n2\n00:00:00,900 --> 00:00:01,780\nthe light\n\n";
        assert_eq!(srt(body, &COMMAND).unwrap(), "Turn on the light ");
        let body = "WEBVTT\n\n00:00:00.100 --> 00:00:01.780\nTurn on\n\n";
        assert_eq!(vtt(body, &COMMAND).unwrap(), "Turn on ");
    }

    #[test]
    fn invalid_subtitles_are_errors_of_their_kind() {
        for (body, complaint) in [
            ("", "no cue"),
            ("0\n00:00:00,000 --> 00:00:01,000\na", "number"),
            ("1\n00:00:00.000 --> 00:00:01.000\na", "not a time"),
            ("1\n00:00,000 --> 00:01,000\na", "not a time"),
            ("1\n00:00:01,000 --> 00:00:00,500\na", "backwards"),
            ("1\n00:00:00,000 --> 00:00:09,000\na", "beyond"),
            ("<html>", "number"),
        ] {
            let error = srt(body, &COMMAND).unwrap_err().to_string();
            assert!(error.contains(complaint), "{body:?}: {error}");
        }
        assert!(vtt("1\n", &COMMAND).is_err());
    }
}
