//! Decoding from outside: accepted files, and that all of their audio is decoded.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use hound::{SampleFormat, WavSpec};
use test_support::audio::{
    Decoded, Files, assert_undecodable, decode, decode_with, decoder, next_chunk, open,
};
use test_support::wav::{spec, write_speech, write_tone, write_wav};
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

fn assert_is_tone(decoded: &Decoded, what: &str) {
    let loudness = decoded.loudness();
    let expected = 0.5 / 2_f64.sqrt();
    assert!(
        (loudness - expected).abs() < 0.01,
        "{what}: loudness {loudness}"
    );
    let samples = decoded.all_samples();
    let crossings = samples
        .windows(2)
        .filter(|two| (two[0] < 0) != (two[1] < 0))
        .count();
    let hertz = crossings as f64 / 2.0 / decoded.seconds();
    assert!((hertz - 500.0).abs() < 2.0, "{what}: {hertz} Hz");
}

#[tokio::test]
async fn wav_of_any_width_rate_and_channel_count_is_read() {
    let files = Files::new();
    let float = WavSpec {
        sample_format: SampleFormat::Float,
        ..spec(2, 22_050, 32)
    };
    let specs = [
        spec(1, 16_000, 16),
        spec(1, 8000, 8),
        spec(2, 44_100, 16),
        spec(1, 48_000, 24),
        spec(6, 48_000, 16),
        spec(2, 11_025, 32),
        spec(1, 96_000, 24),
        float,
    ];
    for spec in specs {
        let path = files.path("tone.wav");
        write_tone(&path, spec, 2);
        // This process decodes WAV itself.
        let tone = decode_with(&without_ffmpeg(), &path).await.unwrap();
        assert_eq!(tone.samples, 32_000, "{spec:?}");
        assert_eq!(tone.claimed, Some(Duration::from_secs(2)));
        assert_is_tone(&tone, &format!("{spec:?}"));
    }
}

/// A decoder on a machine without ffmpeg.
fn without_ffmpeg() -> Decoder {
    Decoder::new(
        DecoderLimits {
            ffmpeg: "no-such-ffmpeg".into(),
            ..DecoderLimits::default()
        },
        VoiceActivity::default(),
    )
}

#[tokio::test]
async fn short_flac_and_mp3_need_no_ffmpeg_and_sound_as_it_decodes_them() {
    let files = Files::new();
    for (name, arguments) in [
        ("a.flac", ""),
        ("b.flac", "-ac 2 -ar 48000 -sample_fmt s32"),
        ("c.flac", "-ar 8000 -metadata title=test"),
        ("d.mp3", "-b:a 64k"),
        (
            "e.mp3",
            "-ac 2 -q:a 4 -id3v2_version 3 -metadata title=test",
        ),
        ("f.mp3", "-ar 16000 -write_xing 0 -id3v2_version 0"),
    ] {
        let path = files.tone(name, 4.0, arguments);
        let ours = decode_with(&without_ffmpeg(), &path).await.expect(name);
        let theirs = files.made(
            &format!("{name}.wav"),
            &format!("-i file:{} -ac 1 -ar 16000", path.display()),
        );
        let theirs = decode(&theirs).await.expect(name);
        let (a, b) = (ours.all_samples(), theirs.all_samples());
        assert!(
            a.len().abs_diff(b.len()) < 1200,
            "{name}: {} {}",
            a.len(),
            b.len()
        );
        assert!(
            (ours.loudness() - theirs.loudness()).abs() < 0.005,
            "{name}"
        );
        if path.extension().unwrap() == "flac" {
            // The two resamplers differ near the edges and in the last bits.
            let pairs = a.iter().zip(&b).skip(1000).take(a.len() - 2000);
            let off = pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(off < 60, "{name}: {off}");
        }
    }
}

#[tokio::test]
async fn flac_that_is_damaged_or_not_short_is_left_to_ffmpeg() {
    let files = Files::new();
    let whole = files.tone("tone.flac", 8.0, "");
    let mut bytes = std::fs::read(&whole).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 50].fill(0x5a);
    let damaged = files.write("damaged.flac", bytes);
    let long = files.tone("long.flac", 140.0, "");
    // A prime number, so that exact resampling needs a filter of that size.
    let odd = files.tone("odd.flac", 8.0, "-ar 64007");
    for path in [damaged, long, odd] {
        let error = decode_with(&without_ffmpeg(), &path).await.err();
        let error = error.expect("not decoded").to_string();
        assert!(error.contains("Install ffmpeg"), "{error}");
        assert!(decode(&path).await.unwrap().seconds() > 7.0);
    }
}

