//! A server that misbehaves: what is tried again, what is not, and what the caller is told.

mod support;

use std::time::Duration;

use support::{Act, Frozen, Heard, Scripted, client, fine, json, nobody, reply};
use uttera_stt_client::{Audio, Client, Error, RetryPolicy, StatusError, TranscribeOptions};

fn audio() -> Audio {
    Audio::bytes(&b"RIFF"[..])
}

fn options() -> TranscribeOptions {
    TranscribeOptions::default()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_tried_again_and_then_told() {
    let heard = Heard::default();
    let client = client(&nobody().await).telemetry(heard.hook());
    let client = client.build().expect("a client");
    let error = client.transcribe(audio(), &options()).await;
    let error = error.expect_err("nobody is there");
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    assert!(
        error.is_retryable() && error.to_string().contains("refused"),
        "{error}"
    );
    let retried: Vec<_> = heard
        .all()
        .iter()
        .map(|told| told.will_retry.is_some())
        .collect();
    assert_eq!(retried, [true, true, false]);
    assert_eq!(client.statistics().outcomes.connect, 3);
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_asked_for_again() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"text\":";
    let nothing = Act::Reply(String::new());
    let server = Scripted::start([Act::Reply(half.to_owned()), nothing, fine()]).await;
    let heard = Heard::default();
    let client = server
        .client()
        .telemetry(heard.hook())
        .build()
        .expect("a client");
    let reply = client
        .transcribe(audio(), &options())
        .await
        .expect("a reply");
    assert_eq!(reply.text, "Hello.");
    let told = heard.all();
    let statuses: Vec<_> = told.iter().map(|told| told.status).collect();
    assert_eq!(statuses, [Some(200), None, Some(200)]);
    assert!(told[..2].iter().all(|told| {
        told.error
            .as_deref()
            .is_some_and(|error| error.contains("broke off"))
    }));
    assert_eq!(client.statistics().outcomes.interrupted, 2);
}

#[tokio::test]
async fn nonsense_is_told_with_its_beginning_and_never_taken_for_silence() {
    for body in ["{}", "<html>Welcome</html>", "{\"text\":7}", "[]", ""] {
        let server = Scripted::start([json(200, "", body)]).await;
        let client = server.client().build().expect("a client");
        let error = client
            .transcribe(audio(), &options())
            .await
            .expect_err(body);
        assert!(matches!(error, Error::BadReply(_)), "{error:?}");
        assert!(
            error.to_string().contains(&body[..body.len().min(6)]),
            "{error}"
        );
        assert_eq!(server.requests().len(), 3);
    }
}

#[tokio::test]
async fn nobody_is_asked_again_before_the_time_that_the_server_named() {
    let frozen = Frozen::clock();
    let server = Scripted::start([json(429, "retry-after: 30\r\n", ""), fine()]).await;
    let heard = Heard::default();
    let client = server
        .client()
        .telemetry(heard.hook())
        .build()
        .expect("a client");
    let call = tokio::spawn(async move { client.transcribe(audio(), &options()).await });
    heard.until(1).await;
    frozen.advance(29.0).await;
    assert_eq!(server.connections(), 1);
    frozen.advance(2.0).await;
    let reply = call.await.expect("ends").expect("a reply");
    assert_eq!((reply.text.as_str(), server.connections()), ("Hello.", 2));
}

#[tokio::test]
async fn a_time_beyond_the_limit_is_not_waited_for_but_told_at_once() {
    let _frozen = Frozen::clock();
    for seconds in [60, 600] {
        let busy = json(503, &format!("retry-after: {seconds}\r\n"), "");
        let server = Scripted::start([busy]).await;
        // Below the call's limit, or below what is ever waited for.
        let limit = Duration::from_secs(if seconds == 60 { 50 } else { 3600 });
        let client = server.client().timeout(limit).build().expect("a client");
        let error = client
            .transcribe(audio(), &options())
            .await
            .expect_err("is busy");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(seconds)));
        assert!(error.is_retryable() && error.status().is_some_and(StatusError::is_busy));
        assert_eq!(server.connections(), 1);
        assert_eq!(client.statistics().outcomes.busy, 1);
    }
}

