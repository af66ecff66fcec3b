//! Recordings that other programs cut, join, label or mix in their own way: all of their speech is transcribed, at
//! the times of a player.

use std::path::PathBuf;

use serde_json::Value;
use test_support::audio::Files;
use test_support::wer::Score;
use test_support::{Server, model, sample, sample_text, words};

/// A recording, the samples that it contains, and the second at which the last one begins.
struct Recording {
    what: &'static str,
    path: PathBuf,
    texts: &'static [&'static str],
    last_begins: f64,
}

const COMMAND: &str = "en-command.wav";
const SENTENCE: &str = "en-sentence.wav";

fn recordings(files: &Files) -> Vec<Recording> {
    let input = |name: &str| format!("-i file:{}", sample(name).display());
    let (command, sentence) = (input(COMMAND), input(SENTENCE));
    let joined = |name: &str, options: &str| {
        let parts = [&sentence, &command].map(|input| {
            std::fs::read(files.made(name, &format!("{input} {options}"))).expect("a file")
        });
        files.write(name, parts.concat())
    };
    let recording = |what, path, texts, last_begins| Recording {
        what,
        path,
        texts,
        last_begins,
    };
    let quiet = "-f lavfi -i aevalsrc=0.1:s=16000 -filter_complex [0]volume=-28dB[a];[a][1]amix=normalize=0:duration=first";
    vec![
        recording(
            "joined MP3 files",
            joined("joined.mp3", "-b:a 48k"),
            &[SENTENCE, COMMAND],
            7.5,
        ),
        recording("joined WAV files", joined("joined.wav", ""), &[SENTENCE, COMMAND], 7.5),
        recording(
            "sound that begins after the picture",
            files.made(
                "late.mkv",
                &format!("-f lavfi -i testsrc=d=7:s=64x64:r=5 -itsoffset 5 {command} -map 0 -map 1 -c:a aac"),
            ),
            &[COMMAND],
            5.0,
        ),
        recording(
            "a channel that is upside down",
            files.made("inverted.ogg", &format!("{command} -af pan=stereo|c0=c0|c1=-1*c0 -c:a libopus")),
            &[COMMAND],
            0.0,
        ),
        recording(
            "quiet speech with an offset",
            files.made("offset.flac", &format!("{command} {quiet}")),
            &[COMMAND],
            0.0,
        ),
        recording(
            "a second track that is the default",
            files.made(
                "tracks.mka",
                &format!(
                    "{} {command} -map 0 -map 1 -c:a libopus -disposition:a:0 0 -disposition:a:1 default",
                    input("es-sentence.wav")
                ),
            ),
            &[COMMAND],
            0.0,
        ),
    ]
}

#[tokio::test]
async fn speech_is_found_however_a_recording_was_made() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let files = Files::new();
    for Recording {
        what,
        path,
        texts,
        last_begins,
    } in recordings(&files)
    {
        let fields = [("response_format", "verbose_json")];
        let response = server.transcribe(&path, &fields).await;
        let body: Value = response.json().await.expect("JSON");
        let text = body["text"].as_str().unwrap_or_default();
        let expected: Vec<String> = texts.iter().map(|name| sample_text(name)).collect();
        // The small model errs in a few words of the sentence, and never in the command.
        let score = Score::of(&expected.join(" "), text);
        assert!(score.rate() < 0.25, "{what}: {text}");
        let last_words = words(expected.last().expect("a text"));
        assert!(words(text).ends_with(&last_words), "{what}: {text}");
        let segments = body["segments"].as_array().expect("segments");
        let last = segments.last().expect("a segment");
        let start = last["start"].as_f64().expect("a time");
        assert!((start - last_begins).abs() < 0.6, "{what}: {start} s");
    }
}
