//! Events that are wrong: each gets its error, and the session continues.

use test_support::realtime::tungstenite::Message;

use super::*;

/// An event, its error's code, and the field that the error names.
const WRONG: &str = r#"
[1] | invalid_type |
{} | missing_required_parameter | type
{"type": 1} | invalid_type | type
{"type": "input_audio_buffer.fill"} | unknown_event | type
{"type": "response.create"} | invalid_event | type
{"type": "response.cancel"} | invalid_event | type
{"type": "conversation.item.truncate"} | invalid_event | type
{"type": "input_audio_buffer.append"} | missing_required_parameter | audio
{"type": "input_audio_buffer.append", "audio": 7} | invalid_type | audio
{"type": "input_audio_buffer.append", "audio": "not base64!"} | invalid_value | audio
{"type": "input_audio_buffer.commit"} | input_audio_buffer_commit_empty |
{"type": "conversation.item.retrieve"} | missing_required_parameter | item_id
{"type": "conversation.item.retrieve", "item_id": "x"} | item_not_found | item_id
{"type": "conversation.item.delete", "item_id": "x"} | item_not_found | item_id
{"type": "session.update"} | missing_required_parameter | session
{"type": "session.update", "session": []} | invalid_type | session
"#;

/// A session of an update, the code, and the field within `session`.
const WRONG_SESSIONS: &str = r#"
{"type": "realtime"} | invalid_value | type
{"include": ["x"]} | invalid_value | include
{"audio": 1} | invalid_type | audio
{"input_audio_format": "mp3"} | invalid_value | input_audio_format
"#;

/// An input of an update, the code, and the field within `session.audio.input`.
const WRONG_INPUTS: &str = r#"
{"format": {"type": "audio/opus"}} | invalid_value | format.type
{"format": {"type": "audio/pcm", "rate": 7999}} | invalid_value | format.rate
{"format": {"type": "audio/pcmu", "rate": 16000}} | invalid_value | format.rate
{"turn_detection": {"type": "ears"}} | invalid_value | turn_detection.type
{"turn_detection": {"threshold": 1.1}} | invalid_value | turn_detection.threshold
{"turn_detection": {"type": "server_vad", "silence_duration_ms": "1"}} | invalid_type | turn_detection.silence_duration_ms
{"turn_detection": {"type": "server_vad", "prefix_padding_ms": 10001}} | invalid_value | turn_detection.prefix_padding_ms
{"turn_detection": {"type": "semantic_vad", "eagerness": "very"}} | invalid_value | turn_detection.eagerness
{"noise_reduction": {"type": "x"}} | invalid_value | noise_reduction.type
{"transcription": {"language": "klingon"}} | unsupported_language | transcription.language
{"transcription": {"languages": ["en", "klingon"]}} | unsupported_language | transcription.languages
{"transcription": {"keywords": "a"}} | invalid_type | transcription.keywords
{"transcription": {"keywords": ["a", 1]}} | invalid_type | transcription.keywords[1]
{"transcription": {"delay": "none"}} | invalid_value | transcription.delay
"#;

/// The events of these tables.
fn wrong_events() -> Vec<(Value, String, String)> {
    let rows = |table: &'static str| {
        table.lines().filter(|line| !line.is_empty()).map(|line| {
            let mut cells = line.rsplitn(3, '|').map(|cell| cell.trim().to_owned());
            let (param, code) = (
                cells.next().expect("a field"),
                cells.next().expect("a code"),
            );
            let event = serde_json::from_str(&cells.next().expect("an event"));
            (event.expect("JSON"), code, param)
        })
    };
    let update = |session| json!({"type": "session.update", "session": session});
    let sessions = rows(WRONG_SESSIONS)
        .map(|(session, code, param)| (update(session), code, format!("session.{param}")));
    let inputs = rows(WRONG_INPUTS).map(|(input, code, param)| {
        let session = json!({"audio": {"input": input}});
        (
            update(session),
            code,
            format!("session.audio.input.{param}"),
        )
    });
    let long = |value: String| json!({"audio": {"input": {"transcription": {"prompt": value}}}});
    let too_long = [
        (
            json!({"type": "input_audio_buffer.append", "audio": "A".repeat(15 * 1024 * 1024 + 1)}),
            "invalid_value".to_owned(),
            "audio".to_owned(),
        ),
        (
            update(long("x".repeat(20_000))),
            "invalid_value".to_owned(),
            "session.audio.input.transcription.prompt".to_owned(),
        ),
        (
            // A language that Whisper knows, and this model does not.
            update(json!({"audio": {"input": {"transcription": {"language": "de"}}}})),
            "unsupported_language".to_owned(),
            "language".to_owned(),
        ),
    ];
    rows(WRONG)
        .chain(sessions)
        .chain(inputs)
        .chain(too_long)
        .collect()
}

#[tokio::test]
async fn an_error_names_its_cause_and_the_session_continues() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    for (mut event, code, param) in wrong_events() {
        let has_id = event.is_object();
        if has_id {
            event["event_id"] = "mine".into();
        }
        client.send(event).await;
        let error = client.error().await;
        let found = (
            error["code"].as_str(),
            error["param"].as_str().unwrap_or_default(),
        );
        assert_eq!(found, (Some(code.as_str()), param.as_str()), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(
            error["event_id"].as_str(),
            has_id.then_some("mine"),
            "{error}"
        );
        assert!(!error["message"].as_str().expect("a text").is_empty());
    }
    client.send_message(Message::text("{")).await;
    assert_eq!(client.error().await["code"], "invalid_json");
    client.send_message(Message::binary(vec![1, 2])).await;
    assert_eq!(client.error().await["code"], "invalid_event");
    // None of them changed anything.
    client.append(&speech(COMMAND, 0)).await;
    client.commit().await;
    let (text, events) = client.turn().await;
    assert_alike(&text, &sample_text(COMMAND));
    let id = events.last().expect("one")["item_id"].clone();
    client
        .send(json!({"type": "conversation.item.retrieve", "item_id": id}))
        .await;
    let item = client.event("conversation.item.retrieved").await;
    assert_eq!(item["item"]["content"][0]["transcript"], text);
    client
        .send(json!({"type": "conversation.item.delete", "item_id": id}))
        .await;
    assert_eq!(
        client.event("conversation.item.deleted").await["item_id"],
        id
    );
}