#[tokio::test]
async fn wav_of_16_khz_mono_is_passed_through_unchanged() {
    let files = Files::new();
    let path = files.path("noise.wav");
    let samples: Vec<i16> = (0..1_300_000_i64)
        .map(|i| (i * i * 7919 % 65_521 - 32_768) as i16)
        .collect();
    write_speech(&path, samples.iter().copied());
    let decoded = decode(&path).await.unwrap();
    assert!(decoded.all_samples() == samples);
    assert!(decoded.chunks.len() >= 3);
}

#[tokio::test]
async fn empty_channels_do_not_make_the_sound_quieter() {
    let files = Files::new();
    let path = files.path("one_of_six.wav");
    let samples = (0..96_000).flat_map(|frame| {
        let time = f64::from(frame) / 48_000.0;
        let value = 0.5 * (time * 500.0 * std::f64::consts::TAU).sin();
        (0..6).map(move |channel| match channel {
            2 => (value * 32_768.0) as i32,
            _ => (frame * 7 + channel) % 3 - 1,
        })
    });
    write_wav(&path, spec(6, 48_000, 16), samples);
    assert_is_tone(
        &decode(&path).await.unwrap(),
        "speech in one channel of six",
    );
}

#[tokio::test]
async fn unusual_wav_is_left_to_ffmpeg() {
    let files = Files::new();
    for (name, arguments) in [
        ("mulaw.wav", "-c:a pcm_mulaw -ar 8000"),
        ("adpcm.wav", "-c:a adpcm_ms"),
        ("float64.wav", "-c:a pcm_f64le"),
        ("rf64.wav", "-rf64 always"),
        ("mp3.wav", "-c:a libmp3lame"),
    ] {
        let path = files.tone(name, 2.0, arguments);
        let seconds = decode(&path).await.expect(name).seconds();
        assert!((seconds - 2.0).abs() < 0.1, "{name}: {seconds} s");
    }
}

#[tokio::test]
async fn wav_of_a_live_stream_is_read_to_its_end() {
    let files = Files::new();
    let path = files.path("tone.wav");
    write_tone(&path, spec(1, 16_000, 16), 2);
    let whole = std::fs::read(&path).unwrap();
    for length in [u32::MAX, 0, 0x7fff_f000] {
        let mut bytes = whole.clone();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[40..44].copy_from_slice(&length.to_le_bytes());
        let path = files.write("live.wav", bytes);
        let decoded = decode(&path).await.unwrap();
        assert_eq!(decoded.samples, 32_000, "claims {length:#x}");
    }
}

#[tokio::test]
async fn common_formats_are_decoded() {
    let files = Files::new();
    for (name, arguments) in [
        ("a.mp3", "-b:a 64k"),
        ("a.m4a", "-c:a aac"),
        ("a.aac", "-c:a aac"),
        ("a.ogg", "-c:a libvorbis"),
        ("a.opus", "-c:a libopus"),
        ("a.webm", "-c:a libopus"),
        ("a.mka", "-c:a flac"),
        ("a.flac", "-ac 2"),
        ("a.aiff", ""),
        ("a.au", ""),
        ("a.caf", ""),
        ("a.ac3", ""),
        ("a.wma", "-c:a wmav2"),
        ("a.w64", ""),
        ("a.ts", "-c:a aac"),
        ("a.avi", "-c:a mp3"),
    ] {
        let path = files.tone(name, 3.0, arguments);
        let decoded = decode(&path).await.expect(name);
        let seconds = decoded.seconds();
        assert!((seconds - 3.0).abs() < 0.15, "{name}: {seconds} s");
        assert!(decoded.loudness() > 0.05, "{name} is silent");
    }
}

