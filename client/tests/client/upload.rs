//! Requests: the form, and audio from files, memory and streams.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Act, Frozen, Scripted, client, fine, json, refusing_address, until};
use bytes::Bytes;
use futures::stream;
use uttera_stt_client::{
    Audio, Error, Granularity, ResponseFormat, SpeechOptions, TranscribeOptions,
};

fn options() -> TranscribeOptions {
    TranscribeOptions::default()
}

#[tokio::test]
async fn the_form_has_the_options_before_the_audio() {
    let server = Scripted::start([fine()]).await;
    let client = server
        .client()
        .header("x-hop", "1")
        .build()
        .expect("a client");
    let audio = Audio::bytes(&b"RIFF"[..])
        .named("a \"b\".wav")
        .content_type("audio/wav");
    let options = TranscribeOptions {
        language: Some("en".to_owned()),
        prompt: Some("Ärger".to_owned()),
        temperature: Some(0.2),
        words: true,
        fields: vec![("more".to_owned(), "yes".to_owned())],
        request_id: Some("mine".to_owned()),
        headers: vec![("traceparent".to_owned(), "00-1-2-01".to_owned())],
        timeout: None,
    };
    client.transcribe(audio, &options).await.expect("a reply");
    let request = &server.requests()[0];
    assert!(request.head.starts_with("post /v1/transcribe http/1.1"));
    for header in [
        "x-request-id: mine",
        "traceparent: 00-1-2-01",
        "x-hop: 1",
        "user-agent: uttera-stt-client/",
    ] {
        assert!(request.head.contains(header), "{header}: {}", request.head);
    }
    let names = [
        "language",
        "prompt",
        "temperature",
        "timestamp_granularities[]",
        "more",
        "audio",
    ];
    let form = request.form();
    let at: Vec<_> = names
        .iter()
        .map(|name| form.find(&format!("name=\"{name}\"")))
        .collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{form}");
    for part in [
        "Ärger",
        "0.2",
        "word",
        "filename=\"a \\\"b\\\".wav\"",
        "audio/wav",
        "RIFF",
    ] {
        assert!(form.contains(part), "{part}: {form}");
    }
}

#[tokio::test]
async fn every_speech_option_is_a_field() {
    let server = Scripted::start([json(200, "x-route: HOT\r\n", r#"{"text":"Hi"}"#)]).await;
    let client = server.client().build().expect("a client");
    let options = SpeechOptions {
        granularities: vec![Granularity::Segment, Granularity::Word],
        logprobs: true,
        chunking_strategy: Some("auto".to_owned()),
        to_language: Some("de".to_owned()),
        vad_filter: Some(false),
        hallucination_guard: Some(true),
        multilingual: Some(true),
        ..SpeechOptions::default()
    };
    let speech = client.translations();
    let reply = speech
        .verbose_json(vec![1, 2], &options)
        .await
        .expect("a reply");
    assert_eq!(reply.headers.route.as_deref(), Some("HOT"));
    let request = &server.requests()[0];
    assert!(request.head.starts_with("post /v1/audio/translations "));
    let form: String = request.form().split_whitespace().collect();
    for (name, value) in [
        ("model", "whisper-1"),
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "segment"),
        ("timestamp_granularities[]", "word"),
        ("include[]", "logprobs"),
        ("chunking_strategy", "auto"),
        ("to_language", "de"),
        ("vad_filter", "false"),
        ("hallucination_guard", "true"),
        ("multilingual", "true"),
    ] {
        assert!(
            form.contains(&format!("name=\"{name}\"{value}")),
            "{name}: {form}"
        );
    }
    assert!(!form.contains("name=\"language\"") && form.contains("name=\"file\""));
}

#[tokio::test]
async fn each_attempt_sends_the_whole_file_with_its_length() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("speech.ogg");
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&path, &content).expect("writes");
    let server = Scripted::start([json(503, "", ""), fine()]).await;
    let client = server.client().build().expect("a client");
    client
        .transcribe(path.as_path(), &options())
        .await
        .expect("a reply");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(
            request.head.contains("content-length: 300"),
            "{}",
            request.head
        );
        assert!(request.form().contains("filename=\"speech.ogg\""));
        let is_there = request
            .body
            .windows(content.len())
            .any(|part| part == content);
        assert!(is_there, "the file is in the body");
    }
}

