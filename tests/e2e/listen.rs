//! `uttera-stt listen`: live text on the command line.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use test_support::command_line::{err, out, run};
use test_support::{Server, model, program, sample, sample_text, voice_activity, words};

/// A command with a second of silence after it, twice, as raw samples.
fn command_twice() -> Vec<u8> {
    let mut wav = hound::WavReader::open(sample("en-command.wav")).expect("a WAV file");
    let said = wav.samples::<i16>().map(|sample| sample.expect("a sample"));
    let samples: Vec<i16> = said.chain(std::iter::repeat_n(0, 16_000)).collect();
    samples
        .repeat(2)
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect()
}

/// Runs `listen` in this folder with this standard input.
async fn listen(folder: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let model = model("tiny.en").await;
    let weights = voice_activity().await;
    let path = folder.join("input.raw");
    std::fs::write(&path, input).expect("writes");
    Command::new(program())
        .arg("--model")
        .arg(model)
        .arg("listen")
        .args(arguments)
        .current_dir(folder)
        .env("VAD_MODEL", weights)
        .stdin(Stdio::from(std::fs::File::open(path).expect("is there")))
        .output()
        .expect("the program runs")
}

#[tokio::test]
async fn standard_input_gives_a_line_for_each_turn_or_every_event_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = command_twice();
    let output = listen(folder.path(), &["--stdin"], &input).await;
    assert!(output.status.success(), "{}", err(&output));
    let expected = words(&sample_text("en-command.wav"));
    let lines: Vec<_> = out(&output).lines().map(words).collect();
    assert_eq!(lines, [expected.clone(), expected.clone()]);
    let output = listen(folder.path(), &["--stdin", "--json"], &input).await;
    assert!(output.status.success(), "{}", err(&output));
    let events: Vec<serde_json::Value> = (out(&output).lines())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for turn in ["1", "2"] {
        let of_turn = |field: &str| -> String {
            let texts = events.iter().filter(|event| event["turn"] == turn);
            texts.filter_map(|event| event[field].as_str()).collect()
        };
        assert_eq!(words(&of_turn("text")), expected);
        assert_eq!(words(&of_turn("delta")), expected);
    }
}

#[tokio::test]
async fn a_microphone_is_whatever_ffmpeg_records_from_and_a_missing_one_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(sample("en-command.wav"), folder.path().join("said.wav")).expect("copies");
    let from_file = ["--microphone", "lavfi:amovie=said.wav"];
    let output = listen(folder.path(), &from_file, &[]).await;
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(words(&out(&output)), words(&sample_text("en-command.wav")));
    for (device, told) in [
        ("alsa:no-such-card", "--microphone names another device"),
        ("somewhere", "expected FORMAT:DEVICE"),
    ] {
        let output = listen(folder.path(), &["--microphone", device], &[]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(err(&output).contains(told), "{}", err(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(
        folder.path(),
        &["listen", "--stdin", "--url", "http://127.0.0.1:1"],
    );
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert!(
        told.contains("cannot open ws://127.0.0.1:1/v1/realtime"),
        "{told}"
    );
}

#[tokio::test]
async fn a_server_does_the_work_with_its_key_and_an_error_of_the_server_ends_it() {
    let settings = [("API_KEYS", "right-key")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("input.raw");
    std::fs::write(&input, command_twice()).expect("writes");
    let listen = |key: &str| {
        let input = std::fs::File::open(&input).expect("is there");
        Command::new(program())
            .args([
                "listen",
                "--stdin",
                "--url",
                &server.url,
                "--language",
                "en",
            ])
            .env("UTTERA_API_KEY", key)
            .stdin(Stdio::from(input))
            .output()
            .expect("the program runs")
    };
    let output = listen("right-key");
    assert!(output.status.success(), "{}", err(&output));
    let expected = words(&sample_text("en-command.wav"));
    let lines: Vec<_> = out(&output).lines().map(words).collect();
    assert_eq!(lines, [expected.clone(), expected]);
    let output = listen("wrong-key");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("401"), "{}", err(&output));
}
