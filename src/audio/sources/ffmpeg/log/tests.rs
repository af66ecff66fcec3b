//! Tests of the log's reader with lines that ffmpeg prints.

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
    assert!(why.contains("format hls"), "{why}");
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

const DESCRIPTION: &str = "[info] Input #0, matroska,webm, from 'file:/dev/stdin':\n\
    [info]   Metadata:\n\
    [info]     title           : Stream #0:7: Audio: aac\n\
    [info]                     : Output #0, s16le\n\
    [info]   Duration: 00:00:07.62, start: 0.000000, bitrate: 295 kb/s\n\
    [info]   Stream #0:0: Video: mpeg4 (Simple Profile), yuv420p, 64x64\n\
    [info]   Stream #0:1[0x2](ger): Audio: aac (LC), 16000 Hz, mono, fltp\n\
    [info]   Stream #0:2: Audio: none, 16000 Hz, mono\n\
    [info]   Stream #0:13(eng): Audio: opus, 48000 Hz, mono, fltp (default)\n\
    [info] Stream mapping:\n";

const OUTPUT: &str = "[info]   Stream #0:13 -> #0:0 (opus (native) -> pcm_s16le (native))\n\
    [info] Output #0, matroska, to 'pipe:1':\n\
    [info]   Stream #0:0: Audio: pcm_s16le, 16000 Hz, mono, s16, 256 kb/s\n";

#[test]
fn the_tracks_are_read_with_the_one_that_ffmpeg_decodes_first() {
    let described = log(DESCRIPTION);
    assert!(!described.is_open());
    assert_eq!(described.tracks(), [1, 13]);
    let open = log(&format!("{DESCRIPTION}{OUTPUT}"));
    assert!(open.is_open());
    assert_eq!(open.tracks(), [13, 1]);
}

#[test]
fn a_track_that_ffmpeg_7_cannot_decode_is_the_one_that_it_has_chosen() {
    let error = "[aist#0:2/none @ 0x5581] [error] Decoding requested, but no decoder found for: none\n\
        [error] Error opening output file pipe:1.\n";
    let mut refused = log(&format!("{DESCRIPTION}{error}"));
    assert_eq!(refused.tracks(), [2, 1, 13]);
    let verdict = refused.verdict(exit(234), false);
    let expected = "no track of it has a codec that ffmpeg knows";
    assert!(
        matches!(&verdict, Some(DecodeError::Undecodable(why)) if **why == *expected),
        "{verdict:?}"
    );
}

#[test]
fn containers_have_a_clock_with_gaps_and_bare_streams_have_none() {
    let described = |names: &str, start: &str| {
        log(&format!(
            "[info] Input #0, {names}, from 'file:/dev/stdin':\n\
            [info]   Duration: N/A, {start}bitrate: N/A\n"
        ))
        .clock()
    };
    let clock = |start, gaps| Clock { start, gaps };
    let movie = "mov,mp4,m4a,3gp,3g2,mj2";
    assert_eq!(
        described(movie, "start: -0.002000, "),
        clock(Some(0), Gaps::Any)
    );
    assert_eq!(
        described("mpegts", "start: 95443.716400, "),
        clock(Some(95_443_716), Gaps::Short)
    );
    assert_eq!(described("ogg", ""), clock(None, Gaps::Any));
    assert_eq!(
        described("mp3", "start: 0.025057, "),
        clock(Some(25), Gaps::Never)
    );
    assert_eq!(log("").clock(), clock(None, Gaps::Never));
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
