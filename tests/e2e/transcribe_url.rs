//! `uttera-stt transcribe --url`: a real server gives the results of a local run.

use serde_json::Value;
use test_support::command_line::{err, out, run, run_with};
use test_support::{Server, model, sample, sample_text, words};

const KEY: &str = "sesame-of-a-test";

async fn server() -> Server {
    let model = model("tiny.en").await;
    Server::ready(&model, &[("API_KEYS", KEY)]).await
}

#[tokio::test]
async fn files_come_out_in_every_format_and_one_that_fails_harms_no_other() {
    let server = server().await;
    let folder = server.folder();
    std::fs::copy(sample("en-command.wav"), folder.join("good.wav")).expect("copies");
    std::fs::write(folder.join("bad.wav"), "no audio").expect("writes");
    let key = [("UTTERA_API_KEY", KEY)];

    let arguments = ["transcribe", "--url", &server.url, "good.wav"];
    let output = run_with(folder, &arguments, &key);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(words(&out(&output)), words(&sample_text("en-command.wav")));
    // Like the result without a server.
    assert!(out(&output).ends_with(".\n") && !out(&output).contains("\n\n"));

    for (format, begin) in [("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n"), ("json", "{")] {
        let arguments = [&arguments[..], &["--format", format]].concat();
        let output = run_with(folder, &arguments, &key);
        assert!(
            out(&output).starts_with(begin),
            "{}{}",
            out(&output),
            err(&output)
        );
    }

    let mut arguments = vec!["transcribe", "missing.wav", "bad.wav", "good.wav"];
    arguments.extend(["--url", &server.url, "--format", "verbose_json"]);
    arguments.extend(["--output-dir", "results", "--temperature", "0.1"]);
    arguments.extend(["--prompt", "Kitchen", "--language", "en", "--no-vad"]);
    let output = run_with(folder, &arguments, &key);
    assert_eq!(output.status.code(), Some(1));
    let told = err(&output);
    assert!(told.contains("missing.wav: cannot be read"), "{told}");
    assert!(told.contains("bad.wav: 400 audio_decode_error: "), "{told}");
    assert!(told.contains("2 of 3 files failed"), "{told}");
    let result = std::fs::read_to_string(folder.join("results/good.json")).expect("is there");
    let result: Value = serde_json::from_str(&result).expect("JSON");
    assert_eq!(result["language"], "english");
    assert!(
        result["segments"]
            .as_array()
            .is_some_and(|segments| !segments.is_empty())
    );
}

#[tokio::test]
async fn the_text_is_printed_while_the_server_makes_it() {
    let server = server().await;
    let file = sample("en-long.ogg");
    let file = file.to_str().expect("UTF-8");
    let arguments = ["transcribe", "--url", &server.url, "--stream", file];
    let output = run_with(server.folder(), &arguments, &[("UTTERA_API_KEY", KEY)]);
    assert!(output.status.success(), "{}", err(&output));
    // The chunks are as short as the machine is slow, which costs words with this small model.
    let wrong = test_support::wer::Score::of(&sample_text("en-long.ogg"), &out(&output)).rate();
    assert!(
        wrong <= 0.2 && out(&output).ends_with(".\n"),
        "{}",
        out(&output)
    );
    let streamed = r#"uttera_stt_transcriptions_total{response_format="json"}"#;
    assert!((server.metric(streamed).await - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn a_key_is_taken_from_the_environment_and_shown_nowhere() {
    let server = server().await;
    let file = sample("en-command.wav");
    let file = file.to_str().expect("UTF-8");
    let arguments = ["transcribe", file, "--url", &server.url];
    for environment in [&[][..], &[("UTTERA_API_KEY", "wrong-key-of-a-test")]] {
        let output = run_with(server.folder(), &arguments, environment);
        assert_eq!(output.status.code(), Some(1));
        let told = err(&output);
        assert!(told.contains(": 401 invalid_api_key: "), "{told}");
        assert!(
            !told.contains("wrong-key-of-a-test") && out(&output).is_empty(),
            "{told}"
        );
    }
    let named = [&arguments[..], &["--api-key-env", "OTHER_KEY"]].concat();
    let output = run_with(server.folder(), &named, &[("OTHER_KEY", KEY)]);
    assert!(output.status.success(), "{}", err(&output));
    let output = run_with(server.folder(), &named, &[("UTTERA_API_KEY", KEY)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no key in OTHER_KEY"),
        "{}",
        err(&output)
    );
}

#[tokio::test]
async fn the_next_server_does_it_where_one_is_not_there() {
    let server = server().await;
    let unreachable = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    let file = sample("en-command.wav");
    let file = file.to_str().expect("UTF-8");
    let arguments = [
        "transcribe",
        file,
        "--url",
        &unreachable,
        "--url",
        &server.url,
    ];
    let output = run_with(server.folder(), &arguments, &[("UTTERA_API_KEY", KEY)]);
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(words(&out(&output)), words(&sample_text("en-command.wav")));
    let told = err(&output);
    assert!(
        told.contains(&unreachable) && told.contains("trying again"),
        "{told}"
    );
}

#[test]
fn options_that_do_not_fit_are_refused_before_any_work() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(sample("en-command.wav"), folder.path().join("a.wav")).expect("copies");
    let remote = ["transcribe", "a.wav", "--url", "http://127.0.0.1:1"];
    for (more, why) in [
        (
            &["--model", "tiny"][..],
            "--model applies to this machine only",
        ),
        (
            &["--set", "VAD_MODEL=off"],
            "--set applies to this machine only",
        ),
        (
            &["--config", "x.env"],
            "--config applies to this machine only",
        ),
        (
            &["--stream", "--format", "srt"],
            "--stream requires --format txt",
        ),
        (&["--stream", "--beside"], "cannot be used with"),
        (&["--limit-seconds", "0"], "0 is not in"),
        (&["--url", "ftp://a"], "must begin with http"),
    ] {
        let output = run(folder.path(), &[&remote[..], more].concat());
        assert!(!output.status.success());
        assert!(err(&output).contains(why), "{more:?}: {}", err(&output));
        assert!(!err(&output).contains("a.wav"), "{}", err(&output));
    }
    for local in [
        &["--stream"][..],
        &["--api-key-env", "A"],
        &["--ask-for", "a"],
    ] {
        let output = run(folder.path(), &[&["transcribe", "a.wav"], local].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(err(&output).contains("--url"), "{}", err(&output));
    }
    let help = out(&run(folder.path(), &["transcribe", "--help"]));
    assert!(help.contains("UTTERA_API_KEY"), "{help}");
}
