//! `stream=true` on a real server: short clips, long files, waiting, failing, leaving.

use std::process::Command;

use reqwest::Response;
use serde_json::Value;
use test_support::events::{Events, Line};
use test_support::wer::Score;
use test_support::{Server, checks, form, model, sample, sample_text, signal, words};

const STREAM: (&str, &str) = ("stream", "true");

async fn text(response: Response) -> String {
    let body: Value = response.json().await.expect("JSON");
    body["text"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn streams_of_an_undisturbed_server() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    checks! {
        &server;
        the_deltas_of_a_short_clip_are_the_text_of_a_plain_reply,
        a_short_compressed_clip_is_one_chunk,
        segments_and_the_progress_are_events_if_they_are_asked_for,
        silence_is_no_delta_and_an_empty_text,
        a_failure_before_the_first_word_has_the_status_of_a_plain_reply,
        a_format_that_cannot_be_streamed_arrives_as_a_plain_reply,
        the_text_of_a_long_file_streams_while_most_of_it_is_waiting,
        a_client_that_leaves_a_stream_cancels_its_work,
    }
}

async fn the_deltas_of_a_short_clip_are_the_text_of_a_plain_reply(server: &Server) {
    for (name, formats) in [
        ("en-command.wav", &["json", "text"][..]),
        ("en-sentence.wav", &["json"]),
        ("en-long.ogg", &["text"]),
    ] {
        for format in formats {
            let fields = [STREAM, ("response_format", *format)];
            let response = server.transcribe(&sample(name), &fields).await;
            assert_eq!(response.headers()["x-route"], "HOT");
            assert_eq!(response.headers()["cache-control"], "no-cache");
            assert!(response.headers().contains_key("x-request-id"));
            let (deltas, done) = Events::of(response).rest().await;
            assert_eq!(deltas.concat(), done["text"], "{name}");
            assert_eq!(done["x_route"], "HOT");
            assert_eq!(done["usage"]["type"], "duration");
            let said = done["text"].as_str().expect("text");
            let wrong = Score::of(&sample_text(name), said).rate();
            // The chunks of the long sample are as short as the machine is slow.
            let most = if name == "en-long.ogg" { 0.2 } else { 0.1 };
            assert!(wrong <= most, "{name}: {said}");
        }
    }
    let requests = r#"uttera_stt_transcriptions_total{response_format="text"}"#;
    assert!((server.metric(requests).await - 2.0).abs() < 1e-9);
}

async fn segments_and_the_progress_are_events_if_they_are_asked_for(server: &Server) {
    let fields = [
        STREAM,
        ("include[]", "segments"),
        ("timestamp_granularities[]", "word"),
    ];
    let response = server.transcribe(&sample("en-long.ogg"), &fields).await;
    let mut events = Events::of(response);
    let (mut deltas, mut segments, mut progress) = (String::new(), Vec::new(), Vec::new());
    let done = loop {
        let Some(Line::Event(event)) = events.event().await else {
            panic!("the last event is missing");
        };
        match event["type"].as_str() {
            Some("transcript.text.delta") => deltas += event["delta"].as_str().expect("a text"),
            Some("transcript.text.segment") => segments.push(event),
            Some("transcript.progress") => progress.push(event),
            Some("transcript.text.done") => break event,
            _ => panic!("{event}"),
        }
    };
    let number = |value: &Value| value.as_f64().expect("a number");
    let duration = number(&done["duration"]);
    let joined: String = (segments.iter())
        .map(|segment| segment["text"].as_str().expect("a text"))
        .collect();
    assert_eq!(joined.trim(), deltas);
    assert_eq!(done["text"], deltas);
    let starts: Vec<f64> = segments.iter().map(|one| number(&one["start"])).collect();
    assert!(starts.len() > 1 && starts.is_sorted(), "{starts:?}");
    for segment in &segments {
        let spoken = segment["words"].as_array().expect("words");
        let said: Vec<&str> = spoken
            .iter()
            .map(|word| word["word"].as_str().expect("a word"))
            .collect();
        let text = segment["text"].as_str().expect("a text");
        assert_eq!(words(&said.join(" ")), words(text));
        for word in spoken {
            let probability = number(&word["probability"]);
            assert!(probability > 0.0 && probability <= 1.0, "{word}");
            assert!(number(&word["start"]) <= number(&word["end"]), "{word}");
        }
        assert!(
            number(&segment["end"]) <= duration,
            "{segment} of {duration}"
        );
    }
    let parts: Vec<f64> = (progress.iter())
        .map(|part| number(&part["seconds_done"]))
        .collect();
    assert!(parts.is_sorted(), "{parts:?}");
    let last = progress.last().expect("the progress");
    assert!(
        (number(&last["seconds_done"]) - duration).abs() < 0.01,
        "{last}"
    );
    assert_eq!(done["language"], "english");
    assert_eq!(done["model"], "tiny.en");
    assert_eq!(done["removed"], serde_json::json!([]));
}

async fn a_short_compressed_clip_is_one_chunk(server: &Server) {
    // One that states its length, and one that does not.
    for (name, arguments) in [("short.mp3", "-b:a 64k"), ("short.webm", "-live 1")] {
        let path = server.folder().join(name);
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-i"])
            .arg(sample("en-sentence.wav"))
            .args(arguments.split_whitespace())
            .arg(&path)
            .status();
        assert!(made.expect("ffmpeg runs").success());
        let before = server.chunks_handed_out();
        let (deltas, done) = Events::of(server.transcribe(&path, &[STREAM]).await)
            .rest()
            .await;
        assert_eq!(server.chunks_handed_out() - before, 1, "{name}: {deltas:?}");
        let plain = text(server.transcribe(&path, &[]).await).await;
        assert_eq!(done["text"], plain, "{name}");
    }
}

async fn silence_is_no_delta_and_an_empty_text(server: &Server) {
    let path = server.folder().join("silent.wav");
    let status = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "anullsrc=r=16000:cl=mono",
            "-t",
            "20",
        ])
        .arg(&path)
        .status();
    assert!(status.expect("ffmpeg runs").success());
    let response = server.transcribe(&path, &[STREAM]).await;
    let (deltas, done) = Events::of(response).rest().await;
    assert!(deltas.is_empty(), "{deltas:?}");
    assert_eq!(
        (&done["text"], &done["usage"]["seconds"]),
        (&"".into(), &20.into())
    );
}

