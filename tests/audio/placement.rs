//! Which sound of a file is decoded, and where it lies on the time line.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use stt_actors::domain::chunk::{AudioChunk, SAMPLE_RATE};
use test_support::audio::{Files, assert_undecodable, decode, next_chunk, open};
use test_support::patiently;
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

/// The sound of a file, and the length of its time line.
struct Placed {
    seconds: f64,
    chunks: Vec<AudioChunk>,
}

async fn placed(path: &Path) -> Placed {
    let decoder = Decoder::new(
        DecoderLimits {
            max_audio: Duration::from_secs(60),
            ..DecoderLimits::default()
        },
        VoiceActivity::default(),
    );
    let mut stream = open(&decoder, path).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = patiently(next_chunk(stream.as_mut())).await.unwrap() {
        chunks.push(chunk);
    }
    let seconds = |sample: u64| sample as f64 / f64::from(SAMPLE_RATE);
    Placed {
        seconds: seconds(stream.decoded_samples()),
        chunks,
    }
}

impl Placed {
    /// The loudness of the time line's part between two seconds, of full scale 1.
    fn loudness(&self, from: f64, to: f64) -> f64 {
        let sample = |seconds: f64| (seconds * f64::from(SAMPLE_RATE)) as u64;
        let (from, to) = (sample(from), sample(to));
        let mut power = 0.0;
        for chunk in &self.chunks {
            let mut samples = chunk.samples.iter();
            for range in chunk.stretches.iter() {
                for (place, value) in range.clone().zip(&mut samples) {
                    if (from..to).contains(&place) {
                        power += (f64::from(*value) / 32_768.0).powi(2);
                    }
                }
            }
        }
        (power / (to - from) as f64).sqrt()
    }

    /// Asserts that a tone sounds in these parts of the time line, and nothing between them.
    fn assert_sound(&self, expected: &[(f64, f64)], what: &str) {
        let mut silent_from = 0.0;
        for (from, to) in expected {
            let middle = self.loudness(from + 0.1, to - 0.1);
            assert!(middle > 0.03, "{what}: {middle} from {from} s to {to} s");
            if from - silent_from > 0.3 {
                let before = self.loudness(silent_from + 0.1, from - 0.1);
                assert!(before < 0.005, "{what}: {before} before {from} s");
            }
            silent_from = *to;
        }
        let end = expected.last().unwrap().1;
        assert!(
            (self.seconds - end).abs() < 0.15,
            "{what}: {} s",
            self.seconds
        );
    }
}

/// Makes a file from the tone `a.wav` of three seconds, with times changed by a filter of packets.
fn with_times(files: &Files, name: &str, codec: &str, times: &str) -> PathBuf {
    let source = files.tone(&format!("{name}.mka"), 3.0, codec);
    files.made(
        name,
        &format!(
            "-i file:{} -c copy -bsf:a setts=ts={times}",
            source.display()
        ),
    )
}

#[tokio::test]
async fn a_track_that_begins_late_is_placed_as_a_player_does() {
    let files = Files::new();
    for (name, codec) in [
        ("a.mkv", "-c:a aac"),
        ("b.mp4", "-c:a aac"),
        ("c.webm", "-c:a libopus -c:v libvpx"),
        ("d.mov", "-c:a pcm_s16le"),
        ("e.ts", "-c:a aac"),
        ("f.nut", "-c:a pcm_s16le"),
    ] {
        let path = files.made(
            name,
            &format!(
                "-f lavfi -i testsrc=d=7:s=64x64:r=5 -itsoffset 4 -f lavfi -i sine=440:r=16000:d=3 {codec}"
            ),
        );
        placed(&path).await.assert_sound(&[(4.0, 7.0)], name);
    }
}

#[tokio::test]
async fn gaps_in_the_times_are_gaps_and_large_starts_are_none() {
    let files = Files::new();
    for (name, codec) in [
        ("a.mka", "-c:a libopus"),
        ("b.mka", "-c:a aac"),
        ("c.mka", "-c:a pcm_s16le"),
    ] {
        // From 1.5 s on, five seconds later. The time base is a millisecond.
        let path = with_times(&files, name, codec, "TS+if(gte(TS\\,1500)\\,5000\\,0)");
        placed(&path)
            .await
            .assert_sound(&[(0.0, 1.5), (6.5, 8.0)], name);
        let path = with_times(&files, &format!("late_{name}"), codec, "TS+3600000");
        placed(&path)
            .await
            .assert_sound(&[(0.0, 3.0)], "a start of an hour");
    }
}

