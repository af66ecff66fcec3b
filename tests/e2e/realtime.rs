//! Realtime transcription of a real server with a real model.

mod access;
mod ends;
mod errors;

use serde_json::{Value, json};
use test_support::realtime::{Realtime, TRANSCRIPTION, converted, speech};
use test_support::wer::assert_alike;
use test_support::{Server, model, sample_text};

const PATH: &str = "/v1/realtime?intent=transcription";
const SENTENCE: &str = "en-sentence.wav";
const COMMAND: &str = "en-command.wav";

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["type"].as_str());
    let mut kinds: Vec<&str> = kinds.map(|kind| kind.expect("a type")).collect();
    kinds.dedup();
    kinds
}

async fn no_session_is_left(server: &Server) {
    let none = || async { server.metric("uttera_stt_live_sessions").await == 0.0 };
    server.until("no session is left", none).await;
}

#[tokio::test]
async fn turns_that_the_server_detects() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::connect(&server, PATH, &[])
        .await
        .expect("connects");
    let created = client.event("session.created").await;
    let session = &created["session"];
    assert_eq!(session["type"], "transcription");
    assert_eq!(session["object"], "realtime.transcription_session");
    assert!(session["id"].as_str().expect("an id").starts_with("sess_"));
    let input = &session["audio"]["input"];
    assert_eq!(
        input["format"],
        json!({"type": "audio/pcm", "rate": 24_000})
    );
    assert_eq!(input["transcription"]["model"], "tiny.en");
    assert_eq!(
        input["turn_detection"],
        json!({"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500})
    );
    client.configure(json!({})).await;
    client.append(&speech(SENTENCE, 1500)).await;
    let (text, events) = client.turn().await;
    assert_alike(&text, &sample_text(SENTENCE));
    let kinds = kinds(&events);
    let of_turn: Vec<&str> = (kinds.iter().copied())
        .filter(|kind| !kind.ends_with("transcription.delta"))
        .collect();
    let completed = format!("{TRANSCRIPTION}.completed");
    let expected = [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        completed.as_str(),
    ];
    assert_eq!(of_turn, expected, "{kinds:?}");
    let find = |kind: &str| {
        events
            .iter()
            .find(|event| event["type"] == kind)
            .expect("an event")
    };
    let started = find("input_audio_buffer.speech_started");
    let stopped = find("input_audio_buffer.speech_stopped");
    let added = find("conversation.item.added");
    let ids = [
        started,
        stopped,
        find("input_audio_buffer.committed"),
        find(&completed),
    ];
    assert!(
        ids.iter()
            .all(|event| event["item_id"] == added["item"]["id"]),
        "{events:?}"
    );
    assert!(started["audio_start_ms"].as_u64() < stopped["audio_end_ms"].as_u64());
    assert!(added["previous_item_id"].is_null());
    assert_eq!(added["item"]["content"][0]["type"], "input_audio");
    let done = find(&completed);
    assert_eq!(done["usage"]["type"], "duration");
    assert!(done["usage"]["seconds"].as_f64() >= Some(5.0), "{done}");
    assert_eq!(done["languages"], json!([{"code": "en"}]));
    assert!(done.get("logprobs").is_none());
    // The next turn follows the first one.
    client.append(&speech(COMMAND, 1500)).await;
    let (text, events) = client.turn().await;
    assert_alike(&text, &sample_text(COMMAND));
    let committed = events
        .iter()
        .find(|event| event["type"] == "input_audio_buffer.committed")
        .expect("an event");
    assert_eq!(committed["previous_item_id"], added["item"]["id"]);
    client.cut();
    no_session_is_left(&server).await;
    let turns = "uttera_stt_live_turns_total{protocol=\"realtime\",outcome=\"completed\"}";
    assert!(server.metric(turns).await > 1.0);
    assert!(
        server
            .metric("uttera_stt_audio_seconds_total{endpoint=\"/v1/realtime\",route=\"HOT\"}")
            .await
            > 5.0
    );
    server.log_line("realtime session ended").await;
}

#[tokio::test]
async fn turns_that_the_client_ends_and_all_formats() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    // Text comes as the client speaks, but nothing else.
    client.append(&speech(SENTENCE, 0)).await;
    client.commit().await;
    let (text, events) = client.turn().await;
    assert_alike(&text, &sample_text(SENTENCE));
    assert!(
        !kinds(&events).iter().any(|kind| kind.contains("speech")),
        "{events:?}"
    );
    // A turn of silence has an empty text.
    client.append(&vec![0; 16_000]).await;
    client.commit().await;
    let (text, events) = client.turn().await;
    assert_eq!(text, "");
    assert_eq!(
        kinds(&events)[..3],
        [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ]
    );
    // What was cleared is not transcribed, and cannot be committed.
    client.append(&speech(SENTENCE, 0)).await;
    client
        .send(json!({"type": "input_audio_buffer.clear"}))
        .await;
    client.until("input_audio_buffer.cleared").await;
    client.commit().await;
    // Text of before the session cleared its audio may still come.
    let events = client.until("error").await;
    let deltas = &events[..events.len() - 1];
    assert!(
        (deltas.iter()).all(|event| event["type"] == format!("{TRANSCRIPTION}.delta")),
        "{events:?}"
    );
    let error = &events.last().expect("it is there")["error"];
    assert_eq!(error["code"], "input_audio_buffer_commit_empty");
    for (format, bytes) in [
        (
            json!({"type": "audio/pcm", "rate": 24_000}),
            converted(COMMAND, 24_000, "s16le"),
        ),
        (
            json!({"type": "audio/pcm", "rate": 48_000}),
            converted(COMMAND, 48_000, "s16le"),
        ),
        (
            json!({"type": "audio/pcm", "rate": 8000}),
            converted(COMMAND, 8000, "s16le"),
        ),
        (
            json!({"type": "audio/pcmu"}),
            converted(COMMAND, 8000, "mulaw"),
        ),
        (
            json!({"type": "audio/pcma"}),
            converted(COMMAND, 8000, "alaw"),
        ),
    ] {
        let reported = client.configure(json!({"format": format})).await;
        assert_eq!(reported["audio"]["input"]["format"], format);
        client.append(&bytes).await;
        client.commit().await;
        let (text, _) = client.turn().await;
        assert_alike(&text, &sample_text(COMMAND));
    }
}

