//! Claimed lengths that are wrong: they neither cut the sound nor reject the file.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stt_actors::domain::error::DecodeError;
use test_support::audio::{Files, decode, decode_with};
use test_support::wav::{spec, write_tone};
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

fn limited(seconds: u64) -> Decoder {
    Decoder::new(
        DecoderLimits {
            max_audio: Duration::from_secs(seconds),
            ..DecoderLimits::default()
        },
        VoiceActivity::default(),
    )
}

/// A decoder that reads only what needs no ffmpeg.
fn without_ffmpeg() -> Decoder {
    Decoder::new(
        DecoderLimits {
            ffmpeg: "no-such-ffmpeg".into(),
            ..DecoderLimits::default()
        },
        VoiceActivity::default(),
    )
}

/// Files joined byte by byte.
fn joined(files: &Files, name: &str, parts: &[&PathBuf]) -> PathBuf {
    let parts = parts.iter().map(|part| std::fs::read(part).unwrap());
    files.write(name, parts.collect::<Vec<_>>().concat())
}

/// Asserts that the file is decoded to this length: `padding` more at most, and hardly anything less. Returns the
/// claimed length.
async fn assert_seconds(path: &Path, expected: f64, padding: f64) -> f64 {
    let decoded = decode(path).await.unwrap();
    let seconds = decoded.seconds();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(
        seconds > expected - 0.005 && seconds < expected + padding,
        "{name}: {seconds} s instead of {expected} s"
    );
    decoded.claimed.map_or(0.0, |claimed| claimed.as_secs_f64())
}

#[tokio::test]
async fn joined_mp3_files_are_decoded_in_full() {
    let files = Files::new();
    let first = files.tone("first.mp3", 3.0, "-b:a 64k");
    let same = files.tone("same.mp3", 2.0, "-b:a 64k");
    let bare = files.tone("bare.mp3", 2.0, "-b:a 64k -write_xing 0 -id3v2_version 0");
    let tagged = files.tone(
        "tagged.mp3",
        2.0,
        "-b:a 64k -id3v2_version 3 -metadata title=title -write_apetag 1",
    );
    let other = files.tone("other.mp3", 2.0, "-ar 22050 -ac 2 -b:a 48k");
    for (name, middle) in [("a", &same), ("b", &bare), ("c", &tagged), ("d", &other)] {
        let path = joined(&files, &format!("{name}.mp3"), &[&first, middle, &first]);
        // Each file has up to two frames of padding.
        assert_seconds(&path, 8.0, 0.35).await;
    }
    let other_first = joined(&files, "e.mp3", &[&other, &first]);
    assert_seconds(&other_first, 5.0, 0.25).await;
    let large = files.tone("large.mp3", 300.0, "-b:a 128k");
    let large = joined(&files, "joined_large.mp3", &[&large, &first]);
    assert_seconds(&large, 303.0, 0.25).await;
}

#[tokio::test]
async fn an_mp3_without_a_length_is_decoded_in_full() {
    let files = Files::new();
    // Half of it is nearly silent, so that the bit rate of the beginning says nothing about the rest.
    let sound = "-f lavfi -i aevalsrc=random(0)*if(lt(t\\,3)\\,0.5\\,0.00001):s=44100:d=9 -q:a 2";
    for (name, options) in [("a.mp3", "-write_xing 0"), ("b.mp3", "")] {
        let path = files.made(name, &format!("{sound} {options}"));
        assert_seconds(&path, 9.0, 0.1).await;
    }
}

/// An MP3 whose Info frame has these numbers of frames and bytes.
fn with_info(files: &Files, name: &str, whole: &Path, frames: u32) -> PathBuf {
    let mut bytes = std::fs::read(whole).unwrap();
    let info = bytes
        .windows(4)
        .position(|four| four == b"Info" || four == b"Xing");
    let numbers = info.unwrap() + 8;
    bytes[numbers..numbers + 4].copy_from_slice(&frames.to_be_bytes());
    let size = frames.saturating_mul(200);
    bytes[numbers + 4..numbers + 8].copy_from_slice(&size.to_be_bytes());
    files.write(name, bytes)
}

#[tokio::test]
async fn a_length_in_the_header_of_an_mp3_is_not_believed() {
    let files = Files::new();
    let short = files.tone("short.mp3", 6.0, "-b:a 64k");
    let large = files.tone("large.mp3", 300.0, "-ar 16000 -b:a 128k");
    // About a second, and 100,000 s or more.
    for frames in [38, 3_828_125] {
        let path = with_info(&files, &format!("short_{frames}.mp3"), &short, frames);
        assert_seconds(&path, 6.0, 0.1).await;
        let path = with_info(&files, &format!("large_{frames}.mp3"), &large, frames);
        // Estimates use the length that was counted.
        let claimed = assert_seconds(&path, 300.0, 0.1).await;
        assert!(frames == 38 || (claimed - 300.0).abs() < 1.0, "{claimed} s");
    }
}