#[tokio::test]
async fn wrong_times_lose_no_sound_and_add_at_most_the_longest_accepted_audio() {
    let files = Files::new();
    for (name, times) in [
        // One packet in the far future, at a time of day, and in the past.
        ("a.mka", "TS+if(eq(N\\,50)\\,1000000000000\\,0)"),
        ("b.mka", "TS+if(eq(N\\,50)\\,36000000\\,0)"),
        ("c.mka", "TS-if(eq(N\\,50)\\,900\\,0)"),
        // All that follows.
        ("d.mka", "TS+if(gte(N\\,50)\\,1000000000000\\,0)"),
        ("e.mka", "TS+if(gte(N\\,50)\\,100000000\\,0)"),
        // The clock starts again.
        ("f.mka", "if(gte(N\\,75)\\,TS-1500\\,TS)"),
    ] {
        let path = with_times(&files, name, "-c:a libopus", times);
        placed(&path).await.assert_sound(&[(0.0, 3.0)], name);
    }
}

#[tokio::test]
async fn lost_pages_and_joined_streams_of_ogg_keep_their_times() {
    let files = Files::new();
    let path = files.tone("a.ogg", 8.0, "-c:a libopus -page_duration 200000");
    let bytes = std::fs::read(&path).unwrap();
    let pages: Vec<usize> = (0..bytes.len() - 4)
        .filter(|place| &bytes[*place..place + 4] == b"OggS")
        .collect();
    // Pages of 0.2 s after two of headers: those from 2 s to 6 s.
    let lost = [&bytes[..pages[12]], &bytes[pages[32]..]].concat();
    let lost = files.write("lost.ogg", lost);
    placed(&lost)
        .await
        .assert_sound(&[(0.0, 2.0), (6.0, 8.0)], "lost pages");
    let joined = files.write("joined.ogg", [&bytes[..], &bytes].concat());
    placed(&joined)
        .await
        .assert_sound(&[(0.0, 16.0)], "joined streams");
}

#[tokio::test]
async fn priming_of_encoders_moves_nothing() {
    let files = Files::new();
    for (name, arguments) in [
        ("a.mp3", "-b:a 64k"),
        ("b.m4a", "-c:a aac"),
        ("c.webm", "-c:a libopus"),
        ("d.ogg", "-c:a libopus"),
        ("e.ogg", "-c:a libvorbis"),
    ] {
        // Half a second of silence, then a tone.
        let path = files.made(
            name,
            &format!("-f lavfi -i aevalsrc=0.5*gte(t\\,0.5)*sin(2500*t):s=48000:d=2 {arguments}"),
        );
        let samples = decode(&path).await.unwrap().all_samples();
        let begin = samples
            .iter()
            .position(|sample| sample.unsigned_abs() > 5000)
            .unwrap();
        let seconds = begin as f64 / f64::from(SAMPLE_RATE);
        assert!((seconds - 0.5).abs() < 0.008, "{name}: {seconds} s");
    }
}

#[tokio::test]
async fn the_default_track_is_decoded_and_another_one_if_it_is_silent_or_unknown() {
    let files = Files::new();
    // The tones of 440 Hz and 1000 Hz, and silence.
    let tracks = "-f lavfi -i sine=440:r=16000:d=3 -f lavfi -i sine=1000:r=16000:d=3 \
        -f lavfi -i anullsrc=r=16000:cl=mono:d=3 -c:a pcm_s16le";
    let is_tone = async |path: &Path, hertz: f64, what: &str| {
        let decoded = decode(path).await.unwrap();
        let samples = decoded.all_samples();
        let pairs = samples.windows(2);
        let crossings = pairs.filter(|two| (two[0] < 0) != (two[1] < 0)).count();
        let found = crossings as f64 / 2.0 / decoded.seconds();
        assert!((found - hertz).abs() < 5.0, "{what}: {found} Hz");
        assert!((decoded.seconds() - 3.0).abs() < 0.05, "{what}");
    };
    let second = files.made(
        "second.mka",
        &format!("{tracks} -map 0 -map 1 -disposition:a:0 0 -disposition:a:1 default"),
    );
    is_tone(&second, 1000.0, "the second is the default").await;
    let silent = files.made(
        "silent.mka",
        &format!("{tracks} -map 2 -map 1 -map 0 -disposition:a:0 default -disposition:a:1 0 -disposition:a:2 0"),
    );
    is_tone(&silent, 1000.0, "the default is silent").await;
    // A codec that ffmpeg does not know.
    let mut bytes = std::fs::read(files.made(
        "codecs.mka",
        &format!("{tracks} -map 0 -map 1 -c:a:0 flac -disposition:a:0 default -disposition:a:1 0"),
    ))
    .unwrap();
    let place = bytes.windows(6).position(|six| six == b"A_FLAC").unwrap();
    bytes[place..place + 6].copy_from_slice(b"A_ZZZZ");
    is_tone(
        &files.write("unknown.mka", bytes),
        1000.0,
        "the default is unknown",
    )
    .await;
    let all_silent = files.made("silence.mka", &format!("{tracks} -map 2 -map 2"));
    let decoded = decode(&all_silent).await.unwrap();
    assert!((decoded.seconds() - 3.0).abs() < 0.05, "two silent tracks");
}

