//! The log: its files, the line of a request, and that it contains no text of speech.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use test_support::realtime::{Realtime, speech};
use test_support::wav::write_silence;
use test_support::wyoming::{COMMAND, Format, PORT, WyomingClient, audio};
use test_support::{Server, model, sample, sample_text, until, words};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

const SENTENCE: &str = "en-sentence.wav";
/// Words that no log line has for another reason.
const PROMPT: &str = "Zarquon Beeblebrox";
const FILE_NAME: &str = "kumquat-interview.wav";
const OF_FALLBACK: &str = "Krikkit robots";
const EVERYTHING: &str = "trace";

/// The text of a sample with a prompt and a name of the file.
fn confidential(fields: &[(&str, &str)]) -> Form {
    let bytes = fs::read(sample(SENTENCE)).expect("the file is there");
    let mut form = Form::new().part("file", Part::bytes(bytes).file_name(FILE_NAME));
    for (name, value) in [&[("prompt", PROMPT)], fields].concat() {
        form = form.text(name.to_owned(), value.to_owned());
    }
    form
}

async fn status(server: &Server, path: &str, form: Form) -> u16 {
    server.post(path, form).await.status().as_u16()
}

/// A stand-in for a fallback that gives these answers, one after the other.
async fn fallback(answers: &[(u16, Value)]) -> MockServer {
    let node = MockServer::start().await;
    for (status, body) in answers {
        let reply = ResponseTemplate::new(*status).set_body_json(body);
        let mock = Mock::given(any()).respond_with(reply).up_to_n_times(1);
        mock.mount(&node).await;
    }
    node
}

