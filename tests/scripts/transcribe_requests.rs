//! Requests of `scripts/transcribe.sh`: any file, any address, hidden keys, and every way to fail.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use test_support::transcribe_script::{Script, answer, sent, server, told, with_answer};
use test_support::{PATIENCE, until};
use wiremock::matchers::header;
use wiremock::{Mock, MockServer};

/// Names and values of environment variables.
type Variables<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn a_refusal_is_status_5_with_the_servers_words() {
    let ours = json!({"error": {"message": "no \"way\"", "type": "t", "param": null, "code": "c"}, "detail": "no \"way\""});
    let openai = json!({"error": {"message": "no \"way\"", "type": "t"}});
    let said = "no \"way\"";
    let cases = [
        (413, ours.to_string(), said),
        (401, openai.to_string(), said),
        (500, r#"{"error":"no \"way\""}"#.to_owned(), said),
        (429, said.to_owned(), said),
        (302, said.to_owned(), said),
        (503, String::new(), ""),
    ];
    for (status, body, words) in cases {
        let (script, server) = with_answer(status, "application/json", &body).await;
        let output = script.run(&server.uri(), &["a.wav", "--remove"]).await;
        let expected = format!("transcribe.sh: the server returned an error ({status}): {words}\n");
        assert_eq!(told(&output), (Some(5), expected));
        assert!(output.stdout.is_empty() && script.here().join("a.wav").exists());
    }
}

/// A server that reads a request and handles the connection with this function.
fn raw_server(then: impl FnOnce(&mut std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        // The script's form ends with its last boundary.
        while !request.ends_with(b"--\r\n") {
            let count = stream.read(&mut buffer).expect("reads");
            assert!(count > 0, "the request ends early");
            request.extend_from_slice(&buffer[..count]);
        }
        then(&mut stream);
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_unreachable_server_or_a_reply_that_breaks_off_is_status_4() {
    let script = Script::new();
    script.file("a.wav", b"sound");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let unreachable = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let hangs_up = raw_server(|_| ());
    let breaks_off = raw_server(|stream| {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n";
        let all = format!("{head}{{\"text\":\"half of\"}}");
        stream.write_all(all.as_bytes()).expect("writes");
    });
    for url in [unreachable, hangs_up, breaks_off] {
        let output = script.run(&url, &["a.wav", "--remove"]).await;
        let (status, words) = told(&output);
        assert_eq!(status, Some(4), "{output:?}");
        assert!(words.contains(&url), "{words}");
        assert!(output.stdout.is_empty() && script.here().join("a.wav").exists());
    }
}

#[tokio::test]
async fn a_server_that_takes_too_long_is_status_6() {
    let slow = answer(200, "application/json", "{}").set_delay(PATIENCE * 10);
    let (script, server) = (Script::new(), server(slow).await);
    script.file("a.wav", b"sound");
    let output = script
        .run(&server.uri(), &["a.wav", "--timeout", "1"])
        .await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let variable = [("WHISPER_API_TIMEOUT", "1")];
    let output = script.run_with(&server.uri(), &["a.wav"], &variable).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
}

#[tokio::test]
async fn wrong_usage_is_status_2_and_a_missing_file_is_status_3() {
    let (script, server) = with_answer(200, "application/json", r#"{"text":"words"}"#).await;
    let wrong: [&[&str]; 9] = [
        &[],
        &[""],
        &["a.wav", "--language"],
        &["a.wav", "b.wav"],
        &["a.wav", "--nonsense"],
        &["a.wav", "--timeout", "0"],
        &["a.wav", "--timeout", "soon"],
        &["a.wav", "--out", "../here/a.wav"],
        &["a.wav", "--out", "."],
    ];
    for arguments in wrong {
        let output = script.run(&server.uri(), arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    for url in ["ftp://host", "file:///etc/passwd"] {
        let output = script.run(url, &["a.wav"]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let key = [("WHISPER_API_KEY", "a\r\nX-Evil: yes")];
    let output = script.run_with(&server.uri(), &["a.wav"], &key).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    for missing in ["none.wav", ".", "-"] {
        let output = script.run(&server.uri(), &[missing]).await;
        assert_eq!(output.status.code(), Some(3), "{missing}: {output:?}");
    }
    assert_eq!(server.received_requests().await.expect("recorded").len(), 0);
    let help = script.run(&server.uri(), &["--help"]).await;
    assert_eq!(told(&help), (Some(0), String::new()));
    assert!(String::from_utf8_lossy(&help.stdout).contains("it is kept"));
}

#[tokio::test]
async fn files_of_any_name_are_sent_and_the_server_gets_only_their_extension() {
    let names = [
        ("voice note.ogg", "audio.ogg"),
        ("a;type=text,b\"c\\d'.m4a", "audio.m4a"),
        ("line\nbreak\n", "audio"),
        ("-", "audio"),
        ("--out", "audio"),
        ("@x.WAV", "audio.WAV"),
        ("<x", "audio"),
        ("ключ\u{1f600}.mp3", "audio.mp3"),
        ("a.b\"; filename=evil", "audio"),
        ("{a,b}[1-3].wav", "audio.wav"),
    ];
    for (name, told_name) in names {
        let (script, server) = with_answer(200, "application/json", r#"{"text":"words"}"#).await;
        script.file(name, b"exactly this");
        let output = script.run(&server.uri(), &[name]).await;
        assert_eq!(told(&output), (Some(0), String::new()), "{name}");
        let (_, body) = sent(&server).await;
        let disposition = format!("name=\"file\"; filename=\"{told_name}\"\r\n");
        assert!(body.contains(&disposition), "{name}: {body}");
        assert!(body.contains("\r\n\r\nexactly this\r\n"), "{name}: {body}");
        assert!(script.here().join(name).exists(), "it is kept");
    }
}

#[tokio::test]
async fn fields_arrive_as_they_were_given() {
    let (script, server) = with_answer(200, "application/json", r#"{"text":"words"}"#).await;
    let prompt = "@/etc/passwd; <x \"quoted\" \\ ключ\n";
    let arguments = [
        "a.wav",
        "--language",
        "en",
        "--prompt",
        prompt,
        "--model",
        "small;type=x",
    ];
    let output = script.run(&server.uri(), &arguments).await;
    assert_eq!(told(&output), (Some(0), String::new()));
    let (_, body) = sent(&server).await;
    for (name, value) in [
        ("language", "en"),
        ("prompt", prompt),
        ("model", "small;type=x"),
        ("response_format", "json"),
    ] {
        let field = format!("name=\"{name}\"\r\n\r\n{value}\r\n");
        assert!(body.contains(&field), "{name}: {body}");
    }
}

#[tokio::test]
async fn the_address_may_be_a_server_or_an_endpoint() {
    let usual = "/v1/audio/transcriptions";
    let cases = [
        ("", usual),
        ("/", usual),
        ("/v1", usual),
        ("/v1/", usual),
        ("/v1/audio/transcriptions", usual),
        ("/v1/audio/transcriptions/", usual),
        ("/v1/audio/translations", "/v1/audio/translations"),
        ("/inference", "/inference"),
        ("/whisper", "/whisper/v1/audio/transcriptions"),
        ("/asr?task=transcribe", "/asr?task=transcribe"),
    ];
    for (path, asked) in cases {
        for scheme in ["http://", ""] {
            let (script, server) =
                with_answer(200, "application/json", r#"{"text":"words"}"#).await;
            let url = format!("{scheme}{}{path}", server.address());
            let output = script.run(&url, &["a.wav"]).await;
            assert_eq!(told(&output), (Some(0), String::new()), "{url}");
            let (request, _) = sent(&server).await;
            let found = request.url.to_string();
            assert_eq!(found, format!("http://localhost{asked}"), "{url}");
        }
    }
}

#[tokio::test]
async fn the_key_is_sent_and_whispers_comes_before_openais() {
    let odd = r#"se"c\ret k;ey"#;
    let cases: [(Variables, Option<&str>); 5] = [
        (&[], None),
        (&[("WHISPER_API_KEY", odd)], Some(odd)),
        (&[("OPENAI_API_KEY", "sk-1")], Some("sk-1")),
        (
            &[("OPENAI_API_KEY", "sk-1"), ("WHISPER_API_KEY", "own")],
            Some("own"),
        ),
        (&[("OPENAI_API_KEY", "sk-1"), ("WHISPER_API_KEY", "")], None),
    ];
    for (variables, expected) in cases {
        let (script, server) = with_answer(200, "application/json", r#"{"text":"words"}"#).await;
        let output = script.run_with(&server.uri(), &["a.wav"], variables).await;
        assert_eq!(told(&output), (Some(0), String::new()));
        let (request, _) = sent(&server).await;
        let found = request.headers.get("authorization");
        let found = found.map(|value| value.to_str().expect("a text").to_owned());
        assert_eq!(found, expected.map(|key| format!("Bearer {key}")));
    }
}

/// The command lines of all processes that contain this text.
fn command_lines(part: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(part)).collect()
}

#[tokio::test]
async fn the_key_is_in_no_command_line_and_a_signal_leaves_no_files() {
    let script = Script::new();
    script.file("a.wav", b"sound");
    let stalled = MockServer::start().await;
    Mock::given(header("authorization", "Bearer very-secret-key"))
        .respond_with(answer(200, "application/json", "{}").set_delay(PATIENCE * 10))
        .mount(&stalled)
        .await;
    let mut command = script.command(&stalled.uri(), &["a.wav", "--remove"]);
    let child = command
        .env("WHISPER_API_KEY", "very-secret-key")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let asked = async || {
        stalled
            .received_requests()
            .await
            .is_some_and(|all| all.len() == 1)
    };
    until("the request", asked).await;
    // The address may contain a password, so it must be hidden like the key.
    let temporary = script.temporary();
    let temporary = temporary.to_str().expect("UTF-8");
    let curls = command_lines(temporary);
    assert!(curls.iter().any(|line| line.contains("curl")), "{curls:?}");
    for secret in ["very-secret-key", &stalled.uri()] {
        assert_eq!(command_lines(secret), Vec::<String>::new());
    }

    let pid = child.id().expect("it runs").cast_signed();
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("is there");
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = ended.await.expect("in time").expect("ends");
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    until("the end of curl", async || {
        command_lines(temporary).is_empty()
    })
    .await;
    assert_eq!(script.leftovers(), 0);
    assert!(script.here().join("a.wav").exists());
}

#[tokio::test]
async fn the_recording_is_removed_only_if_that_is_wished_and_the_text_is_there() {
    let body = r#"{"text":"words"}"#;
    let (script, server) = with_answer(200, "application/json", body).await;
    let recording = script.here().join("a.wav");
    script.run(&server.uri(), &["a.wav"]).await;
    assert!(recording.exists());
    // If the text cannot be written, the recording is kept.
    let mut full = script.command(&server.uri(), &["a.wav", "--remove"]);
    let device = std::fs::File::options().write(true).open("/dev/full");
    let status = full.stdout(device.expect("is there")).status().await;
    assert_eq!(status.expect("runs").code(), Some(1));
    let output = script
        .run(&server.uri(), &["a.wav", "--remove", "--out", "a.wav/x"])
        .await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(recording.exists());
    script.run(&server.uri(), &["a.wav", "--remove"]).await;
    assert!(!recording.exists());
    script.file("a.wav", b"sound");
    let wish = [("WHISPER_REMOVE_INPUT", "1")];
    script.run_with(&server.uri(), &["a.wav"], &wish).await;
    assert!(!recording.exists());
}