#[tokio::test]
async fn swapped_poles_do_not_silence_a_recording_in_any_format() {
    let files = Files::new();
    let sources = [
        "sine=440:r=16000:d=2,volume=4,pan=stereo|c0=c0|c1=-1*c0",
        "sine=440:r=16000:d=2,volume=4,pan=stereo|c0=c0|c1=-0.7*c0",
        "sine=440:r=16000:d=2,volume=4,pan=5.1|LFE=c0",
        "sine=440:r=16000:d=2,volume=4,pan=5.1|FL=c0|FR=-0.9*c0",
        "sine=440:r=16000:d=2,volume=4,pan=stereo|c1=c0",
    ];
    for source in sources {
        for name in ["a.wav", "a.flac", "a.mka"] {
            let path = files.made(name, &format!("-f lavfi -i {source}"));
            let loudness = decode(&path).await.unwrap().loudness();
            assert!(loudness > 0.25, "{name} from {source}: {loudness}");
        }
    }
}

#[tokio::test]
async fn rarer_formats_with_their_own_sound_are_decoded() {
    let files = Files::new();
    for (name, arguments) in [
        ("a.nut", "-c:a libopus"),
        ("a.sox", ""),
        ("a.sf", "-f ircam"),
        ("a.mmf", "-ar 8000"),
        ("a.wtv", "-c:a mp2"),
        // These need a picture of their own format.
        ("a.gxf", "-c:v mpeg2video -b:v 5M -ar 48000"),
        ("a.dv", "-target pal-dv -ac 2 -ar 48000"),
    ] {
        let picture = match name {
            "a.gxf" | "a.dv" => "-f lavfi -i testsrc=d=3:s=720x576:r=25 ",
            _ => "",
        };
        let tone = "-f lavfi -i sine=440:r=44100:d=3";
        let path = files.made(name, &format!("{picture}{tone} {arguments}"));
        let decoded = decode(&path).await.expect(name);
        // The last packet of GXF is padded.
        assert!(
            (2.9..3.5).contains(&decoded.seconds()),
            "{name}: {} s",
            decoded.seconds()
        );
        assert!(decoded.loudness() > 0.03, "{name} is silent");
    }
    // The chunks of an IFF file with 8-bit samples.
    let mut iff = [&b"FORM\0\0\0\0"[..], b"8SVXVHDR\0\0\0\x14"].concat();
    iff.extend(
        [
            0_u32.to_be_bytes(),
            0_u32.to_be_bytes(),
            0_u32.to_be_bytes(),
        ]
        .concat(),
    );
    iff.extend(8000_u16.to_be_bytes());
    iff.extend([1, 0, 0, 1, 0, 0]);
    iff.extend(b"BODY");
    let sound: Vec<u8> = (0..16_000_u32)
        .map(|place| if place % 20 < 10 { 40 } else { 216 })
        .collect();
    iff.extend((sound.len() as u32).to_be_bytes());
    iff.extend(&sound);
    let length = iff.len() as u32 - 8;
    iff[4..8].copy_from_slice(&length.to_be_bytes());
    let decoded = decode(&files.write("a.8svx", iff)).await.unwrap();
    assert!(
        (decoded.seconds() - 2.0).abs() < 0.01,
        "{} s",
        decoded.seconds()
    );
}

#[tokio::test]
async fn a_stream_without_its_beginning_is_said_to_be_one() {
    let files = Files::new();
    let after = |name: &str, arguments: &str, mark: &[u8], before: usize| {
        let bytes = std::fs::read(files.tone(name, 6.0, arguments)).unwrap();
        let from = bytes.len() / 3;
        let place = bytes[from..]
            .windows(mark.len())
            .position(|window| window == mark);
        files.write(
            format!("cut_{name}"),
            &bytes[from + place.unwrap() - before..],
        )
    };
    let fragments =
        "-c:a aac -movflags frag_keyframe+empty_moov+default_base_moof -frag_duration 500000";
    for (path, expected) in [
        (
            after(
                "a.webm",
                "-c:a libopus -cluster_time_limit 500",
                &[0x1f, 0x43, 0xb6, 0x75],
                0,
            ),
            "WebM",
        ),
        (after("b.mp4", fragments, b"moof", 4), "MP4"),
        (after("c.ogg", "-c:a libopus", b"OggS", 0), "Ogg"),
        (after("d.ogg", "-c:a libvorbis", b"OggS", 0), "Ogg"),
    ] {
        let why = assert_undecodable(&path).await;
        assert!(
            why.contains(expected) && why.contains("without its beginning"),
            "{why}"
        );
    }
    // Streams that repeat their headers need no beginning.
    for (name, arguments) in [
        ("e.ts", "-c:a aac"),
        ("f.aac", "-c:a aac"),
        ("g.mp3", "-b:a 64k"),
    ] {
        let bytes = std::fs::read(files.tone(name, 6.0, arguments)).unwrap();
        let path = files.write(format!("cut_{name}"), &bytes[bytes.len() / 3 + 77..]);
        let seconds = decode(&path).await.expect(name).seconds();
        assert!((3.0..4.5).contains(&seconds), "{name}: {seconds} s");
    }
}
