//! Who may open a session: keys, ephemeral keys, origins, allowances.

use test_support::{refused, sample};

use super::*;

#[tokio::test]
async fn keys_in_headers_and_in_sub_protocols() {
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
}

#[tokio::test]
async fn an_ephemeral_key_opens_sessions_as_configured_and_nothing_else() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "sesame")]).await;
    let post = async |path: &str, key: &str, body: Value| {
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
    let (status, made) = post("client_secrets", "sesame", body).await;
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
    let (status, made) = post("transcription_sessions", "sesame", session).await;
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
    let (status, _) = post("client_secrets", &value, json!({})).await;
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
        let (status, error) = post("client_secrets", "sesame", body).await;
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
    // The server sends this error once.
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
