//! The ffmpeg processes: their limits, the meaning of their exits, and that none is left over.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stt_actors::domain::error::DecodeError;
use test_support::audio::{Files, decode_with, is_gone, next_chunk, open, readers_of};
use test_support::{patiently, until};
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

/// Long enough that ffmpeg cannot finish while only the first chunk was read.
fn long_file(files: &Files) -> PathBuf {
    files.made("long.flac", "-f lavfi -i anoisesrc=r=16000:a=0.1:d=200")
}

fn with(limits: impl FnOnce(&mut DecoderLimits)) -> Decoder {
    let mut chosen = DecoderLimits::default();
    limits(&mut chosen);
    Decoder::new(chosen, VoiceActivity::default())
}

#[tokio::test]
async fn dropping_the_stream_ends_ffmpeg() {
    let files = Files::new();
    let path = long_file(&files);
    let decoder = with(|_| {});
    let mut stream = open(&decoder, &path).await.unwrap();
    patiently(next_chunk(stream.as_mut()))
        .await
        .unwrap()
        .unwrap();
    let [ffmpeg] = readers_of(&path)[..] else {
        panic!("one process reads the file");
    };
    drop(stream);
    until("ffmpeg is gone", async || is_gone(ffmpeg)).await;
}

#[tokio::test]
async fn dropping_the_stream_ends_the_children_of_a_wrapper_too() {
    let files = Files::new();
    let wrapper = files.script("wrapper", "exec 3<&0; sleep 1000 <&3 & wait");
    let path = files.write("some.bin", "something");
    let decoder = with(|limits| limits.ffmpeg = wrapper);
    let mut stream = open(&decoder, &path).await.unwrap();
    let next = tokio::spawn(async move { next_chunk(stream.as_mut()).await.map(|_| ()) });
    until("both run", async || readers_of(&path).len() == 2).await;
    let processes = readers_of(&path);
    next.abort();
    until("both are gone", async || {
        processes.iter().all(|&id| is_gone(id))
    })
    .await;
}

#[tokio::test]
async fn ffmpeg_killed_in_the_middle_is_an_error_and_no_short_audio() {
    let files = Files::new();
    let path = long_file(&files);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let decoder = with(|_| {});
        let mut stream = open(&decoder, &path).await.unwrap();
        patiently(next_chunk(stream.as_mut()))
            .await
            .unwrap()
            .unwrap();
        let [ffmpeg] = readers_of(&path)[..] else {
            panic!("one process reads the file");
        };
        kill(Pid::from_raw(ffmpeg), signal).unwrap();
        let error = loop {
            match patiently(next_chunk(stream.as_mut())).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{signal} passed for the end of the audio"),
                Err(error) => break error,
            }
        };
        let expected = DecodeError::Unavailable(format!("ffmpeg was ended by {signal}"));
        assert_eq!(error, expected);
        until("it is gone", async || is_gone(ffmpeg)).await;
    }
}

#[tokio::test]
async fn a_decoder_that_gives_nothing_is_ended() {
    let files = Files::new();
    let path = files.write("some.bin", "something");
    let silent = files.script("silent", "exec sleep 1000");
    let decoder = with(|limits| {
        limits.ffmpeg = silent;
        limits.stall = Duration::from_millis(300);
    });
    let error = decode_with(&decoder, &path).await.unwrap_err();
    assert!(matches!(error, DecodeError::Stalled { .. }), "{error:?}");
    until("it is gone", async || readers_of(&path).is_empty()).await;
}

#[tokio::test]
async fn a_slow_listener_is_not_a_stall() {
    let files = Files::new();
    let path = long_file(&files);
    // Long enough for an ffmpeg on a busy machine.
    let stall = Duration::from_secs(5);
    let decoder = with(|limits| limits.stall = stall);
    let mut stream = open(&decoder, &path).await.unwrap();
    let mut samples = 0;
    let mut paused = false;
    while let Some(chunk) = patiently(next_chunk(stream.as_mut())).await.unwrap() {
        samples += chunk.samples.len();
        if !paused {
            // The tested pause, longer than ffmpeg's limit for silence.
            tokio::time::sleep(stall + Duration::from_millis(500)).await;
            paused = true;
        }
    }
    assert_eq!(samples, 200 * 16_000);
}

#[tokio::test]
async fn a_missing_ffmpeg_is_the_servers_trouble() {
    let files = Files::new();
    let path = files.write("some.bin", "something");
    let decoder = with(|limits| limits.ffmpeg = "no-such-ffmpeg".into());
    let error = decode_with(&decoder, &path).await.unwrap_err();
    assert!(matches!(&error, DecodeError::Unavailable(why) if why.contains("Install ffmpeg")));
}