#[tokio::test]
async fn a_short_file_is_known_to_be_short_whatever_its_container_states() {
    let files = Files::new();
    // Without a header that tells the length: as written to a pipe.
    let piped = "-f lavfi -i sine=440:d=7.5 -ac 1";
    for (name, arguments) in [
        ("a.wav", ""),
        ("a.flac", ""),
        ("a.mp3", "-b:a 64k"),
        ("bare.mp3", "-q:a 4 -write_xing 0"),
        ("a.m4a", "-c:a aac"),
        ("a.aac", "-c:a aac"),
        ("a.opus", "-c:a libopus"),
        ("live.webm", "-c:a libopus -live 1"),
        ("a.ts", "-c:a aac"),
    ] {
        let path = files.made(name, &format!("{piped} {arguments}"));
        let plain = decode(&path).await.expect(name);
        let decoder = decoder();
        let mut stream = open(&decoder, &path).await.expect(name);
        for (limit, is_short) in [(5, false), (10, true)] {
            let found = stream.ends_within(Duration::from_secs(limit)).await;
            assert_eq!(found.expect(name), is_short, "{name} and {limit} s");
        }
        // What was decoded ahead is not lost.
        let mut samples = Vec::new();
        while let Some(chunk) = next_chunk(stream.as_mut()).await.expect(name) {
            samples.extend_from_slice(&chunk.samples);
        }
        assert_eq!(samples, plain.all_samples(), "{name}");
    }
    let garbage = files.write("garbage", vec![7; 5000]);
    let mut stream = open(&decoder(), &garbage).await.unwrap();
    assert!(stream.ends_within(Duration::from_secs(10)).await.is_err());
}

#[tokio::test]
async fn the_sound_of_a_video_is_decoded_even_with_its_index_at_the_end() {
    let files = Files::new();
    let path = files.made(
        "video",
        "-f lavfi -i testsrc=d=3:s=160x120:r=10 -f lavfi -i sine=440:d=3 -f mp4",
    );
    let decoded = decode(&path).await.unwrap();
    assert!((decoded.seconds() - 3.0).abs() < 0.1);
    assert!((decoded.claimed.unwrap().as_secs_f64() - 3.0).abs() < 0.1);
}

#[tokio::test]
async fn fifty_milliseconds_are_enough() {
    let files = Files::new();
    for (name, arguments) in [("a.wav", "-ar 16000"), ("a.flac", ""), ("a.mp3", "")] {
        let path = files.tone(name, 0.05, arguments);
        let decoded = decode(&path).await.expect(name);
        assert_eq!(decoded.chunks.len(), 1, "{name}");
        assert!(decoded.seconds() < 0.15, "{name}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_decoded_as_far_as_it_goes() {
    let files = Files::new();
    let wav = files.path("tone.wav");
    write_tone(&wav, spec(2, 16_000, 16), 4);
    let mp3 = files.tone("tone.mp3", 4.0, "-b:a 64k");
    let ogg = files.tone("tone.ogg", 4.0, "-c:a libopus");
    for path in [wav, mp3, ogg] {
        let mut bytes = std::fs::read(&path).unwrap();
        // An odd length, in the middle of a sample.
        bytes.truncate((bytes.len() / 2) | 1);
        std::fs::write(&path, bytes).unwrap();
        let seconds = decode(&path).await.unwrap().seconds();
        assert!(
            (1.0..3.1).contains(&seconds),
            "{}: {seconds} s",
            path.display()
        );
    }
    let mp4 = files.tone("tone.m4a", 4.0, "-c:a aac");
    let bytes = std::fs::read(&mp4).unwrap();
    let cut = files.write("cut.m4a", &bytes[..bytes.len() / 2]);
    let why = assert_undecodable(&cut).await;
    assert!(why.contains("incomplete"), "{why}");
}

#[tokio::test]
async fn garbage_in_the_middle_costs_only_the_middle() {
    let files = Files::new();
    let path = files.tone("tone.mp3", 8.0, "-b:a 64k");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 3000].fill(0x5a);
    let seconds = decode(&files.write("damaged.mp3", bytes))
        .await
        .unwrap()
        .seconds();
    assert!((7.0..8.2).contains(&seconds), "{seconds} s");
}

#[tokio::test]
async fn long_audio_comes_in_chunks_cut_in_the_pauses() {
    let files = Files::new();
    // 0.6 s of pause every 11 s.
    let path = files.made(
        "long.opus",
        "-f lavfi -i aevalsrc=if(lt(mod(t\\,11)\\,10.4)\\,0.3*random(0)\\,0):d=100 -c:a libopus",
    );
    let decoded = decode(&path).await.unwrap();
    assert!((decoded.seconds() - 100.0).abs() < 0.1);
    for chunk in &decoded.chunks[1..] {
        let place = (chunk.start_sample() as f64 / 16_000.0) % 11.0;
        assert!(
            (place - 10.7).abs() < 0.1,
            "cut at {} s",
            (chunk.start_sample() as f64 / 16_000.0)
        );
    }
}
