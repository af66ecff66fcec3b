//! Realtime transcription of a real server with a real model.

use serde_json::{Value, json};
use test_support::realtime::tungstenite::Message;
use test_support::realtime::tungstenite::protocol::CloseFrame;
use test_support::realtime::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use test_support::realtime::tungstenite::protocol::frame::{Frame, FrameHeader};
use test_support::realtime::{Realtime, TRANSCRIPTION, converted, speech};
use test_support::wer::assert_alike;
use test_support::{Server, lives, model, refused, sample, sample_text, signal};

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
    assert_eq!(
        server
            .metric("uttera_stt_live_turns_total{outcome=\"completed\"}")
            .await,
        2.0
    );
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
    assert_eq!(
        client.error().await["code"],
        "input_audio_buffer_commit_empty"
    );
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
    client.append(&speech(COMMAND, 0)).await;
    // Its text ends with a full stop, so that no silence of eight seconds is needed.
    let mut silence = 0;
    let mut has_stopped = false;
    while !has_stopped && silence < 60 {
        silence += 1;
        client.append(&[0; 3200]).await;
        client
            .send(json!({"type": "conversation.item.retrieve", "item_id": "none"}))
            .await;
        has_stopped = loop {
            let event = client.next().await;
            if event["type"] == "error" {
                break false;
            }
            if event["type"] == "input_audio_buffer.speech_stopped" {
                break true;
            }
        };
    }
    assert!(has_stopped);
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

