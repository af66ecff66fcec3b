//! What goes wrong at the Wyoming port: errors, limits, foreign bytes, broken connections, lost workers, shutdown.

use std::path::Path;

use serde_json::json;
use test_support::wyoming::{
    COMMAND, Format, PORT, WyomingClient, assert_command, audio, frame, outcomes, server,
    until_no_session,
};
use test_support::{Server, model, patiently, signal};
use tokio::process::Command;

/// The next event, which is an error with this code.
async fn assert_error(client: &mut WyomingClient, code: &str) {
    let (kind, data) = client.next().await.expect("an event");
    assert_eq!(
        (kind.as_str(), &data["code"]),
        ("error", &json!(code)),
        "{data}"
    );
    assert!(
        data["text"].as_str().is_some_and(|text| text.len() > 10),
        "{data}"
    );
}

#[tokio::test]
async fn after_an_error_the_next_utterance_on_the_connection_gets_its_text() {
    let server = &server(&[("MAX_LIVE_SESSIONS", "1")]).await;
    let client = &mut WyomingClient::connect(server).await;
    let command = audio(COMMAND);
    let none = json!({});
    // The model knows English only.
    client
        .utter(json!({"language": "de"}), &Format::USUAL, &command)
        .await;
    assert_error(client, "unsupported_language").await;
    client
        .send("audio-start", json!({"rate": 16_000}), &[])
        .await;
    assert_error(client, "invalid_value").await;
    client
        .send(
            "audio-start",
            json!({"rate": 16_000, "width": 2, "channels": 0}),
            &[],
        )
        .await;
    assert_error(client, "audio_decode_error").await;
    client.send_bare("audio-stop").await;

    let other = &mut WyomingClient::connect(server).await;
    other.send("audio-start", Format::USUAL.data(), &[]).await;
    let open = async || server.metric("uttera_stt_live_sessions").await > 0.5;
    server.until("the session is open", open).await;
    client.utter(none.clone(), &Format::USUAL, &command).await;
    assert_error(client, "overloaded").await;
    // A description needs no session.
    client.send_bare("describe").await;
    assert_eq!(client.next().await.expect("an event").0, "info");

    other.send_audio(&Format::USUAL, &command).await;
    other
        .send(
            "audio-chunk",
            json!({"rate": 0, "width": 2, "channels": 1}),
            &[0; 4],
        )
        .await;
    assert_error(other, "audio_decode_error").await;
    other.send_bare("audio-stop").await;
    until_no_session(server).await;
    for client in [client, other] {
        client.utter(none.clone(), &Format::USUAL, &command).await;
        assert_command(&client.transcript().await);
        until_no_session(server).await;
    }
    assert!((outcomes(server, "failed").await - 5.0).abs() < 0.1);
}

#[tokio::test]
async fn limits_per_address_hold_for_utterances() {
    let settings = [("MAX_AUDIO_SECONDS_PER_DAY", "1"), ("API_KEYS", "sesame")];
    let server = server(&settings).await;
    let mut client = WyomingClient::connect(&server).await;
    client
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    assert_command(&client.transcript().await);
    client.next().await.expect("the end of the text");
    client
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    assert_error(&mut client, "insufficient_quota").await;
}

#[tokio::test]
async fn what_is_no_wyoming_is_closed_with_a_line_in_the_log_that_names_the_mistake() {
    let server = &server(&[]).await;
    let long_line = [b"{\"type\":\"".as_slice(), &vec![b'a'; 300_000]].concat();
    for (bytes, reason) in [
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
            "the client sends HTTP",
        ),
        (
            b"POST /v1/audio/transcriptions HTTP/1.1\r\n",
            "the client sends HTTP",
        ),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "begins with TLS",
        ),
        (b"\xff\xfe\x00garbage", "something else than Wyoming events"),
        (b"\n", "something else than Wyoming events"),
        (b"{\"type\": 7}\n", "the line of an event is invalid"),
        (
            b"{\"type\": \"a\", \"payload_length\": -1}\n",
            "the line of an event is invalid",
        ),
        (
            b"{\"type\": \"a\", \"data_length\": 2}\n[]",
            "the data of an event is invalid",
        ),
        (
            b"{\"type\": \"audio-chunk\", \"payload_length\": 9999999999}\n",
            "a payload of 9999999999",
        ),
        (
            b"{\"type\": \"a\", \"data_length\": 9999999}\n",
            "data of 9999999 bytes",
        ),
        (&long_line, "a line of"),
    ] {
        let before = server.log_lines(reason).len();
        let mut client = WyomingClient::connect(server).await;
        client.send_bytes(bytes).await;
        assert_eq!(client.next().await, None, "{reason}");
        let logged = async || server.log_lines(reason).len() > before;
        server.until(reason, logged).await;
    }
    // The connection ends within an event.
    let mut client = WyomingClient::connect(server).await;
    client
        .send_bytes(b"{\"type\": \"audio-chunk\", \"payload_length\": 100}\nabc")
        .await;
    // Not dropped: a socket with an unread reply would be reset, not ended.
    client.end_sending().await;
    server.log_line("in the middle of an event").await;
    assert!(!server.log().join("\n").contains("panicked"));
}

