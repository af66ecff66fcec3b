//! Streamed replies, complete and broken.

use std::time::Duration;

use crate::support::{Act, Frozen, Heard, Scripted, json};
use futures::StreamExt;
use uttera_stt_client::{Client, Error, EventStream, SpeechEvent, SpeechOptions};

const HEAD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\nx-route: HOT\r\n\r\n";
const DELTAS: &str = ": ping\n\ndata: {\"type\":\"transcript.text.delta\",\"delta\":\"Good\"}\n\n\
    data: {\"type\":\"something.else\"}\n\n\
    data: {\"type\":\"transcript.text.delta\",\"delta\":\" morning.\"}\n\n";
const DONE: &str = "data: {\"type\":\"transcript.text.done\",\"text\":\"Good morning.\",\"usage\":{\"type\":\"duration\",\"seconds\":2},\"x_route\":\"HOT\"}\n\ndata: [DONE]\n\n";

async fn stream(client: &Client) -> Result<EventStream, Error> {
    let options = SpeechOptions::default();
    client.transcriptions().stream(vec![1], &options).await
}

/// The received text, and the last event or error.
async fn read(events: EventStream) -> (String, Option<Result<SpeechEvent, Error>>) {
    let mut events = events.collect::<Vec<_>>().await;
    let last = events.pop();
    let deltas = events.into_iter().map(|event| match event {
        Ok(SpeechEvent::Delta(delta)) => delta.text,
        other => panic!("{other:?} and more after it"),
    });
    (deltas.collect(), last)
}

#[tokio::test]
async fn deltas_are_followed_by_the_whole_text() {
    let server = Scripted::start([Act::Reply(format!("{HEAD}{DELTAS}{DONE}"))]).await;
    let client = server.client().build().expect("a client");
    let events = stream(&client).await.expect("begins");
    assert_eq!(events.headers().route.as_deref(), Some("HOT"));
    let (text, last) = read(events).await;
    let Some(Ok(SpeechEvent::Done(done))) = last else {
        panic!("{last:?}")
    };
    assert_eq!(
        (text.as_str(), done.text.as_str()),
        ("Good morning.", "Good morning.")
    );
    assert_eq!(done.usage.and_then(|usage| usage.seconds), Some(2.0));
    assert!(server.requests()[0].form().contains("\"stream\""));
    // The beginning of a stream does not count as a latency.
    let statistics = client.statistics();
    assert_eq!(
        (statistics.latencies, statistics.outcomes.succeeded),
        (0, 1)
    );
}

#[tokio::test]
async fn a_broken_stream_is_an_error_and_keeps_the_received_text() {
    let endings = [
        "",
        "data: {\"type\":\"transcript.text.do",
        "data: [DONE]\n\n",
        ": ping\n\n",
    ];
    for ending in endings {
        let server = Scripted::start([Act::Reply(format!("{HEAD}{DELTAS}{ending}"))]).await;
        let client = server.client().build().expect("a client");
        let (text, last) = read(stream(&client).await.expect("begins")).await;
        assert_eq!(text, "Good morning.");
        assert!(
            matches!(last, Some(Err(Error::Interrupted(_)))),
            "{ending:?}: {last:?}"
        );
        // No retry, because the caller already has some text.
        assert_eq!(server.connections(), 1);
        let finished = stream(&client).await.expect("begins").finish().await;
        assert!(
            matches!(finished, Err(Error::Interrupted(_))),
            "{finished:?}"
        );
    }
}

#[tokio::test]
async fn an_error_within_a_stream_is_a_status_error() {
    let error = "data: {\"error\":{\"message\":\"stuck\",\"type\":\"server_error\",\"param\":null,\"code\":\"timeout\"}}\n\n";
    let server = Scripted::start([Act::Reply(format!("{HEAD}{DELTAS}{error}"))]).await;
    let client = server.client().build().expect("a client");
    let (text, last) = read(stream(&client).await.expect("begins")).await;
    assert_eq!(text, "Good morning.");
    let Some(Err(error)) = last else {
        panic!("{last:?}")
    };
    let status = error.status().expect("the server's");
    assert_eq!(
        (status.code.as_deref(), status.message.as_str()),
        (Some("timeout"), "stuck")
    );
}

#[tokio::test]
async fn an_unusable_event_and_a_reply_that_is_no_stream_are_reported() {
    let nonsense = format!("{HEAD}{DELTAS}data: {{\"type\n\n");
    let server = Scripted::start([Act::Reply(nonsense)]).await;
    let client = server.client().build().expect("a client");
    let (_, last) = read(stream(&client).await.expect("begins")).await;
    assert!(matches!(last, Some(Err(Error::BadReply(_)))), "{last:?}");

    let server = Scripted::start([json(200, "content-type: application/json\r\n", "{}")]).await;
    let client = server.client().build().expect("a client");
    let error = stream(&client).await.expect_err("is no stream");
    assert!(error.to_string().contains("application/json"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn an_error_instead_of_a_stream_is_retried() {
    let fine = Act::Reply(format!("{HEAD}{DELTAS}{DONE}"));
    let server = Scripted::start([json(503, "", ""), fine]).await;
    let client = server.client().build().expect("a client");
    let done = stream(&client).await.expect("begins").finish().await;
    assert_eq!(done.expect("ends").text, "Good morning.");
}

#[tokio::test]
async fn a_stream_may_exceed_the_calls_limit_but_not_the_idle_limit() {
    let frozen = Frozen::clock();
    let server = Scripted::start([Act::ReplyAndHang(format!("{HEAD}{DELTAS}"))]).await;
    let heard = Heard::default();
    let client = server.client().timeout(Duration::from_secs(5));
    let client = client.idle_timeout(Duration::from_secs(20));
    let client = client.telemetry(heard.hook()).build().expect("a client");
    let mut events = stream(&client).await.expect("begins");
    for _ in 0..2 {
        assert!(matches!(
            events.next().await,
            Some(Ok(SpeechEvent::Delta(_)))
        ));
    }
    let rest = tokio::spawn(async move { (events.next().await, events.next().await) });
    frozen.advance(0.001).await;
    frozen.advance(19.0).await;
    assert!(!rest.is_finished());
    frozen.advance(2.0).await;
    let (error, after) = rest.await.expect("ends");
    assert!(
        matches!(error, Some(Err(Error::Timeout { .. }))),
        "{error:?}"
    );
    assert!(after.is_none());
    assert_eq!(heard.all().len(), 1);
}