/// Ordinary requests, and errors of all kinds.
async fn send_requests(server: &Server) {
    let path = "/v1/audio/transcriptions";
    assert_eq!(status(server, path, confidential(&[])).await, 200);
    let stream = confidential(&[("stream", "true")]);
    let streamed = server.post(path, stream).await.text().await;
    assert!(streamed.expect("a body").contains("train"));
    for (field, value) in [
        ("temperature", "warm"),
        ("response_format", "docx"),
        ("timestamp_granularities[]", "letter"),
    ] {
        assert_eq!(
            status(server, path, confidential(&[(field, value)])).await,
            422
        );
    }
    let no_audio = Form::new().text("prompt", PROMPT);
    assert_eq!(status(server, path, no_audio).await, 400);
    let no_sound = Form::new()
        .part("file", Part::bytes(PROMPT.as_bytes()).file_name(FILE_NAME))
        .text("prompt", PROMPT);
    assert_eq!(status(server, path, no_sound).await, 400);
    for body in [
        format!(r#"{{"prompt": "{PROMPT}", "input_audio": "{PROMPT}"}}"#),
        format!(r#"{{"prompt": "{PROMPT}" "{PROMPT}"}}"#),
        format!(r#"{{"prompt": "{PROMPT}", "input_audio": {{"data": "{PROMPT}"}}}}"#),
    ] {
        let request = server.client.post(format!("{}{path}", server.url));
        let request = request
            .header("content-type", "application/json")
            .body(body);
        assert_eq!(request.send().await.expect("an answer").status(), 400);
    }
    let query = format!("/asr?initial_prompt={PROMPT}&task=transcribe&output=txt");
    let bytes = fs::read(sample(SENTENCE)).expect("the file is there");
    let form = Form::new().part("audio_file", Part::bytes(bytes).file_name(FILE_NAME));
    assert_eq!(status(server, &query, form).await, 200);
}

async fn use_realtime(server: &Server) {
    let mut client = Realtime::session(server, Value::Null).await;
    client
        .configure(json!({
            "transcription": {"model": "tiny.en", "prompt": PROMPT},
            "turn_detection": null,
        }))
        .await;
    client.append(&speech(SENTENCE, 0)).await;
    client.commit().await;
    client.turn().await;
    let session = json!({"type": "transcription", "audio": {"input": {"transcription": {"prompt": [PROMPT]}}}});
    client
        .send(json!({"type": "session.update", "session": session}))
        .await;
    client.error().await;
    client.send(json!({"type": PROMPT})).await;
    client.error().await;
    client.cut();
    server.log_line("realtime session ended").await;
}

async fn use_wyoming(server: &Server) {
    let mut client = WyomingClient::connect(server).await;
    let request = json!({"language": "en", "context": {"prompt": PROMPT}});
    client.utter(request, &Format::USUAL, &audio(COMMAND)).await;
    client.transcript().await;
    for line in [
        format!("{PROMPT}\n"),
        format!("{{\"type\": {{\"{PROMPT}\": \"{PROMPT}\"}}}}\n"),
    ] {
        let mut client = WyomingClient::connect(server).await;
        client.send_bytes(line.as_bytes()).await;
        while client.next().await.is_some() {}
    }
    let closed = || async { server.log_lines("a Wyoming connection is closed").len() == 2 };
    server.until("both connections are closed", closed).await;
}

/// Whisper invents text where there is silence.
async fn hear_silence(server: &Server) {
    let path = server.folder().join("silence.wav");
    write_silence(&path, 5000);
    let fields = [("vad_filter", "false")];
    let response = server.transcribe(&path, &fields).await;
    assert_eq!(response.status(), 200);
}

/// What no line may contain.
fn find_confidential(log: &[String]) -> Vec<&String> {
    let mut forbidden: Vec<String> = [PROMPT, FILE_NAME, OF_FALLBACK]
        .iter()
        .flat_map(|text| text.split(' '))
        .map(str::to_lowercase)
        .collect();
    for name in [SENTENCE, COMMAND] {
        let words = words(&sample_text(name));
        forbidden.extend(words.windows(3).map(|three| three.join(" ")));
    }
    let is_forbidden = |line: &&String| {
        let line = line.to_lowercase();
        forbidden.iter().any(|text| line.contains(text))
    };
    log.iter().filter(is_forbidden).collect()
}

#[tokio::test]
async fn the_log_contains_no_prompts_file_names_or_texts_of_speech() {
    let said = json!({"text": OF_FALLBACK, "segments": OF_FALLBACK});
    let fallback = fallback(&[
        (
            200,
            json!({"text": OF_FALLBACK, "language": "en", "model": "larger"}),
        ),
        (200, said.clone()),
        (200, said),
        (400, json!({"error": {"message": OF_FALLBACK}})),
        (400, json!({"error": {"message": OF_FALLBACK}})),
    ])
    .await;
    let url = fallback.uri();
    let settings = [
        ("RUST_LOG", EVERYTHING),
        ("FALLBACK_URL", url.as_str()),
        ("CONF_LOGPROB_THRESHOLD", "1"),
        PORT,
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    // The fallback's text, an answer that is none, and a refusal.
    let path = "/v1/transcribe";
    let with_audio = || {
        let bytes = fs::read(sample(SENTENCE)).expect("the file is there");
        Form::new().part("audio", Part::bytes(bytes).file_name(FILE_NAME))
    };
    let first = server.post(path, with_audio()).await;
    let reply: Value = first.json().await.expect("JSON");
    assert_eq!(reply["text"], OF_FALLBACK);
    assert_eq!(status(&server, path, with_audio()).await, 502);
    assert_eq!(status(&server, path, with_audio()).await, 502);
    send_requests(&server).await;
    use_realtime(&server).await;
    use_wyoming(&server).await;
    hear_silence(&server).await;
    let log = server.log();
    assert_eq!(find_confidential(&log), [""; 0]);
    // The log has what it should have.
    for expected in [
        "its answer is invalid",
        "it answered 400",
        "request begins",
        "fallback_used=true",
        "code=\"malformed_body\"",
        "removed hallucinated text",
    ] {
        assert!(!server.log_lines(expected).is_empty(), "{expected}");
    }
    assert!(server.log_lines("the removed text").is_empty());
    let board = server.get("/v1/status").await.text().await.expect("a body");
    assert!(board.contains("the fallback failed"), "{board}");
    assert_eq!(find_confidential(&[board]), [""; 0]);
}

/// The lines of a server's file.
fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn log_file(server: &Server) -> PathBuf {
    server.folder().join("run/here/logs/uttera-stt.log")
}

async fn line_in_file(file: &Path, text: &str) -> String {
    let find = || lines(file).into_iter().find(|line| line.contains(text));
    until(&format!("a line with {text:?}"), async || find().is_some()).await;
    find().expect("it is there")
}

#[tokio::test]
async fn files_have_the_same_log_and_a_folder_that_vanished_is_made_again() {
    let settings = [
        ("LOG_DIR", "logs"),
        ("LOG_FORMAT", "logfmt"),
        ("LOG_TRANSCRIPTS", "1"),
    ];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = log_file(&server);
    let (audio, id) = (sample(SENTENCE), "its-id");
    let fields = [("prompt", PROMPT)];
    let response = server.transcribe_as(id, &audio, &fields).await;
    let text: Value = response.json().await.expect("JSON");
    let of_request = " msg=request target=uttera_stt::http::request_log request_id=its-id ";
    let line = line_in_file(&file, of_request).await;
    let without_time = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned());
    let shown = server.log_line(of_request).await;
    assert_eq!(without_time(&shown), without_time(&line));
    let bytes = fs::metadata(&audio).expect("there").len();
    let text = text["text"].as_str().expect("a text");
    for expected in [
        "level=info ",
        " request_id=its-id client=anonymous address=127.0.0.1 method=POST ",
        " path=/v1/audio/transcriptions status=200 bytes=",
        " language=en model=tiny.en route=HOT audio_seconds=",
        &format!(" text={text:?}"),
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    let received = line.split(" bytes=").nth(1).expect("the bytes");
    let received: u64 = (received.split(' ').next().expect("a word").parse()).expect("a number");
    assert!((bytes..bytes + 2000).contains(&received), "{received}");
    let begins = "msg=\"request begins\" target=uttera_stt::http::request_log request_id=its-id ";
    let begins = line_in_file(&file, begins).await;
    assert!(begins.contains(" announced_bytes="), "{begins}");
    // Workers log through the server.
    line_in_file(&file, "msg=\"worker ready\"").await;
    hear_silence(&server).await;
    line_in_file(&file, "msg=\"the removed text\"").await;
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    fs::remove_dir_all(file.parent().expect("a folder")).expect("removed");
    assert_eq!(server.transcribe(&audio, &[]).await.status(), 200);
    line_in_file(&file, " path=/v1/audio/transcriptions ").await;
    let lost = server.metric("uttera_stt_log_lines_lost_total").await;
    assert_eq!(lost.to_string(), "0");
    // The newest lines are written.
    server.terminate().await;
    let newest = lines(&file).pop().expect("a line");
    assert!(newest.contains(" msg=stopped "), "{newest}");
}

#[tokio::test]
async fn each_line_is_json_and_a_folder_that_cannot_be_written_is_reported_once() {
    let settings = [("LOG_DIR", "/dev/null/logs"), ("LOG_FORMAT", "json")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let response = server.transcribe_as("its-id", &sample(COMMAND), &[]).await;
    assert_eq!(response.status(), 200);
    // Not only the line that says that it begins.
    let is_logged = async || {
        let lines = server.log_lines("\"its-id\"");
        lines.iter().any(|line| line.contains("\"total_seconds\""))
    };
    server.until("the request is logged", is_logged).await;
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    let lines: Vec<Value> = server.log_lines("\"level\"").iter().map(parse).collect();
    let is_its_line =
        |line: &&Value| line["message"] == "request" && line["request_id"] == "its-id";
    let line = lines.iter().find(is_its_line).expect("its line");
    assert_eq!(line["status"], 200, "{line}");
    assert!(
        line["audio_seconds"].is_f64() && line["timestamp"].is_string(),
        "{line}"
    );
    let reports = server.log_lines("cannot be written (LOG_DIR)");
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(server.metric("uttera_stt_log_lines_lost_total").await > 1.0);
}