#[tokio::test]
async fn ffmpeg_sees_no_keys() {
    let files = Files::new();
    let path = files.tone("tone.ogg", 1.0, "-c:a libopus");
    let spy = files.script("spy", "env >\"$0.out\"; exec ffmpeg \"$@\"");
    let decoder = with(|limits| limits.ffmpeg = spy);
    decode_with(&decoder, &path).await.unwrap();
    let seen = std::fs::read_to_string(files.path("spy.out")).unwrap();
    for line in seen.lines() {
        let name = line.split('=').next().unwrap();
        // The last three are the shell's own.
        let known = ["PATH", "LD_LIBRARY_PATH", "PWD", "SHLVL", "_"];
        assert!(known.contains(&name), "{line}");
    }
}

#[tokio::test]
async fn a_long_file_that_waits_keeps_no_turn_from_a_short_one() {
    let files = Files::new();
    let long = long_file(&files);
    let short = files.tone("short.ogg", 2.0, "-c:a libopus");
    let decoder = with(|limits| limits.concurrent_decoders = 1);
    let mut waiting = open(&decoder, &long).await.unwrap();
    patiently(next_chunk(waiting.as_mut()))
        .await
        .unwrap()
        .unwrap();
    let seconds = decode_with(&decoder, &short).await.unwrap().seconds();
    assert!((seconds - 2.0).abs() < 0.1);
    assert!(
        patiently(next_chunk(waiting.as_mut()))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn no_more_decoders_are_at_work_than_turns() {
    let files = Files::new();
    let stuck = files.write("some.bin", "something");
    let wav = files.tone("tone.wav", 1.0, "-ar 8000");
    let silent = files.script("silent", "exec sleep 1000");
    let decoder = with(|limits| {
        limits.concurrent_decoders = 1;
        limits.ffmpeg = silent;
    });
    let mut at_work = open(&decoder, &stuck).await.unwrap();
    let at_work = tokio::spawn(async move { next_chunk(at_work.as_mut()).await.map(|_| ()) });
    until("it is at work", async || !readers_of(&stuck).is_empty()).await;
    let mut waiting = open(&decoder, &wav).await.unwrap();
    let early =
        tokio::time::timeout(Duration::from_millis(300), next_chunk(waiting.as_mut())).await;
    assert!(early.is_err(), "it did not wait");
    at_work.abort();
    assert!(
        patiently(next_chunk(waiting.as_mut()))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn no_more_processes_than_slots_and_waiting_for_one_is_no_stall() {
    let files = Files::new();
    let long = long_file(&files);
    let second = files.tone("second.ogg", 2.0, "-c:a libopus");
    // Long enough for an ffmpeg on a busy machine.
    let stall = Duration::from_secs(5);
    let decoder = with(|limits| {
        limits.ffmpeg_processes = 1;
        limits.stall = stall;
    });
    let mut holder = open(&decoder, &long).await.unwrap();
    patiently(next_chunk(holder.as_mut()))
        .await
        .unwrap()
        .unwrap();
    let mut stream = open(&decoder, &second).await.unwrap();
    let longer_than_a_stall = stall + Duration::from_millis(500);
    let early = tokio::time::timeout(longer_than_a_stall, next_chunk(stream.as_mut())).await;
    assert!(early.is_err(), "it did not wait");
    assert!(readers_of(&second).is_empty());
    drop(holder);
    assert!(
        patiently(next_chunk(stream.as_mut()))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_file_that_is_decoded_gives_its_slot_back_before_it_is_dropped() {
    let files = Files::new();
    let short = files.tone("short.ogg", 2.0, "-c:a libopus");
    let decoder = with(|limits| limits.ffmpeg_processes = 1);
    let mut first = open(&decoder, &short).await.unwrap();
    patiently(next_chunk(first.as_mut()))
        .await
        .unwrap()
        .unwrap();
    decode_with(&decoder, &short).await.unwrap();
    assert!(
        patiently(next_chunk(first.as_mut()))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_caller_who_asks_again_loses_nothing() {
    let files = Files::new();
    for (name, arguments) in [
        ("a.wav", "-ar 48000"),
        ("a.flac", "-ar 48000"),
        ("a.mka", "-ar 48000 -c:a flac"),
    ] {
        let path = files.tone(name, 40.0, arguments);
        let decoder = with(|_| {});
        let mut stream = open(&decoder, &path).await.unwrap();
        let mut samples = 0;
        loop {
            // Stops repeatedly, sometimes in the middle of a block.
            let patience = Duration::from_micros(200);
            match tokio::time::timeout(patience, next_chunk(stream.as_mut())).await {
                Err(_) => {}
                Ok(chunk) => match chunk.unwrap() {
                    Some(chunk) => samples += chunk.samples.len(),
                    None => break,
                },
            }
        }
        assert_eq!(samples, 40 * 16_000, "{name}");
    }
}