async fn the_text_of_a_long_file_streams_while_most_of_it_is_waiting(server: &Server) {
    let times = 3;
    let file = server.long_file(times);
    let mut events = Events::of(server.transcribe(&file, &[STREAM]).await);
    let first = events.event().await;
    let health = server.health().await;
    let left = health["smart_routing"]["queue_audio_seconds"].as_f64();
    assert!(left > Some(45.0), "{left:?} s were left at {first:?}");
    let Some(Line::Event(first)) = first else {
        panic!("{first:?}")
    };
    let begun = words(first["delta"].as_str().expect("text"));
    let expected = words(&sample_text("en-long.ogg"));
    assert!(expected.starts_with(&begun[..3]), "{begun:?}");
    let (deltas, done) = events.rest().await;
    assert!(deltas.len() > 10, "{} deltas", deltas.len());
    let whole = first["delta"].as_str().expect("text").to_owned() + &deltas.concat();
    assert_eq!(whole, done["text"]);
    let said = words(&whole).len();
    let expected = times as usize * expected.len();
    assert!(
        said.abs_diff(expected) * 10 < expected,
        "{said} of {expected}"
    );
}

#[tokio::test]
async fn a_clip_is_streamed_while_another_lane_works_on_a_long_file() {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = server.long_file(2);
    let long = server.transcribe(&file, &[]);
    let clips = async {
        server.until_a_lane_has_work().await;
        for _ in 0..3 {
            let response = server
                .transcribe(&sample("en-command.wav"), &[STREAM])
                .await;
            let route = response.headers()["x-route"].clone();
            let (deltas, done) = Events::of(response).rest().await;
            assert_eq!(
                words(&deltas.concat()),
                words(&sample_text("en-command.wav"))
            );
            assert_eq!(done["x_route"], route.to_str().expect("ASCII"));
        }
    };
    let (long, ()) = tokio::join!(long, clips);
    assert_eq!(long.status(), 200);
}

async fn a_failure_before_the_first_word_has_the_status_of_a_plain_reply(server: &Server) {
    let broken = server.folder().join("broken.wav");
    std::fs::write(&broken, b"this is no audio").expect("writes");
    let refused = server.transcribe(&broken, &[STREAM]).await;
    assert_eq!(refused.status(), 400);
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "audio_decode_error");
}