#[tokio::test]
async fn an_error_names_its_cause_and_the_session_continues() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    let update = |field: &str, value: Value| {
        let mut event = json!({"type": "session.update", "session": {"audio": {"input": {}}}});
        let mut place = &mut event["session"];
        for name in field.split('.') {
            place = &mut place[name];
        }
        *place = value;
        event
    };
    let append = |audio: Value| json!({"type": "input_audio_buffer.append", "audio": audio});
    for (event, code, param) in [
        (json!([1]), "invalid_type", Some("")),
        (json!({}), "missing_required_parameter", Some("type")),
        (json!({"type": 1}), "invalid_type", Some("type")),
        (
            json!({"type": "input_audio_buffer.fill"}),
            "unknown_event",
            Some("type"),
        ),
        (
            json!({"type": "response.create"}),
            "invalid_event",
            Some("type"),
        ),
        (
            json!({"type": "response.cancel"}),
            "invalid_event",
            Some("type"),
        ),
        (
            json!({"type": "conversation.item.truncate"}),
            "invalid_event",
            Some("type"),
        ),
        (
            json!({"type": "input_audio_buffer.append"}),
            "missing_required_parameter",
            Some("audio"),
        ),
        (append(json!(7)), "invalid_type", Some("audio")),
        (append(json!("not base64!")), "invalid_value", Some("audio")),
        (
            append(json!("A".repeat(15 * 1024 * 1024 + 1))),
            "invalid_value",
            Some("audio"),
        ),
        (
            json!({"type": "input_audio_buffer.commit"}),
            "input_audio_buffer_commit_empty",
            None,
        ),
        (
            json!({"type": "conversation.item.retrieve"}),
            "missing_required_parameter",
            Some("item_id"),
        ),
        (
            json!({"type": "conversation.item.retrieve", "item_id": "x"}),
            "item_not_found",
            Some("item_id"),
        ),
        (
            json!({"type": "conversation.item.delete", "item_id": "x"}),
            "item_not_found",
            Some("item_id"),
        ),
        (
            json!({"type": "session.update"}),
            "missing_required_parameter",
            Some("session"),
        ),
        (
            json!({"type": "session.update", "session": []}),
            "invalid_type",
            Some("session"),
        ),
        (
            update("type", json!("realtime")),
            "invalid_value",
            Some("session.type"),
        ),
        (
            update("include", json!(["x"])),
            "invalid_value",
            Some("session.include"),
        ),
        (
            update("audio", json!(1)),
            "invalid_type",
            Some("session.audio"),
        ),
        (
            update("audio.input.format", json!({"type": "audio/opus"})),
            "invalid_value",
            Some("session.audio.input.format.type"),
        ),
        (
            update(
                "audio.input.format",
                json!({"type": "audio/pcm", "rate": 7999}),
            ),
            "invalid_value",
            Some("session.audio.input.format.rate"),
        ),
        (
            update(
                "audio.input.format",
                json!({"type": "audio/pcmu", "rate": 16_000}),
            ),
            "invalid_value",
            Some("session.audio.input.format.rate"),
        ),
        (
            update("audio.input.turn_detection", json!({"type": "ears"})),
            "invalid_value",
            Some("session.audio.input.turn_detection.type"),
        ),
        (
            update("audio.input.turn_detection", json!({"threshold": 1.1})),
            "invalid_value",
            Some("session.audio.input.turn_detection.threshold"),
        ),
        (
            update(
                "audio.input.turn_detection",
                json!({"silence_duration_ms": "1"}),
            ),
            "invalid_type",
            Some("session.audio.input.turn_detection.silence_duration_ms"),
        ),
        (
            update(
                "audio.input.turn_detection",
                json!({"type": "semantic_vad", "eagerness": "very"}),
            ),
            "invalid_value",
            Some("session.audio.input.turn_detection.eagerness"),
        ),
        (
            update("audio.input.noise_reduction", json!({"type": "x"})),
            "invalid_value",
            Some("session.audio.input.noise_reduction.type"),
        ),
        (
            update("audio.input.transcription", json!({"language": "klingon"})),
            "unsupported_language",
            Some("session.audio.input.transcription.language"),
        ),
        (
            update("audio.input.transcription", json!({"language": "de"})),
            "unsupported_language",
            Some("language"),
        ),
        (
            update("audio.input.transcription", json!({"keywords": "a"})),
            "invalid_type",
            Some("session.audio.input.transcription.keywords"),
        ),
        (
            update(
                "audio.input.transcription",
                json!({"prompt": "x".repeat(20_000)}),
            ),
            "invalid_value",
            Some("session.audio.input.transcription.prompt"),
        ),
        (
            update("audio.input.transcription", json!({"delay": "none"})),
            "invalid_value",
            Some("session.audio.input.transcription.delay"),
        ),
    ] {
        let mut event = event;
        if event.is_object() {
            event["event_id"] = "mine".into();
        }
        let is_object = event.is_object();
        client.send(event).await;
        let error = client.error().await;
        assert_eq!(
            (error["code"].as_str(), error["param"].as_str()),
            (Some(code), param),
            "{error}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(
            error["event_id"].as_str(),
            is_object.then_some("mine"),
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

#[tokio::test]
async fn keys_in_headers_in_sub_protocols_and_ephemeral_ones() {
    let settings = [("API_KEYS", "sesame"), ("MAX_LIVE_SESSIONS", "8")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for headers in [
        vec![],
        vec![("authorization", "Bearer wrong")],
        vec![(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.wrong",
        )],
        vec![("authorization", "Bearer ek_wrong")],
    ] {
        let refused = Realtime::connect(&server, PATH, &headers).await.err();
        let refused = refused.expect("it is refused");
        assert_eq!(
            (refused.status, &refused.body["error"]["code"]),
            (401, &json!("invalid_api_key"))
        );
    }
    let bearer = ("authorization", "Bearer sesame");
    let client = Realtime::connect(&server, PATH, &[bearer])
        .await
        .expect("connects");
    assert_eq!(client.protocol, None);
    let offered = "realtime,openai-insecure-api-key.sesame";
    // A page with a key may come from anywhere.
    let page = [
        ("sec-websocket-protocol", offered),
        ("origin", "https://example.org"),
    ];
    let client = Realtime::connect(&server, "//v1/realtime/", &page)
        .await
        .expect("connects");
    assert_eq!(client.protocol.as_deref(), Some("realtime"));
    let offered = "openai-insecure-api-key.sesame, openai-beta.realtime-v1";
    let page = [("sec-websocket-protocol", offered)];
    let mut client = Realtime::connect(&server, PATH, &page)
        .await
        .expect("connects");
    assert_eq!(client.protocol.as_deref(), Some("openai-beta.realtime-v1"));
    client.event("transcription_session.created").await;

    let make = async |path: &str, key: &str, body: Value| {
        let request = server
            .client
            .post(format!("{}/v1/realtime/{path}", server.url));
        let response = request
            .bearer_auth(key)
            .json(&body)
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response.json::<Value>().await.expect("JSON"),
        )
    };
    let body = json!({
        "expires_after": {"anchor": "created_at", "seconds": 7200},
        "session": {"type": "transcription", "audio": {"input": {"turn_detection": null, "format": {"type": "audio/pcma"}}}},
    });
    let (status, made) = make("client_secrets", "sesame", body).await;
    assert_eq!(status, 200, "{made}");
    let value = made["value"].as_str().expect("a key").to_owned();
    assert!(made["expires_at"].as_u64() > Some(1_700_000_000));
    assert!(made["session"]["audio"]["input"]["turn_detection"].is_null());
    let protocols = format!("realtime, openai-insecure-api-key.{value}");
    let page = [("sec-websocket-protocol", protocols.as_str())];
    let mut client = Realtime::connect(&server, "/v1/realtime", &page)
        .await
        .expect("connects");
    let session = client.event("session.created").await;
    assert_eq!(
        session["session"]["audio"]["input"]["format"]["type"],
        "audio/pcma"
    );
    client.append(&converted(COMMAND, 8000, "alaw")).await;
    client.commit().await;
    assert_alike(&client.turn().await.0, &sample_text(COMMAND));
    let session = json!({"input_audio_format": "g711_ulaw"});
    let (status, made) = make("transcription_sessions", "sesame", session).await;
    assert_eq!(
        (status, &made["input_audio_format"]),
        (200, &json!("g711_ulaw"))
    );
    let key = made["client_secret"]["value"].as_str().expect("a key");
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let mut client = Realtime::connect(&server, PATH, &headers)
        .await
        .expect("connects");
    let created = client.event("transcription_session.created").await;
    assert_eq!(created["session"]["input_audio_format"], "g711_ulaw");
    // An ephemeral key opens nothing else.
    let (status, _) = make("client_secrets", &value, json!({})).await;
    assert_eq!(status, 401);
    assert_eq!(
        server
            .transcribe_with(&value, &sample(COMMAND))
            .await
            .status(),
        401
    );
    for (body, code, param) in [
        (
            json!({"expires_after": {"seconds": 9}}),
            "invalid_value",
            Some("expires_after.seconds"),
        ),
        (
            json!({"expires_after": {"anchor": "now"}}),
            "invalid_value",
            Some("expires_after.anchor"),
        ),
        (
            json!({"session": {"type": "realtime"}}),
            "invalid_value",
            Some("session.type"),
        ),
        (json!([]), "malformed_body", None),
    ] {
        let (status, error) = make("client_secrets", "sesame", body).await;
        let error = &error["error"];
        assert_eq!(
            (status, error["code"].as_str(), error["param"].as_str()),
            (400, Some(code), param)
        );
    }
    let secrets = server
        .log()
        .iter()
        .any(|line| line.contains(&value) || line.contains("sesame"));
    assert!(!secrets, "the log has a key");
}

#[tokio::test]
async fn without_keys_only_pages_of_allowed_origins_connect() {
    let settings = [("CORS_ALLOW_ORIGINS", "https://good.example")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let refused = Realtime::connect(&server, PATH, &[("origin", origin)]).await;
        let refused = refused.err().expect("it is refused");
        assert_eq!(
            (refused.status, &refused.body["error"]["code"]),
            (403, &json!("origin_not_allowed"))
        );
    }
    for origin in ["https://good.example", &server.url] {
        let client = Realtime::connect(&server, PATH, &[("origin", origin)]).await;
        client.expect("connects").event("session.created").await;
    }
    let plain = server.get("/v1/realtime").await;
    assert_eq!(plain.headers()["upgrade"], "websocket");
    refused(plain, 426, "upgrade_required", None).await;
}

#[tokio::test]
async fn audio_counts_and_nothing_is_taken_beyond_the_allowance() {
    let settings = [("API_KEYS", "sesame"), ("MAX_AUDIO_SECONDS_PER_DAY", "5")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let bearer = [("authorization", "Bearer sesame")];
    let mut client = Realtime::connect(&server, PATH, &bearer)
        .await
        .expect("connects");
    client.event("session.created").await;
    client.configure(json!({"turn_detection": null})).await;
    client.append(&speech(SENTENCE, 0)).await;
    client.commit().await;
    client.turn().await;
    let used = server
        .metric("uttera_stt_key_audio_seconds_total{key=\"key-1\"}")
        .await;
    assert!((5.0..9.0).contains(&used), "{used}");
    client.append(&speech(COMMAND, 0)).await;
    // It is told once.
    let error = client.error().await;
    assert_eq!(
        (error["code"].as_str(), error["type"].as_str()),
        (Some("insufficient_quota"), Some("insufficient_quota"))
    );
    client.commit().await;
    assert_eq!(
        client.error().await["code"],
        "input_audio_buffer_commit_empty"
    );
    let refused = Realtime::connect(&server, PATH, &bearer)
        .await
        .err()
        .expect("it is refused");
    assert_eq!(
        (refused.status, &refused.body["error"]["code"]),
        (429, &json!("insufficient_quota"))
    );
}

#[tokio::test]
async fn there_is_a_limit_on_sessions_and_a_cut_connection_leaves_none() {
    let settings = [("MAX_LIVE_SESSIONS", "1")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let audio = speech(SENTENCE, 1500);
    for stage in 0..6 {
        let mut client = Realtime::session(&server, json!({"type": "server_vad"})).await;
        let full = Realtime::connect(&server, PATH, &[])
            .await
            .err()
            .expect("it is refused");
        assert_eq!(
            (full.status, &full.body["error"]["code"]),
            (503, &json!("overloaded"))
        );
        match stage {
            0 => {}
            1 => client.append(&audio[..16_000]).await,
            2 => {
                client.append(&audio[..64_000]).await;
                client.until("input_audio_buffer.speech_started").await;
            }
            3 => {
                client.append(&audio).await;
                client.until("input_audio_buffer.committed").await;
            }
            // In the middle of a frame.
            4 => {
                client
                    .send_message(Message::Frame(Frame::from_payload(
                        FrameHeader {
                            opcode: OpCode::Data(Data::Text),
                            is_final: false,
                            ..FrameHeader::default()
                        },
                        vec![b'{'].into(),
                    )))
                    .await
            }
            _ => {
                client.append(&audio).await;
                client.turn().await;
            }
        }
        client.cut();
        no_session_is_left(&server).await;
    }
    // One that is closed as it should be gets an answer.
    let mut client = Realtime::session(&server, Value::Null).await;
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "done".into(),
    };
    client.send_message(Message::Close(Some(frame))).await;
    assert_eq!(client.closed().await.0, 1000);
    no_session_is_left(&server).await;
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_and_pieces_are_joined() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    let text = json!({"type": "input_audio_buffer.clear"}).to_string();
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(5).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = if index == 0 {
            Data::Text
        } else {
            Data::Continue
        };
        let header = FrameHeader {
            opcode: OpCode::Data(opcode),
            is_final: index + 1 == pieces.len(),
            ..FrameHeader::default()
        };
        let frame = Frame::from_payload(header, piece.to_vec().into());
        client.send_message(Message::Frame(frame)).await;
        client.send_message(Message::Ping(vec![1].into())).await;
    }
    client.event("input_audio_buffer.cleared").await;
    client
        .send_message(Message::text("x".repeat(17 * 1024 * 1024)))
        .await;
    let (code, ..) = client.closed().await;
    assert_eq!(code, 1009);
    no_session_is_left(&server).await;
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_an_utterance_costs_nothing_but_time() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    let audio = speech(SENTENCE, 0);
    let (first, rest) = audio.split_at(audio.len() / 2);
    client.append(first).await;
    let has_work = || async { server.chunks_handed_out() > 0 };
    server.until("a lane has work", has_work).await;
    let worker = server.workers()[0];
    signal(worker, "KILL");
    client.append(rest).await;
    client.commit().await;
    let (text, _) = client.turn().await;
    assert_alike(&text, &sample_text(SENTENCE));
    assert!(!lives(worker));
}

#[tokio::test]
async fn a_drain_completes_turns_and_says_that_the_server_goes_away() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    client.append(&speech(SENTENCE, 0)).await;
    // The answer shows that the audio before it has arrived.
    client
        .send(json!({"type": "session.update", "session": {}}))
        .await;
    client.until("session.updated").await;
    signal(server.pid(), "TERM");
    let (code, _, events) = client.closed().await;
    assert_eq!(code, 1001);
    let done = events.last().expect("the text");
    assert_eq!(done["type"], format!("{TRANSCRIPTION}.completed"));
    assert_alike(
        done["transcript"].as_str().expect("a text"),
        &sample_text(SENTENCE),
    );
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_idle_session_is_closed_and_one_may_wait_for_the_model() {
    let settings = [("LIVE_IDLE_TIMEOUT", "3")];
    // It is loading while the client speaks.
    let server = Server::start(&model("tiny.en").await, &settings).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    client.append(&speech(COMMAND, 0)).await;
    client.commit().await;
    let (text, _) = client.turn().await;
    assert_alike(&text, &sample_text(COMMAND));
    let (code, reason, _) = client.closed().await;
    assert_eq!(code, 1000);
    assert!(reason.contains("LIVE_IDLE_TIMEOUT"), "{reason}");
    no_session_is_left(&server).await;
}
