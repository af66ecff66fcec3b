//! Requests of other programs that use this server, with the fields, names and types that they send.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use test_support::{
    PATIENCE, Server, checks, model, node, refused, repository, sample, sample_text, words,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

const PATH: &str = "/v1/audio/transcriptions";

fn file(name: &str, sent_as: &str) -> Part {
    let bytes = std::fs::read(sample(name)).expect("is there");
    Part::bytes(bytes).file_name(sent_as.to_owned())
}

async fn text(response: Response) -> String {
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("JSON");
    body["text"].as_str().expect("text").to_owned()
}

async fn is_the_command(response: Response) {
    let found = text(response).await;
    assert_eq!(words(&found), words(&sample_text("en-command.wav")));
}

/// Raw samples, as Bazarr creates them with ffmpeg.
fn bare_samples(name: &str) -> Vec<u8> {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(sample(name))
        .args(["-f", "s16le", "-ac", "1", "-ar", "16000", "-"])
        .output();
    made.expect("ffmpeg runs").stdout
}

/// A voice note as messengers send it.
fn voice_note(folder: &Path) -> Vec<u8> {
    let path = folder.join("note.ogg");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-i"])
        .arg(sample("en-command.wav"))
        .args(["-c:a", "libopus", "-ar", "48000", "-b:a", "24k"])
        .arg(&path)
        .status();
    assert!(status.expect("ffmpeg runs").success());
    std::fs::read(path).expect("is there")
}

#[tokio::test]
async fn programs_are_served_with_an_english_model() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    checks! {
        &server;
        open_webui_sends_a_form_with_an_empty_key_or_json_with_base64,
        open_webui_sends_the_parts_of_one_file_at_once,
        openclaw_sends_voice_notes_as_octets_with_an_instruction_for_a_prompt,
        a_form_may_have_any_order_no_types_and_unknown_fields,
        asr_gives_every_output_format_and_rejects_unknown_ones,
        javas_http_client_offers_http2_and_keeps_its_connection,
        bytes_of_a_request_with_a_latin_1_file_name_are_accepted,
    }
}

async fn open_webui_sends_a_form_with_an_empty_key_or_json_with_base64(server: &Server) {
    let form = Form::new()
        .text("model", "whisper-1")
        .text("language", "en")
        .part("file", file("en-command.wav", "recording.wav"));
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.header("authorization", "Bearer ").multipart(form);
    is_the_command(request.send().await.expect("an answer")).await;

    let bytes = std::fs::read(sample("en-command.wav")).expect("is there");
    let body = json!({
        "model": "whisper-1",
        "input_audio": {"data": STANDARD.encode(bytes), "format": "wav"},
        "language": "en",
    });
    let request = server.client.post(format!("{}{PATH}", server.url));
    is_the_command(request.json(&body).send().await.expect("an answer")).await;
    // The client shows `error.message` for every status except 200.
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.json(&json!({"model": "whisper-1", "input_audio": {"data": "%"}}));
    refused(
        request.send().await.expect("an answer"),
        400,
        "malformed_body",
        None,
    )
    .await;
}

async fn open_webui_sends_the_parts_of_one_file_at_once(server: &Server) {
    let parts = (0..4).map(|_| async {
        let form = Form::new()
            .text("model", "whisper-1")
            .part("file", file("en-command.wav", "part.mp3"));
        is_the_command(server.post(PATH, form).await).await;
    });
    futures::future::join_all(parts).await;
}

async fn bytes_of_a_request_with_a_latin_1_file_name_are_accepted(server: &Server) {
    let audio = std::fs::read(sample("en-command.wav")).expect("is there");
    let head = b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"Gespr\xe4ch.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
    let body = [&head[..], &audio, b"\r\n--x--\r\n"].concat();
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.header("content-type", "multipart/form-data; boundary=x");
    is_the_command(request.body(body).send().await.expect("an answer")).await;
}

