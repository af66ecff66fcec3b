//! Decoding of real files. Runs if `STT_CORPUS` names a folder with `codecs/`, `codecs.tsv` and `broken/`, and passes
//! otherwise.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use stt_actors::domain::error::DecodeError;
use test_support::audio::{Decoded, decode};

fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("STT_CORPUS")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    if corpus.is_none() {
        eprintln!("skipped: STT_CORPUS is not set");
    }
    corpus
}

/// Seconds of audio in a file of `codecs/`, for which the table lists only the speech.
fn seconds_of(name: &str, listed: f64) -> f64 {
    match name {
        "silence35_speech_silence35.flac" => listed + 70.0,
        _ => listed,
    }
}

/// Extra length of a file due to the encoder's padding.
fn tolerance(name: &str) -> f64 {
    // Complete blocks, and fragments without information on the padding.
    if matches!(name, "adpcm_ima.wav" | "video_fragmented.mp4") {
        return 0.2;
    }
    let extension = Path::new(name).extension().and_then(|text| text.to_str());
    match extension {
        // Without index and length, the encoder's padding is part of the audio.
        Some("mp3" | "mp2" | "aac" | "ts" | "avi" | "wma" | "amr" | "3gp" | "ac3") => 0.2,
        Some("wav" | "flac" | "aiff" | "au" | "caf" | "tta" | "wv") => 0.001,
        _ => 0.1,
    }
}

#[tokio::test]
async fn every_codec_is_decoded_in_full() {
    let Some(corpus) = corpus() else { return };
    let table = std::fs::read_to_string(corpus.join("codecs.tsv")).unwrap();
    let mut wrong = String::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let name = columns[0].strip_prefix("codecs/").unwrap();
        let expected = seconds_of(name, columns[2].parse().unwrap());
        match decode(&corpus.join(columns[0])).await {
            Err(error) => writeln!(wrong, "{name}: {error}").unwrap(),
            Ok(decoded) => {
                let (seconds, loudness) = (decoded.seconds(), decoded.loudness());
                eprintln!("{name}: {seconds:.4} s, loudness {loudness:.4}");
                if (seconds - expected).abs() > tolerance(name) {
                    writeln!(wrong, "{name}: {seconds} s, not {expected} s").unwrap();
                }
                if loudness < 0.005 {
                    writeln!(wrong, "{name}: loudness {loudness}").unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The expected result for a file of `broken/`.
enum Expected {
    Empty,
    Undecodable,
    NoAudioStream,
    /// Approximate seconds of audio.
    Partial(f64),
}

fn expected(name: &str) -> Expected {
    match name {
        "empty.wav" | "header_only.wav" => Expected::Empty,
        "random.bin" | "text.mp3" | "truncated_moov_missing.mp4" => Expected::Undecodable,
        "video_without_audio.mp4" => Expected::NoAudioStream,
        "short_50ms.wav" => Expected::Partial(0.05),
        "truncated.mp3" | "truncated.wav" => Expected::Partial(7.5),
        "truncated.oga" => Expected::Partial(7.0),
        "garbage_middle.mp3" => Expected::Partial(14.7),
        other => panic!("nothing is expected of {other}"),
    }
}

fn is_as_expected(name: &str, result: &Result<Decoded, DecodeError>) -> bool {
    match (expected(name), result) {
        (Expected::Empty, Err(DecodeError::Empty(_)))
        | (Expected::Undecodable, Err(DecodeError::Undecodable(_)))
        | (Expected::NoAudioStream, Err(DecodeError::NoAudioStream)) => true,
        (Expected::Partial(seconds), Ok(decoded)) => (decoded.seconds() - seconds).abs() < 0.05,
        _ => false,
    }
}

#[tokio::test]
async fn every_broken_file_is_refused_with_a_reason_or_used_as_far_as_it_goes() {
    let Some(corpus) = corpus() else { return };
    let mut wrong = String::new();
    for entry in std::fs::read_dir(corpus.join("broken")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let result = decode(&path).await;
        let seen = match &result {
            Ok(decoded) => format!("{:.3} s", decoded.seconds()),
            Err(error) => error.to_string(),
        };
        eprintln!("{name}: {seen}");
        if !is_as_expected(&name, &result) {
            writeln!(wrong, "{name}: {seen}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
