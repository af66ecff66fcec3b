//! Servers that misbehave: what the client retries, what it does not, and which error the caller gets.

use std::time::Duration;

use crate::support::{Act, Frozen, Heard, Scripted, client, fine, json, refusing_address, reply};
use uttera_stt_client::{Audio, Client, Error, RetryPolicy, StatusError, TranscribeOptions};

fn audio() -> Audio {
    Audio::bytes(&b"RIFF"[..])
}

fn options() -> TranscribeOptions {
    TranscribeOptions::default()
}

#[tokio::test]
async fn an_unreachable_server_is_retried_and_then_reported() {
    let heard = Heard::default();
    let client = client(&refusing_address().await).telemetry(heard.hook());
    let client = client.build().expect("a client");
    let error = client.transcribe(audio(), &options()).await;
    let error = error.expect_err("no server listens");
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
async fn a_reply_that_breaks_off_is_retried() {
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
async fn an_unusable_reply_is_reported_with_its_beginning_and_never_taken_for_silence() {
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
async fn a_retry_waits_for_retry_after() {
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
async fn a_retry_after_beyond_the_limit_fails_at_once() {
    let _frozen = Frozen::clock();
    for seconds in [60, 600] {
        let busy = json(503, &format!("retry-after: {seconds}\r\n"), "");
        let server = Scripted::start([busy]).await;
        // The first exceeds the call's limit, the second the longest accepted Retry-After.
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
async fn status_and_x_should_retry_decide_on_a_retry() {
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
async fn a_server_that_hangs_runs_into_the_limits_of_attempt_and_call() {
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
        // The third attempt had 5 s left.
        let error = call.await.expect("ends").expect_err("hangs");
        let expected = "no reply within 25 s";
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_retryable());
        assert_eq!(client.statistics().outcomes.timeout, 3);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_early_error_is_reported_before_the_upload_ends() {
    let refusal = r#"{"error":{"message":"wrong key","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#;
    let server = Scripted::start([Act::ReplyEarly(reply(401, "", refusal))]).await;
    let client = server.client().build().expect("a client");
    let audio = Audio::bytes(vec![0; 8_000_000]);
    let error = client
        .transcribe(audio, &options())
        .await
        .expect_err("is refused");
    // If the server closes at once, TCP may discard its answer.
    match error {
        Error::Status(status) => assert_eq!(status.code.as_deref(), Some("invalid_api_key")),
        Error::Interrupted(_) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_error_has_the_primarys_text_if_the_fallback_failed() {
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
async fn a_redirect_is_not_followed_and_gets_no_key() {
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
async fn each_attempt_is_reported_when_it_ends() {
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
    // Full jitter waits at most half a second; the clock rounds.
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
async fn without_retries_a_call_makes_one_attempt() {
    let server = Scripted::start([json(503, "", "")]).await;
    let client = server.client().retry(RetryPolicy::never());
    let client = client.build().expect("a client");
    client
        .transcribe(audio(), &options())
        .await
        .expect_err("failed");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_wait_for_a_job_survives_an_outage_and_ends_when_the_server_rejects_it() {
    let running = json(200, "", r#"{"id":"1","status":"running"}"#);
    let done = json(200, "", r#"{"id":"1","status":"done"}"#);
    let lost = json(404, "", "");
    let away = [json(503, "", ""), Act::Reply(String::new())];
    let acts = (away.into_iter()).chain([running, done, lost, json(503, "", "")]);
    let server = Scripted::start(acts).await;
    let client = server.client().retry(RetryPolicy::never());
    let client = client.build().expect("a client");
    let mut looks = 0;
    let job = client.wait_for_job("1", None, |_| looks += 1).await;
    assert!(job.expect("it is done").status.is_over());
    assert_eq!((looks, server.requests().len()), (2, 4));
    for (patience, status) in [(None, 404), (Some(Duration::ZERO), 503)] {
        let error = client.wait_for_job("1", patience, |_| {}).await;
        let error = error.expect_err("there is no such job, or no patience");
        assert_eq!(error.status().map(|error| error.status), Some(status));
    }
}