#[tokio::test]
async fn an_unreadable_source_is_reported_and_not_retried() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Scripted::start([fine()]).await;
    let client = server.client().build().expect("a client");
    for path in [folder.path().join("missing.wav"), folder.path().to_owned()] {
        let error = client
            .transcribe(path, &options())
            .await
            .expect_err("no file");
        assert!(
            matches!(error, Error::Source(_)) && !error.is_retryable(),
            "{error:?}"
        );
    }
    assert_eq!(server.connections(), 0);
    let buffers = [
        Ok(Bytes::from_static(b"RIFF")),
        Err(io::Error::other("the disk is gone")),
    ];
    let error = client
        .transcribe(Audio::stream(stream::iter(buffers)), &options())
        .await;
    let error = error.expect_err("no audio");
    assert!(
        matches!(&error, Error::Source(why) if why.to_string() == "the disk is gone"),
        "{error:?}"
    );
    let short = Audio::reader(&b"RIFF"[..]).length(100);
    let error = client
        .transcribe(short, &options())
        .await
        .expect_err("less than said");
    assert!(matches!(error, Error::Source(_)), "{error:?}");
    assert_eq!(client.statistics().outcomes.not_sent, 4);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_stream_is_not_sent_again_after_some_of_it_was_sent() {
    let server = Scripted::start([json(503, "", "")]).await;
    let client = server.client().build().expect("a client");
    let error = client
        .transcribe(Audio::reader(&b"RIFF"[..]), &options())
        .await;
    let error = error.expect_err("failed");
    // The error is retryable for a caller that still has the audio.
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(server.requests().len(), 1);
    assert!(
        server.requests()[0]
            .head
            .contains("transfer-encoding: chunked")
    );
}

#[tokio::test]
async fn a_stream_of_which_nothing_was_sent_is_retried() {
    let address = refusing_address().await;
    let (up, came_up) = std::sync::mpsc::channel();
    let at = address.trim_start_matches("http://").to_owned();
    // The first attempt is refused; after it, a server listens.
    let hook = move |told: &uttera_stt_client::Attempt<'_>| {
        if told.attempt == 1 {
            let _ = up.send(std::net::TcpListener::bind(&at).expect("binds"));
        }
    };
    let up = std::sync::Mutex::new(hook);
    let hook = move |told: &uttera_stt_client::Attempt<'_>| (up.lock().expect("one"))(told);
    let client = client(&address).telemetry(hook).build().expect("a client");
    let call = tokio::spawn(async move {
        let audio = Audio::reader(&b"RIFF"[..]).length(4);
        client.transcribe(audio, &options()).await
    });
    let listener = tokio::task::spawn_blocking(move || came_up.recv()).await;
    let listener = listener.expect("runs").expect("came up");
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let server = Scripted::on(listener, [fine()]);
    assert_eq!(call.await.expect("ends").expect("a reply").text, "Hello.");
    assert!(server.requests()[0].form().contains("RIFF"));
}

#[tokio::test]
async fn the_client_reads_no_more_than_the_server_accepts() {
    const BUFFER: usize = 64 * 1024;
    let frozen = Frozen::clock();
    let server = Scripted::start([Act::HangAtHead]).await;
    let read = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&read);
    // 4 GB in total, if the server accepted all of it.
    let buffers = stream::iter((0..65_536).map(move |_| {
        count.fetch_add(BUFFER, Ordering::Relaxed);
        Ok(Bytes::from(vec![0_u8; BUFFER]))
    }));
    let client = server.client().attempt_timeout(Duration::from_secs(60));
    let client = client.build().expect("a client");
    let call =
        tokio::spawn(async move { client.transcribe(Audio::stream(buffers), &options()).await });
    let begun = || server.requests().len() == 1 && read.load(Ordering::Relaxed) >= BUFFER;
    until("the upload began", begun).await;
    // Each step lets the upload continue as far as possible.
    while !call.is_finished() {
        frozen.advance(10.0).await;
    }
    let error = call.await.expect("ends");
    assert!(
        matches!(error, Err(Error::Timeout { whole: false, .. })),
        "{error:?}"
    );
    // The sockets' buffers may hold this much.
    let read = read.load(Ordering::Relaxed);
    assert!(
        (BUFFER..32 * 1024 * 1024).contains(&read),
        "{read} bytes were read"
    );
}

#[tokio::test]
async fn a_rendered_reply_is_returned_unchanged() {
    let srt = "1\n00:00:00,000 --> 00:00:01,000\nHi\n";
    let server = Scripted::start([json(200, "", srt)]).await;
    let client = server.client().build().expect("a client");
    let speech = client.transcriptions();
    let format = ResponseFormat::Srt;
    let reply = speech
        .rendered(vec![1], format, &SpeechOptions::default())
        .await;
    assert_eq!(reply.expect("a reply"), srt);
    assert!(server.requests()[0].form().contains("srt"));
}