#[tokio::test]
async fn turns_that_end_with_a_sentence() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let turns = json!({"type": "semantic_vad", "eagerness": "low"});
    let mut client = Realtime::session(&server, turns.clone()).await;
    let session = client
        .configure(json!({"noise_reduction": {"type": "near_field"}}))
        .await;
    let input = &session["audio"]["input"];
    assert_eq!(input["turn_detection"], turns);
    assert_eq!(input["noise_reduction"], json!({"type": "near_field"}));
    // Its text ends with a full stop, so that no silence of eight seconds is needed.
    client.append(&speech(COMMAND, 400)).await;
    server.log_line("a whole sentence").await;
    client.append(&vec![0; 16 * 2 * 600]).await;
    client.until("input_audio_buffer.speech_stopped").await;
    client.until(&format!("{TRANSCRIPTION}.completed")).await;
}

#[tokio::test]
async fn the_shape_of_the_beta() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let beta = [("openai-beta", "realtime=v1")];
    let mut client = Realtime::connect(&server, PATH, &beta)
        .await
        .expect("connects");
    let created = client.event("transcription_session.created").await;
    assert_eq!(created["session"]["input_audio_format"], "pcm16");
    assert_eq!(created["session"]["turn_detection"]["type"], "server_vad");
    let session = json!({
        "input_audio_format": "g711_ulaw",
        "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": ""},
        "turn_detection": {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 700},
        "input_audio_noise_reduction": {"type": "far_field"},
        "include": ["item.input_audio_transcription.logprobs"],
    });
    client
        .send(json!({"type": "transcription_session.update", "session": session}))
        .await;
    let updated = client.event("transcription_session.updated").await;
    let updated = &updated["session"];
    assert_eq!(updated["input_audio_format"], "g711_ulaw");
    assert_eq!(
        updated["input_audio_transcription"]["model"],
        "gpt-4o-transcribe"
    );
    assert_eq!(updated["turn_detection"]["prefix_padding_ms"], 300);
    assert_eq!(updated["input_audio_noise_reduction"]["type"], "far_field");
    client.append(&converted(COMMAND, 8000, "mulaw")).await;
    let (text, events) = client.turn().await;
    assert_alike(&text, &sample_text(COMMAND));
    let kinds = kinds(&events);
    assert!(kinds.contains(&"conversation.item.created"), "{kinds:?}");
    assert!(!kinds.contains(&"conversation.item.added"), "{kinds:?}");
    let done = events.last().expect("one");
    let tokens = done["logprobs"].as_array().expect("a list");
    let bytes = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().expect("a list"));
    let bytes: Vec<u8> = bytes
        .map(|byte| byte.as_u64().expect("a byte") as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).expect("UTF-8").trim(), text);
    // The name of an event decides as well.
    client
        .send(json!({"type": "session.update", "session": {"type": "transcription"}}))
        .await;
    let updated = client.event("session.updated").await;
    assert_eq!(
        updated["session"]["audio"]["input"]["format"]["type"],
        "audio/pcmu"
    );
}
