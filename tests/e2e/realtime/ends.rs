//! Ends of sessions: cut and closed connections, wrong frames, faults, shutdown, idleness.

use test_support::realtime::tungstenite::Message;
use test_support::realtime::tungstenite::protocol::CloseFrame;
use test_support::realtime::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use test_support::realtime::tungstenite::protocol::frame::{Frame, FrameHeader};
use test_support::{lives, sample_text, signal, words};

use super::*;

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
                let header = FrameHeader {
                    opcode: OpCode::Data(Data::Text),
                    is_final: false,
                    ..FrameHeader::default()
                };
                let frame = Frame::from_payload(header, vec![b'{'].into());
                client.send_message(Message::Frame(frame)).await;
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
async fn a_drain_waits_for_the_end_of_a_turn_and_tells_clients_to_reconnect() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    let mut client = Realtime::session(&server, Value::Null).await;
    let mut idle = Realtime::session(&server, Value::Null).await;
    let audio = speech(SENTENCE, 0);
    let (first, rest) = audio.split_at(audio.len() / 2);
    client.append(first).await;
    // The answer shows that the audio before it has arrived.
    client
        .send(json!({"type": "session.update", "session": {}}))
        .await;
    client.until("session.updated").await;
    signal(server.pid(), "TERM");
    let (code, reason, _) = idle.closed().await;
    assert_eq!((code, reason.contains("connect again")), (1012, true));
    client.append(rest).await;
    client.commit().await;
    let (code, _, events) = client.closed().await;
    assert_eq!(code, 1012);
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
    let settings = [("LIVE_IDLE_TIMEOUT", "8")];
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

#[tokio::test]
async fn a_session_warns_of_its_end_completes_its_turn_and_takes_no_more_audio() {
    let settings = [("REALTIME_SESSION_SECONDS", "10")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let mut client = Realtime::connect(&server, PATH, &[])
        .await
        .expect("connects");
    let created = client.event("session.created").await;
    client.configure(json!({"turn_detection": null})).await;
    client.append(&speech(COMMAND, 0)).await;
    // Text may come before it.
    let events = client.until("session.expiring").await;
    let warning = events.last().expect("one");
    assert_eq!(warning["expires_at"], created["session"]["expires_at"]);
    let (code, reason, events) = client.closed().await;
    assert_eq!((code, reason.as_str()), (1000, "session_expired"));
    let of_kind = |kind: &str| events.iter().find(|event| event["type"] == kind);
    let completed = "conversation.item.input_audio_transcription.completed";
    let completed = of_kind(completed).expect("the open turn has its text");
    let text = completed["transcript"].as_str().expect("a text");
    assert_eq!(words(text), words(&sample_text(COMMAND)));
    let error = &of_kind("error").expect("the reason")["error"];
    assert_eq!(error["code"], "session_expired");
    no_session_is_left(&server).await;
}