#[tokio::test]
async fn the_servers_word_decides_whether_to_try_again() {
    let cases = [
        (503, "", 3),
        (500, "", 3),
        (408, "", 3),
        (500, "x-should-retry: false\r\n", 1),
        (504, "x-should-retry: false\r\n", 1),
        (400, "", 1),
        (401, "", 1),
        (413, "", 1),
        (400, "x-should-retry: true\r\n", 3),
    ];
    for (status, headers, attempts) in cases {
        let server = Scripted::start([json(status, headers, "")]).await;
        let client = server.client().build().expect("a client");
        let error = client
            .transcribe(audio(), &options())
            .await
            .expect_err("is refused");
        assert_eq!(error.status().map(|told| told.status), Some(status));
        assert_eq!(server.requests().len(), attempts, "{status} {headers}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_attempts_time_and_then_the_calls() {
    let half_a_head = Act::ReplyAndHang("HTTP/1.1 200 OK\r\ncontent-".to_owned());
    let half_a_body = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
    for act in [
        Act::HangAtHead,
        half_a_head,
        Act::ReplyAndHang(half_a_body.to_owned()),
    ] {
        let frozen = Frozen::clock();
        let server = Scripted::start([act]).await;
        let client = server.client().attempt_timeout(Duration::from_secs(10));
        let client = client
            .timeout(Duration::from_secs(25))
            .build()
            .expect("a client");
        let asked = client.clone();
        let call = tokio::spawn(async move { asked.transcribe(audio(), &options()).await });
        for attempt in 1..=3 {
            server.until_requests(attempt).await;
            frozen.advance(9.9).await;
            assert_eq!(server.connections(), attempt);
            frozen.advance(0.2).await;
        }
        // The third had 5 s left.
        let error = call.await.expect("ends").expect_err("hangs");
        let expected = "no reply within 25 s";
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_retryable());
        assert_eq!(client.statistics().outcomes.timeout, 3);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_early_refusal_is_heard_though_the_upload_is_not_over() {
    let refusal = r#"{"error":{"message":"wrong key","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
    let server = Scripted::start([Act::ReplyEarly(reply(401, "", refusal))]).await;
    let client = server.client().build().expect("a client");
    let audio = Audio::bytes(vec![0; 8_000_000]);
    let error = client
        .transcribe(audio, &options())
        .await
        .expect_err("is refused");
    // A server that closes at once may cut its own answer off; that is for TCP to say.
    match error {
        Error::Status(status) => assert_eq!(status.code.as_deref(), Some("invalid_api_key")),
        Error::Interrupted(_) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_text_that_the_server_was_not_sure_of_comes_with_the_error() {
    let headers = "x-error-type: fallback\r\nx-error-message: too slow\r\nx-fallback-error: timeout\r\n\
                   x-conf-below: logprob,min_words\r\nx-req-id: r7\r\nx-should-retry: false\r\n";
    let body = r#"{"error":{"message":"the fallback failed","type":"server_error","param":null,"code":"fallback"},
        "primary":{"text":"Maybe.","language":"en","confidence":0.31,"segments":[{"start":0,"end":1.5,"text":" Maybe."}]}}"#;
    let server = Scripted::start([json(502, headers, body)]).await;
    let client = server.client().build().expect("a client");
    let error = client
        .transcribe(audio(), &options())
        .await
        .expect_err("failed");
    let status = error.status().expect("a status");
    assert_eq!(status.request_id.as_deref(), Some("r7"));
    assert_eq!(status.headers.fallback_error.as_deref(), Some("timeout"));
    assert_eq!(status.headers.conf_below, ["logprob", "min_words"]);
    let primary = status.primary.as_ref().expect("is kept");
    assert_eq!(
        (primary.text.as_str(), primary.segments.len()),
        ("Maybe.", 1)
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_key_along() {
    let elsewhere = Scripted::start([fine()]).await;
    let headers = format!("location: {}/v1/transcribe\r\n", elsewhere.url);
    let server = Scripted::start([json(307, &headers, "")]).await;
    let client = server.client().api_key("sesame").build().expect("a client");
    let error = client
        .transcribe(audio(), &options())
        .await
        .expect_err("is no reply");
    assert_eq!(error.status().map(|told| told.status), Some(307));
    assert!(
        server.requests()[0]
            .head
            .contains("authorization: bearer sesame")
    );
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn each_attempt_is_told_when_it_is_over() {
    let frozen = Frozen::clock();
    let failed = json(500, "x-request-id: first\r\n", "");
    let fine = json(200, "x-request-id: second\r\n", r#"{"text":"Hi"}"#);
    let server = Scripted::start([failed, fine]).await;
    let heard = Heard::default();
    let client = Client::builder(&server.url)
        .no_proxy()
        .telemetry(heard.hook());
    let client = client.build().expect("a client");
    let asked = client.clone();
    let call = tokio::spawn(async move { asked.transcribe(audio(), &options()).await });
    heard.until(1).await;
    // Full jitter: half a second at most, and the clock's own rounding.
    frozen.advance(0.51).await;
    let reply = call.await.expect("ends").expect("a reply");
    assert_eq!(reply.request_id.as_deref(), Some("second"));
    let told = heard.all();
    assert_eq!((told[0].attempt, told[0].status), (1, Some(500)));
    assert!(told[0].will_retry <= Some(Duration::from_millis(500)));
    assert!(told[0].will_retry.is_some() && told[1].will_retry.is_none());
    assert_eq!(told[0].request_id.as_deref(), Some("first"));
    assert_eq!(
        (told[1].attempt, told[1].status, &told[1].error),
        (2, Some(200), &None)
    );
    assert!(told.iter().all(|told| told.server == server.url));
    let statistics = client.statistics();
    assert_eq!(
        (statistics.latencies, statistics.outcomes.server_error),
        (1, 1)
    );
    assert_eq!(statistics.p50, Some(told[1].duration));
}

#[tokio::test]
async fn a_call_that_is_to_be_made_once_is_made_once() {
    let server = Scripted::start([json(503, "", "")]).await;
    let client = server.client().retry(RetryPolicy::never());
    let client = client.build().expect("a client");
    client
        .transcribe(audio(), &options())
        .await
        .expect_err("failed");
    assert_eq!(server.requests().len(), 1);
}