#[tokio::test]
async fn of_fifty_connections_those_that_send_sense_get_their_text() {
    let server = &server(&[]).await;
    let command = &audio(COMMAND);
    let good = async |number: usize| {
        let mut client = WyomingClient::connect(server).await;
        client
            .utter(json!({"language": "en"}), &Format::USUAL, command)
            .await;
        assert_command(&client.transcript().await);
        number
    };
    let bad = async |number: usize| {
        let mut client = WyomingClient::connect(server).await;
        client.send("audio-start", Format::USUAL.data(), &[]).await;
        client.send_audio(&Format::USUAL, &command[..20_000]).await;
        client.send_bytes(&vec![number as u8 | 0x80; 50_000]).await;
        while client.next().await.is_some() {}
        number
    };
    let all = futures::future::join_all((0..50).map(|number| async move {
        if number % 5 == 4 {
            bad(number).await
        } else {
            good(number).await
        }
    }));
    assert_eq!(patiently(all).await.len(), 50);
    until_no_session(server).await;
    assert!((outcomes(server, "completed").await - 40.0).abs() < 0.1);
    assert!((outcomes(server, "abandoned").await - 10.0).abs() < 0.1);
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_stage_leaves_no_session() {
    let server = &server(&[]).await;
    let command = audio(COMMAND);
    let format = Format::USUAL;
    let mut utterance = frame("transcribe", &json!({"language": "en"}), &[]);
    let mut stages = vec![0, 5, utterance.len()];
    utterance.extend(frame("audio-start", &format.data(), &[]));
    stages.push(utterance.len());
    for chunk in command.chunks(8000) {
        utterance.extend(frame("audio-chunk", &format.data(), chunk));
        stages.extend([utterance.len() - 5, utterance.len()]);
    }
    utterance.extend(frame("audio-stop", &json!({}), &[]));
    stages.push(utterance.len());
    for stage in stages {
        let mut client = WyomingClient::connect(server).await;
        client.send_bytes(&utterance[..stage]).await;
        drop(client);
    }
    // Ended at once, and not because it was idle: that takes two minutes.
    until_no_session(server).await;
    let mut client = WyomingClient::connect(server).await;
    client.utter(json!({}), &format, &command).await;
    assert_command(&client.transcript().await);
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_of_an_utterance_costs_nothing_but_time() {
    let server = server(&[]).await;
    let mut client = WyomingClient::connect(&server).await;
    let worker = server.workers()[0];
    let before = server.chunks_handed_out();
    signal(worker, "STOP");
    client
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    let assigned = async || server.chunks_handed_out() > before;
    server.until("the worker has the chunk", assigned).await;
    signal(worker, "KILL");
    assert_command(&client.transcript().await);
    server.log_line("killed by SIGKILL").await;
}

#[tokio::test]
async fn a_description_is_answered_while_the_model_loads_and_while_all_work_stands_still() {
    // It can be neither found nor downloaded.
    let missing = Path::new("/nowhere/ggml-base.en.bin");
    let loading = Server::start(missing, &[PORT]).await;
    let mut client = WyomingClient::connect(&loading).await;
    client.send_bare("describe").await;
    let (kind, info) = client.next().await.expect("an answer");
    assert_eq!(kind, "info");
    assert_eq!(info["asr"][0]["installed"], true);
    assert_eq!(info["asr"][0]["models"][0]["languages"], json!(["en"]));

    let server = server(&[]).await;
    signal(server.workers()[0], "STOP");
    let mut waiting = WyomingClient::connect(&server).await;
    waiting
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    let mut client = WyomingClient::connect(&server).await;
    for client in [&mut client, &mut waiting] {
        client.send_bare("describe").await;
        assert_eq!(client.next().await.expect("an answer").0, "info");
    }
    signal(server.workers()[0], "CONT");
    assert_command(&waiting.transcript().await);
}

#[tokio::test]
async fn an_utterance_that_comes_while_the_model_loads_gets_its_text() {
    let server = Server::start(&model("tiny.en").await, &[PORT]).await;
    let mut client = WyomingClient::connect(&server).await;
    client
        .utter(json!({}), &Format::USUAL, &audio(COMMAND))
        .await;
    assert_command(&client.transcript().await);
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = held.local_addr().expect("bound").port().to_string();
    let model = model("tiny.en").await;
    let run = Command::new(test_support::program())
        .arg("serve")
        .env("WHISPER_MODEL", &model)
        .envs([("PORT", "0"), ("VAD_MODEL", "off"), ("WYOMING_PORT", &port)])
        .kill_on_drop(true)
        .output();
    let output = patiently(run).await.expect("it starts");
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("WYOMING_PORT"), "{message}");
}

#[tokio::test]
async fn a_server_that_stops_answers_the_running_utterance_and_closes_idle_connections() {
    let mut server = server(&[]).await;
    let mut idle = WyomingClient::connect(&server).await;
    idle.send_bare("ping").await;
    assert_eq!(idle.next().await.expect("an answer").0, "pong");
    let mut prepared = WyomingClient::connect(&server).await;
    prepared
        .send("transcribe", json!({"language": "en"}), &[])
        .await;
    prepared.send_bare("ping").await;
    assert_eq!(prepared.next().await.expect("an answer").0, "pong");
    let mut speaking = WyomingClient::connect(&server).await;
    speaking
        .send("audio-start", Format::USUAL.data(), &[])
        .await;
    let spoken = audio(COMMAND);
    let (first, rest) = spoken.split_at(spoken.len() / 4 * 2);
    speaking.send_audio(&Format::USUAL, first).await;
    speaking.send_bare("ping").await;
    assert_eq!(speaking.next().await.expect("an answer").0, "pong");
    // Its audio follows.
    let mut announced = WyomingClient::connect(&server).await;
    announced
        .send("audio-start", Format::USUAL.data(), &[])
        .await;
    announced.send_bare("ping").await;
    assert_eq!(announced.next().await.expect("an answer").0, "pong");
    signal(server.pid(), "TERM");
    assert_eq!(idle.next().await, None);
    assert_error(&mut prepared, "draining").await;
    assert_eq!(prepared.next().await, None);
    announced.send_audio(&Format::USUAL, &spoken).await;
    announced
        .send("audio-stop", json!({"timestamp": null}), &[])
        .await;
    speaking.send_audio(&Format::USUAL, rest).await;
    speaking
        .send("audio-stop", json!({"timestamp": null}), &[])
        .await;
    assert_command(&announced.transcript().await);
    assert_command(&speaking.transcript().await);
    assert_eq!(speaking.next().await.expect("the end").0, "transcript-stop");
    assert_eq!(speaking.next().await, None);
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = server(&[("LIVE_IDLE_TIMEOUT", "0.5")]).await;
    let mut client = WyomingClient::connect(&server).await;
    assert_eq!(client.next().await, None);
    // Also one that sends half an event.
    let mut client = WyomingClient::connect(&server).await;
    client.send_bytes(b"{\"type\": ").await;
    assert_eq!(client.next().await, None);
    until_no_session(&server).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = server(&[]).await;
    let mut open = Vec::new();
    for _ in 0..uttera_stt::wyoming::MAX_CONNECTIONS {
        let mut client = WyomingClient::connect(&server).await;
        client.send_bare("ping").await;
        assert!(client.next().await.is_some());
        open.push(client);
    }
    let mut refused = WyomingClient::connect(&server).await;
    assert_eq!(refused.next().await, None);
    server.log_line("there are too many").await;
    open.clear();
    let accepted = async || {
        let mut client = WyomingClient::connect(&server).await;
        client.send_bare("ping").await;
        client.next().await.is_some()
    };
    server
        .until("a connection is accepted again", accepted)
        .await;
}