#[tokio::test]
async fn joined_flac_files_and_wrong_lengths_in_flac_lose_nothing() {
    let files = Files::new();
    let first = files.tone("first.flac", 3.0, "");
    let second = files.tone("second.flac", 2.0, "-ar 16000 -ac 2");
    let path = joined(&files, "joined.flac", &[&first, &second, &first]);
    let decoded = decode_with(&without_ffmpeg(), &path).await.unwrap();
    assert_eq!(decoded.samples, 8 * 16_000);
    // ffmpeg decodes longer files.
    let long = files.tone("long.flac", 130.0, "-ar 8000");
    let decoded = decode(&joined(
        &files,
        "joined_long.flac",
        &[&long, &second, &long],
    ))
    .await;
    assert_eq!(decoded.unwrap().samples, 262 * 16_000);
    // The number of samples: the last 36 bits before the checksum.
    for samples in [0_u32, 44_100, u32::MAX] {
        let mut bytes = std::fs::read(&first).unwrap();
        bytes[22..26].copy_from_slice(&samples.to_be_bytes());
        let decoded = decode(&files.write("wrong.flac", &bytes)).await.unwrap();
        assert_eq!(decoded.samples, 3 * 16_000, "{samples} samples claimed");
    }
}

#[tokio::test]
async fn containers_that_claim_too_much_are_counted_and_decoded() {
    let files = Files::new();
    let mut matroska = std::fs::read(files.tone("a.mka", 4.0, "-c:a libopus")).unwrap();
    // The duration: an element of eight bytes, in milliseconds.
    let place = matroska
        .windows(3)
        .position(|three| three == [0x44, 0x89, 0x88])
        .unwrap()
        + 3;
    matroska[place..place + 8].copy_from_slice(&1e8_f64.to_be_bytes());
    let matroska = files.write("claim.mka", matroska);
    let flac = files.tone("long.flac", 130.0, "-sample_fmt s16");
    let mut bytes = std::fs::read(&flac).unwrap();
    bytes[22..26].copy_from_slice(&u32::MAX.to_be_bytes());
    let flac = files.write("claim.flac", bytes);
    for (path, expected) in [(matroska, 4.0), (flac, 130.0)] {
        let decoded = decode(&path).await.unwrap();
        assert!(
            (decoded.seconds() - expected).abs() < 0.1,
            "{}",
            decoded.seconds()
        );
        let claimed = decoded.claimed.unwrap().as_secs_f64();
        assert!((claimed - expected).abs() < 1.0, "{claimed} s");
    }
}

#[tokio::test]
async fn a_file_that_is_too_long_is_rejected_before_it_is_decoded() {
    let files = Files::new();
    let decoder = limited(5);
    // Rejected although the sound begins with nothing that would exceed the limit.
    for (name, arguments) in [
        ("a.mka", "-c:a libopus"),
        ("b.m4a", "-c:a aac"),
        ("c.ts", "-c:a aac"),
        ("d.ogg", "-c:a libvorbis"),
    ] {
        let path = files.tone(name, 8.0, arguments);
        let error = decode_with(&decoder, &path).await.unwrap_err();
        assert_eq!(error, DecodeError::TooLong { limit_seconds: 5 }, "{name}");
    }
}

#[tokio::test]
async fn wav_with_old_lengths_repeated_headers_or_several_data_chunks_is_read_in_full() {
    let files = Files::new();
    for spec in [spec(1, 16_000, 16), spec(2, 44_100, 24)] {
        let path = files.path("tone.wav");
        write_tone(&path, spec, 2);
        let whole = std::fs::read(&path).unwrap();
        let header = whole.len()
            - 2 * (spec.sample_rate as usize)
                * usize::from(spec.channels * spec.bits_per_sample / 8);
        for claim in [0, 1000, 0x7fff_0000, u32::MAX] {
            let mut old = whole.clone();
            old[header - 4..header].copy_from_slice(&u32::to_le_bytes(claim));
            let decoded = decode_with(&without_ffmpeg(), &files.write("old.wav", old)).await;
            assert_eq!(
                decoded.unwrap().samples,
                32_000,
                "{spec:?}, a length of {claim}"
            );
        }
        let list = [&b"LIST\x0a\0\0\0INFO"[..], &[0x77; 6]].concat();
        let pieces = [&whole[..], &list, &whole, &whole[header - 8..]].concat();
        let decoded = decode_with(&without_ffmpeg(), &files.write("pieces.wav", pieces)).await;
        let decoded = decoded.unwrap();
        assert_eq!(decoded.samples, 3 * 32_000, "{spec:?}");
        assert_eq!(decoded.claimed, Some(Duration::from_secs(6)));
        let loudest = decoded
            .all_samples()
            .iter()
            .map(|sample| sample.unsigned_abs())
            .max();
        assert!(loudest < Some(18_000), "a header is heard: {loudest:?}");
    }
}