async fn a_format_that_cannot_be_streamed_arrives_as_a_plain_reply(server: &Server) {
    for (format, kind) in [
        ("verbose_json", "application/json"),
        ("srt", "application/x-subrip"),
        ("vtt", "text/vtt"),
    ] {
        let fields = [STREAM, ("response_format", format)];
        let plain = server.transcribe(&sample("en-command.wav"), &fields).await;
        assert_eq!(plain.status(), 200);
        let found = plain.headers()["content-type"].to_str().expect("ASCII");
        assert!(found.starts_with(kind), "{format}: {found}");
        let text = plain.text().await.expect("a body");
        assert!(
            text.contains("kitchen light") && !text.contains("data:"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_failure_in_the_middle_is_an_event_and_the_server_goes_on() {
    // A stopped worker is given up after some seconds, and the chunk after the second time.
    let settings = [("COLD_LANE_TIMEOUT_SECONDS", "8")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let file = server.long_file(10);
    let mut events = Events::of(server.transcribe(&file, &[STREAM]).await);
    assert!(matches!(events.event().await, Some(Line::Event(_))));
    let failing = async {
        loop {
            match events.event().await.expect("an error before the end") {
                Line::Event(event) if event["error"].is_object() => return event,
                Line::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let stopping = async {
        loop {
            server.until_a_lane_has_work().await;
            for worker in server.workers() {
                signal(worker, "STOP");
            }
        }
    };
    let failed = tokio::select! {
        failed = failing => failed,
        () = stopping => unreachable!(),
    };
    assert_eq!(failed["error"]["code"], "timeout", "{failed}");
    let error = failed["error"].as_object().expect("an object");
    let keys: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"]);
    assert_eq!(events.next().await, None);
    let errors = r#"uttera_stt_errors_total{type="timeout"}"#;
    assert!((server.metric(errors).await - 1.0).abs() < 1e-9);
    let again = || async {
        let response = server.transcribe(&sample("en-command.wav"), &[]).await;
        response.status() == 200
    };
    server.until("it transcribes again", again).await;
}

#[tokio::test]
async fn comments_keep_an_idle_stream_open() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = sample("en-long.ogg");
    let mut events = Events::of(server.transcribe(&file, &[STREAM]).await);
    assert!(matches!(events.event().await, Some(Line::Event(_))));
    let workers = server.workers();
    for worker in &workers {
        signal(*worker, "STOP");
    }
    loop {
        match events.next().await.expect("goes on") {
            Line::Comment(comment) => {
                assert_eq!(comment, "ping");
                break;
            }
            Line::Event(_) => {}
            Line::Done => panic!("done"),
        }
    }
    for worker in &workers {
        signal(*worker, "CONT");
    }
    let (rest, done) = events.rest().await;
    assert!(!rest.is_empty() && !done["text"].as_str().expect("text").is_empty());
}

async fn a_client_that_leaves_a_stream_cancels_its_work(server: &Server) {
    let file = server.long_file(10);
    let mut events = Events::of(server.transcribe(&file, &[STREAM]).await);
    assert!(matches!(events.event().await, Some(Line::Event(_))));
    drop(events);
    let gone = || async {
        let health = server.health().await;
        health["smart_routing"]["queue_audio_seconds"] == 0.0
    };
    server.until("nothing of it is left", gone).await;
    let left = r#"uttera_stt_requests_total{endpoint="/v1/audio/transcriptions",method="POST",status="499"}"#;
    let counted = || async { (server.metric(left).await - 1.0).abs() < 1e-9 };
    server.until("it is counted", counted).await;
    let before = server.chunks_handed_out();
    let found = text(server.transcribe(&sample("en-command.wav"), &[]).await).await;
    assert_eq!(words(&found), words(&sample_text("en-command.wav")));
    assert_eq!(server.chunks_handed_out() - before, 1);
}

#[tokio::test]
async fn translations_are_streamed_as_well() {
    let server = Server::ready(&model("base").await, &[]).await;
    let asked = form(&sample("de-sentence.wav"), &[STREAM]);
    let response = server.post("/v1/audio/translations", asked).await;
    let (deltas, done) = Events::of(response).rest().await;
    assert_eq!(deltas.concat(), done["text"]);
    assert!(
        words(&deltas.concat()).contains(&"berlin".to_owned()),
        "{deltas:?}"
    );
}