async fn openclaw_sends_voice_notes_as_octets_with_an_instruction_for_a_prompt(server: &Server) {
    let note = Part::bytes(voice_note(server.folder()))
        .file_name("voice.ogg")
        .mime_str("application/octet-stream")
        .expect("a type");
    let form = Form::new()
        .text("model", "gpt-4o-mini-transcribe")
        .text("prompt", "Transcribe the audio.")
        .part("file", note);
    is_the_command(server.post(PATH, form).await).await;
}

/// Passes connections on to the server and counts them.
async fn counting_proxy(server: &Server) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let count = Arc::new(AtomicUsize::new(0));
    let address = server.url.trim_start_matches("http://").to_owned();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let address = address.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(address).await.expect("connects");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (url, count)
}

async fn javas_http_client_offers_http2_and_keeps_its_connection(server: &Server) {
    if !node::is_installed("java") {
        println!("skipped: java is not installed");
        return;
    }
    let (url, connections) = counting_proxy(server).await;
    let run = tokio::process::Command::new("java")
        .arg("-XX:TieredStopAtLevel=1")
        .arg(repository().join("tests/support/HttpClientOfJava.java"))
        .arg(url)
        .arg(sample("en-command.wav"))
        .arg("200")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("ends");
    let output = output.expect("Java starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(words(&said), words(&sample_text("en-command.wav")));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn n8n_asks_for_the_models_first_and_for_its_fixed_name_then() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "sesame")]).await;
    let models = server.client.get(format!("{}/v1/models", server.url));
    let models = models
        .bearer_auth("sesame")
        .send()
        .await
        .expect("an answer");
    assert_eq!(models.status(), 200);
    let form = Form::new()
        .part("file", file("en-command.wav", "data.wav"))
        .text("model", "whisper-1")
        .text("temperature", "0.7");
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request.bearer_auth("sesame").multipart(form);
    is_the_command(request.send().await.expect("an answer")).await;
}

async fn a_form_may_have_any_order_no_types_and_unknown_fields(server: &Server) {
    let audio = std::fs::read(sample("en-command.wav")).expect("is there");
    let field = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let mut body = field("timestamp_granularities[]", "segment").into_bytes();
    body.extend(field("colour", "blue").bytes());
    // Without file name and type.
    body.extend(b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\n");
    body.extend(&audio);
    body.extend(b"\r\n");
    body.extend(field("response_format", "verbose_json").bytes());
    body.extend(field("include[]", "logprobs").bytes());
    body.extend(b"--b--\r\n");
    let request = server.client.post(format!("{}{PATH}", server.url));
    let request = request
        .header("content-type", "multipart/form-data; boundary=b")
        .body(body);
    is_the_command(request.send().await.expect("an answer")).await;
}

#[tokio::test]
async fn programs_are_served_with_a_multilingual_model() {
    let server = Server::ready(&model("base").await, &[]).await;
    checks! {
        &server;
        bazarr_asks_for_the_language_and_for_subtitles_of_bare_samples,
        whisper_cpps_own_path_takes_its_fields,
    }
}

async fn bazarr_asks_for_the_language_and_for_subtitles_of_bare_samples(server: &Server) {
    let audio = || {
        let samples = Part::bytes(bare_samples("es-sentence.wav"));
        Form::new().part("audio_file", samples.file_name("audio_file"))
    };
    let detected = server.post("/detect-language?encode=false", audio()).await;
    assert_eq!(detected.status(), 200);
    let detected: Value = detected.json().await.expect("JSON");
    assert_eq!(detected["detected_language"], "spanish");
    assert_eq!(detected["language_code"], "es");
    assert!(detected["confidence"].as_f64() > Some(0.5), "{detected}");

    let path = "/asr?task=transcribe&language=es&output=srt&encode=false";
    let subtitles = server.post(path, audio()).await;
    assert_eq!(subtitles.status(), 200);
    assert_eq!(subtitles.headers()["x-route"], "HOT");
    let subtitles = subtitles.text().await.expect("a body");
    assert!(subtitles.starts_with("1\n00:00:0"), "{subtitles}");
    assert!(subtitles.contains("música"), "{subtitles}");

    let path = "/asr?task=translate&language=es&output=srt&encode=false";
    let english = server
        .post(path, audio())
        .await
        .text()
        .await
        .expect("a body");
    assert!(english.contains("music"), "{english}");
}

async fn asr_gives_every_output_format_and_rejects_unknown_ones(server: &Server) {
    let post = async |query: &str, name: &str| {
        let form = Form::new().part("audio_file", file(name, "speech.wav"));
        server.post(&format!("/asr?{query}"), form).await
    };
    let expected = words(&sample_text("en-command.wav"));
    for (output, kind, begin) in [
        ("txt", "text/plain", ""),
        ("json", "application/json", "{"),
        ("srt", "application/x-subrip", "1\n"),
        ("vtt", "text/vtt", "WEBVTT\n"),
        ("tsv", "text/tab-separated-values", "start\tend\ttext\n"),
    ] {
        let response = post(&format!("output={output}"), "en-command.wav").await;
        assert_eq!(response.status(), 200, "{output}");
        let found = response.headers()["content-type"].to_str().expect("ASCII");
        assert!(found.starts_with(kind), "{output}: {found}");
        assert!(response.headers().contains_key("asr-engine"));
        let body = response.text().await.expect("a body");
        assert!(body.starts_with(begin), "{output}: {body}");
        let said = words(&body);
        assert!(
            expected.iter().all(|word| said.contains(word)),
            "{output}: {body}"
        );
    }
    for (query, status, code, param) in [
        ("output=docx", 422, "invalid_value", Some("output")),
        ("task=sing", 422, "invalid_value", Some("task")),
        ("encode=perhaps", 422, "invalid_value", Some("encode")),
        (
            "language=klingon",
            400,
            "unsupported_language",
            Some("language"),
        ),
        ("task=translate", 400, "translation_unsupported", None),
        (
            "task=translate&to_language=de",
            400,
            "unsupported_language",
            Some("to_language"),
        ),
    ] {
        refused(post(query, "en-command.wav").await, status, code, param).await;
    }
    refused(
        post("", "samples.tsv").await,
        400,
        "audio_decode_error",
        Some("file"),
    )
    .await;
    for path in ["/asr", "/detect-language", "/inference"] {
        let empty = server.post(path, Form::new().text("x", "y")).await;
        let name = if path == "/inference" {
            "file"
        } else {
            "audio_file"
        };
        refused(empty, 400, "missing_file", Some(name)).await;
        refused(server.get(path).await, 405, "method_not_allowed", None).await;
    }
    // Without any samples.
    let form = Form::new().part("audio_file", Part::bytes(Vec::new()));
    let none = server.post("/asr?encode=false", form).await;
    refused(none, 400, "audio_decode_error", Some("file")).await;
}

async fn whisper_cpps_own_path_takes_its_fields(server: &Server) {
    let form = |fields: &[(&'static str, &'static str)]| {
        let form = Form::new().part("file", file("de-sentence.wav", "speech.wav"));
        fields
            .iter()
            .fold(form, |form, (name, value)| form.text(*name, *value))
    };
    let fields = [
        ("temperature", "0.0"),
        ("temperature_inc", "0.2"),
        ("response_format", "json"),
    ];
    let german = text(server.post("/inference", form(&fields)).await).await;
    assert!(
        words(&german).contains(&"deutschland".to_owned()),
        "{german}"
    );
    let fields = [("translate", "true"), ("language", "auto")];
    let english = text(server.post("/inference", form(&fields)).await).await;
    assert!(words(&english).contains(&"germany".to_owned()), "{english}");
    let answered = r#"uttera_stt_requests_total{endpoint="/inference",method="POST",status="200"}"#;
    assert!((server.metric(answered).await - 2.0).abs() < 1e-9);
}
