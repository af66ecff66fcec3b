//! Decoding from outside: rejected files, the messages, and that a file cannot refer to other files.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use stt_actors::domain::error::DecodeError;
use test_support::audio::{Files, assert_undecodable, decode, decode_with, refusal};
use test_support::wav::{spec, write_tone, write_wav};
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

#[tokio::test]
async fn names_are_only_names() {
    let files = Files::new();
    let flac = files.tone("a.flac", 1.0, "");
    for name in [
        "-i x.mp3",
        "http:x.m3u8",
        "a'b\nc %d.png",
        "concat:a|b",
        "lied.wav",
        "ü.txt",
    ] {
        let path = files.path(name);
        std::fs::copy(&flac, &path).unwrap();
        let decoded = decode(&path).await.expect(name);
        assert_eq!(decoded.samples, 16_000, "{name}");
    }
}

#[tokio::test]
async fn playlists_and_scripts_that_name_other_files_are_refused() {
    let files = Files::new();
    let victim = files.tone("victim.mp3", 1.0, "");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/x.mp3", listener.local_addr().unwrap());
    let hls = |target: &str| {
        format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
    };
    let victim = victim.display();
    for (name, content) in [
        ("local.m3u8", hls(&format!("{victim}"))),
        ("remote.m3u8", hls(&url)),
        ("remote.mp3", hls(&url)),
        ("script", format!("ffconcat version 1.0\nfile {victim}\n")),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n".into()),
        ("dash.mpd", format!("<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\"><Period><AdaptationSet mimeType=\"audio/mp4\"><Representation id=\"1\"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>")),
        ("meta.wav", format!(";FFMETADATA1\nfile={victim}\n")),
    ] {
        assert_undecodable(&files.write(name, content)).await;
    }
    let visited = listener.accept().map_err(|error| error.kind());
    assert_eq!(visited.unwrap_err(), std::io::ErrorKind::WouldBlock);
}

/// A QuickTime alias record that names `target`, as a data reference entry.
fn alias_to(target: &Path) -> Vec<u8> {
    let name = target.to_str().unwrap().as_bytes();
    let mut body = vec![0; 10 + 28 + 12 + 64 + 16 + 4 + 16];
    body.extend(2_u16.to_be_bytes()); // "the absolute path follows"
    body.extend((name.len() as u16).to_be_bytes());
    body.extend(name);
    body.resize(body.len().next_multiple_of(2), 0);
    body.extend((-1_i16).to_be_bytes());
    body.extend([0; 2]);
    let mut entry = (12 + body.len() as u32).to_be_bytes().to_vec();
    entry.extend(b"alis\0\0\0\0");
    entry.extend(body);
    entry
}

#[tokio::test]
async fn a_movie_whose_sound_is_in_another_file_is_refused() {
    let files = Files::new();
    let victim = files.tone("victim.mov", 2.0, "-c:a pcm_s16le");
    let mut bytes = std::fs::read(files.tone("movie.mov", 1.0, "-c:a pcm_s16le")).unwrap();
    // Replace the 12 bytes of the reference to the file itself by a reference to the victim, and enlarge all surrounding
    // boxes.
    let entry = alias_to(&victim);
    for name in [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"] {
        let size = bytes.windows(4).rposition(|four| four == name).unwrap() - 4;
        let old = u32::from_be_bytes(bytes[size..size + 4].try_into().unwrap());
        let new = old + entry.len() as u32 - 12;
        bytes[size..size + 4].copy_from_slice(&new.to_be_bytes());
    }
    let dref = bytes.windows(4).rposition(|four| four == b"dref").unwrap();
    let place = dref + 12;
    bytes.splice(place..place + 12, entry);
    let path = files.write("alias.mov", bytes);
    refusal(&path).await;
}

#[tokio::test]
async fn texts_images_and_noise_are_refused() {
    let files = Files::new();
    assert_undecodable(&files.write("text.mp3", "This is no sound. ".repeat(50))).await;
    assert_undecodable(&files.write("passwd", std::fs::read("/etc/passwd").unwrap())).await;
    let image = files.made("image.png", "-f lavfi -i testsrc=d=1 -frames:v 1");
    assert_undecodable(&image).await;
    let mut state = 1_u32;
    for length in [1, 100, 5000, 20_000, 300_000] {
        let noise: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        assert_undecodable(&files.write("noise.bin", noise)).await;
    }
    assert_undecodable(&files.path("")).await;
}

#[tokio::test]
async fn a_file_without_an_audio_track_is_distinguished_from_a_broken_one() {
    let files = Files::new();
    let empty = refusal(&files.write("empty.wav", "")).await;
    assert!(matches!(empty, DecodeError::Empty(_)), "{empty:?}");
    let header = files.path("header.wav");
    write_tone(&header, spec(1, 16_000, 16), 0);
    for length in [36, 44] {
        let bytes = &std::fs::read(&header).unwrap()[..length];
        let empty = refusal(&files.write("cut.wav", bytes)).await;
        assert!(matches!(empty, DecodeError::Empty(_)), "{empty:?}");
    }
    let mute = files.made("mute.mp4", "-f lavfi -i testsrc=d=1:s=160x120:r=5");
    assert_eq!(refusal(&mute).await, DecodeError::NoAudioStream);
}

#[tokio::test]
async fn too_long_audio_is_refused_without_decoding_all_of_it() {
    let files = Files::new();
    let decoder = Decoder::new(
        DecoderLimits {
            max_audio: Duration::from_secs(5),
            ..DecoderLimits::default()
        },
        VoiceActivity::default(),
    );
    let wav = files.path("long.wav");
    write_tone(&wav, spec(1, 16_000, 16), 6);
    // A decompression bomb: an hour of silence in a few kilobytes.
    let bomb = files.made("bomb.flac", "-f lavfi -i anullsrc=r=8000:cl=mono -t 3600");
    for path in [&wav, &bomb] {
        let refused = decode_with(&decoder, path)
            .await
            .map(|decoded| decoded.seconds());
        assert_eq!(refused, Err(DecodeError::TooLong { limit_seconds: 5 }));
    }
    let just = files.path("just.wav");
    write_tone(&just, spec(1, 16_000, 16), 5);
    let flac = files.made("just.flac", &format!("-i {}", just.display()));
    for path in [just, flac] {
        assert_eq!(decode_with(&decoder, &path).await.unwrap().samples, 80_000);
    }
}

/// A header that two parsers read differently: an odd chunk without its padding byte.
#[tokio::test]
async fn a_header_that_asks_for_gigabytes_is_refused_and_costs_nothing() {
    let files = Files::new();
    let mut wav = b"RIFF\x31\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
    wav.extend_from_slice(&4_294_967_291_u32.to_le_bytes());
    wav.extend_from_slice(&4_294_967_291_u32.to_le_bytes());
    wav.extend_from_slice(b"\x01\0\x08\0JUNK\x01\0\0\0xdata\x04\0\0\0abcd");
    let path = files.path("evil.wav");
    std::fs::write(&path, wav).unwrap();
    decode(&path).await.expect_err("refused");
}

#[tokio::test]
async fn a_rate_that_no_recorder_has_is_decoded_in_little_memory_all_the_same() {
    let files = Files::new();
    let path = files.path("prime.wav");
    let samples = std::iter::repeat_n(1000_i16, 767_957);
    write_wav(&path, spec(1, 767_957, 16), samples);
    let decoded = decode(&path).await.expect("decoded");
    assert!(
        decoded.samples.abs_diff(16_000) < 160,
        "{}",
        decoded.samples
    );
}
