//! The Wyoming port with real models: what Home Assistant and the protocol's own package send.

use std::process::Stdio;

use serde_json::{Value, json};
use test_support::wyoming::{
    COMMAND, Format, PORT, WyomingClient, address, assert_command, audio, outcomes, server,
    until_no_session,
};
use test_support::{PATIENCE, Server, model, patiently, repository, sample, sample_text};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Runs the protocol's own package.
async fn official(uri: &str, arguments: &[&str]) -> Value {
    let python = tokio::task::spawn_blocking(test_support::python::wyoming).await;
    let run = Command::new(python.expect("the package can be had"))
        .arg(repository().join("tests/support/wyoming_client.py"))
        .arg(uri)
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends");
    let output = output.expect("Python starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaints}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn home_assistants_sequence_gives_the_text() {
    let server = server(&[]).await;
    let mut client = WyomingClient::connect(&server).await;
    // Byte for byte.
    client
        .send_bytes(b"{\"type\": \"transcribe\", \"version\": \"1.8.0\", \"data_length\": 18}\n{\"language\": \"en\"}")
        .await;
    let format = br#"{"rate": 16000, "width": 2, "channels": 1, "timestamp": null}"#;
    let head = |kind: &str, payload: &str| {
        let length = format.len();
        format!(
            "{{\"type\": \"{kind}\", \"version\": \"1.8.0\", \"data_length\": {length}{payload}}}\n"
        )
    };
    client.send_bytes(head("audio-start", "").as_bytes()).await;
    client.send_bytes(format).await;
    for chunk in audio(COMMAND).chunks(2048) {
        let payload = format!(", \"payload_length\": {}", chunk.len());
        client
            .send_bytes(head("audio-chunk", &payload).as_bytes())
            .await;
        client.send_bytes(format).await;
        client.send_bytes(chunk).await;
    }
    client
        .send_bytes(b"{\"type\": \"audio-stop\", \"version\": \"1.8.0\", \"data_length\": 19}\n{\"timestamp\": null}")
        .await;
    let mut replies = Vec::new();
    for _ in 0..4 {
        replies.push(client.next().await.expect("a reply"));
    }
    let text = replies[2].1["text"].clone();
    assert_command(text.as_str().expect("a text"));
    let expected = [
        ("transcript-start", json!({"language": "en"})),
        ("transcript-chunk", json!({"text": text})),
        ("transcript", json!({"text": text, "language": "en"})),
        ("transcript-stop", json!({})),
    ];
    assert_eq!(
        replies,
        expected.map(|(kind, data)| (kind.to_owned(), data))
    );
    until_no_session(&server).await;
    assert!((outcomes(&server, "completed").await - 1.0).abs() < 0.1);
    let seconds = "uttera_stt_key_audio_seconds_total{key=\"anonymous\"}";
    assert!(server.metric(seconds).await >= 1.0);
}

#[tokio::test]
async fn the_protocols_own_package_reads_the_info_and_gets_the_text() {
    let server = server(&[("WYOMING_LANGUAGES", "en, de")]).await;
    let uri = format!("tcp://{}", address(&server).await);
    let info = official(&uri, &["info"]).await;
    let program = &info[0];
    assert_eq!(program["name"], "uttera-stt");
    assert_eq!(program["version"], env!("CARGO_PKG_VERSION"));
    for field in [
        "installed",
        "supports_transcript_streaming",
        "requires_external_vad",
    ] {
        assert_eq!(program[field], true, "{field}");
    }
    assert_eq!(program["models"].as_array().map(Vec::len), Some(1));
    let model = &program["models"][0];
    assert_eq!(model["name"], "tiny.en");
    assert_eq!(model["installed"], true);
    // It knows English only, whatever the setting says.
    assert_eq!(model["languages"], json!(["en"]));
    let command = sample(COMMAND);
    let command = command.to_str().expect("UTF-8");
    let result = official(&uri, &["transcribe", command, "en-GB"]).await;
    assert_command(result["text"].as_str().expect("a text"));
    assert_eq!(result["streamed"], result["text"]);
    assert_eq!(result["language"], "en");
}

#[tokio::test]
async fn languages_in_all_spellings_and_audio_in_all_formats_give_the_text() {
    let server = Server::ready(&model("base").await, &[PORT]).await;
    let format = |rate, width, channels| Format {
        rate,
        width,
        channels,
    };
    for (file, language, format, code) in [
        (
            COMMAND,
            json!({"language": "en-US"}),
            format(8000, 2, 1),
            "en",
        ),
        (
            "de-sentence.wav",
            json!({"language": "German"}),
            format(48_000, 4, 2),
            "de",
        ),
        (
            "es-sentence.wav",
            json!({"language": "auto"}),
            format(22_050, 1, 1),
            "es",
        ),
        (
            "de-sentence.wav",
            json!({"language": "Klingon"}),
            format(44_100, 3, 2),
            "de",
        ),
        ("es-sentence.wav", json!({}), format(16_000, 2, 1), "es"),
    ] {
        let mut client = WyomingClient::connect(&server).await;
        client
            .utter(language.clone(), &format, &format.audio(file))
            .await;
        loop {
            let (kind, data) = client.next().await.expect("a transcript");
            if kind == "transcript" {
                let text = data["text"].as_str().expect("a text");
                test_support::wer::assert_alike(text, &sample_text(file));
                assert_eq!(data["language"], code, "{language}");
                break;
            }
        }
    }
    server.log_line("unknown language").await;
    let uri = format!("tcp://{}", address(&server).await);
    let info = official(&uri, &["info"]).await;
    let languages = info[0]["models"][0]["languages"].as_array().map(Vec::len);
    assert_eq!(languages, Some(99));
}

#[tokio::test]
async fn one_connection_carries_any_sequence_of_events() {
    let server = &server(&[]).await;
    let client = &mut WyomingClient::connect(server).await;
    let format = Format::USUAL;
    let command = audio(COMMAND);
    // Data in the line; a ping with a text, an event of another service, and one with a payload.
    client
        .send_bytes(b"{\"type\":\"ping\",\"data\":{\"text\":\"a\"}}\n{\"type\":\"select-program\",\"data\":{\"name\":\"x\"},\"payload_length\":3}\nabc")
        .await;
    client.send_bare("detection").await;
    let pong = client.next().await.expect("an answer");
    assert_eq!(pong, ("pong".to_owned(), json!({"text": "a"})));

    // Two utterances, the second one before the text of the first.
    client
        .utter(json!({"language": "en"}), &format, &command)
        .await;
    client.utter(json!({}), &format, &command).await;
    assert_command(&client.transcript().await);
    assert_command(&client.transcript().await);

    // No audio, silence, and silence of no length.
    for audio in [&[][..], &vec![0; 32_000], &[0, 0]] {
        client.utter(json!({}), &format, audio).await;
        assert_eq!(client.transcript().await, "");
    }
    client.send_bare("audio-stop").await;
    assert_eq!(client.transcript().await, "");

    // Chunks without a start, and in another format from the middle on.
    let (half, rest) = (&command[..32_000], &command[32_000..]);
    client.send_audio(&format, half).await;
    let bytes_of_float = |pair: &[u8]| i32::from(i16::from_le_bytes([pair[0], pair[1]])) << 16;
    let wide: Vec<u8> = (rest.chunks_exact(2))
        .flat_map(|pair| bytes_of_float(pair).to_le_bytes())
        .collect();
    client
        .send_audio(&Format { width: 4, ..format }, &wide)
        .await;
    client.send_bare("audio-stop").await;
    assert_command(&client.transcript().await);

    // A new start gives up what was sent before, and the request may follow the start.
    client.send("audio-start", format.data(), &[]).await;
    client.send_audio(&format, &audio("de-sentence.wav")).await;
    client.send("audio-start", format.data(), &[]).await;
    client
        .send("transcribe", json!({"language": "en"}), &[])
        .await;
    client.send_audio(&format, &command).await;
    client.send_bare("audio-stop").await;
    assert_command(&client.transcript().await);
    assert!((outcomes(server, "abandoned").await - 1.0).abs() < 0.1);
    until_no_session(server).await;
}

#[tokio::test]
async fn a_unix_socket_works_and_replaces_the_file_that_a_killed_server_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("stt.sock");
    let uri = format!("unix://{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists());
    let settings = [("WYOMING_URI", uri.as_str())];
    let model = model("tiny.en").await;
    let mut server = Server::ready(&model, &settings).await;
    let mut client = WyomingClient::connect_unix(&path).await;
    client
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    assert_command(&client.transcript().await);
    let command = sample(COMMAND);
    let arguments = ["transcribe", command.to_str().expect("UTF-8")];
    let result = official(&uri, &arguments).await;
    assert_command(result["text"].as_str().expect("a text"));
    assert_eq!(server.terminate().await, Some(0));
    assert!(!path.exists(), "the file is removed");
}

#[tokio::test]
async fn partial_texts_come_before_the_whole_one() {
    let server = server(&[("WYOMING_PARTIALS", "true")]).await;
    let mut client = WyomingClient::connect(&server).await;
    let name = "en-sentence.wav";
    client.utter(json!({}), &Format::USUAL, &audio(name)).await;
    let mut kinds = Vec::new();
    let mut streamed = String::new();
    let text = loop {
        let (kind, data) = client.next().await.expect("an event");
        match kind.as_str() {
            "transcript-chunk" => streamed += data["text"].as_str().expect("a text"),
            "transcript" => break data["text"].as_str().expect("a text").to_owned(),
            _ => kinds.push(kind),
        }
    };
    assert_eq!(kinds, ["transcript-start"]);
    assert_eq!(client.next().await.expect("the end").0, "transcript-stop");
    test_support::wer::assert_alike(&text, &sample_text(name));
    test_support::wer::assert_alike(&streamed, &text);
}

#[tokio::test]
async fn home_assistant_discovers_the_server_as_long_as_it_runs() {
    let name = format!("uttera test {}", std::process::id());
    let settings = [PORT, ("HOST", "0.0.0.0"), ("WYOMING_NAME", &name)];
    let mut server = Server::start(&model("tiny.en").await, &settings).await;
    let port = address(&server).await.replace("0.0.0.0:", "");
    if !server.log_lines("the server is not announced").is_empty() {
        eprintln!("this machine has no network");
        return;
    }
    let python = tokio::task::spawn_blocking(test_support::python::wyoming).await;
    let mut browser = Command::new(python.expect("the package can be had"))
        .arg(repository().join("tests/support/wyoming_client.py"))
        .args(["-", "discover", &name])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Python starts");
    let lines = BufReader::new(browser.stdout.take().expect("piped")).lines();
    let found = patiently(async { { lines }.next_line().await }).await;
    let found = found.expect("reads").expect("it is found");
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["port"].to_string(), port);
    assert_eq!(found["addresses"].as_array().map(Vec::len), Some(1));
    // An empty record, as the standard requires.
    assert_eq!(found["text"], "00");
    assert_eq!(server.terminate().await, Some(0));
    let ended = patiently(browser.wait()).await.expect("it ends");
    assert!(ended.success());
}
