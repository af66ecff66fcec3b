//! Pools in which some servers misbehave.

use std::time::Duration;

use crate::support::{Act, Frozen, Scripted, client, fine, json, refusing_address, until};
use uttera_stt_client::{
    Audio, Client, Ejection, Error, PoolBuilder, Recovery, SpeechOptions, Standing, SttPool,
    TranscribeOptions, Transcript,
};

fn builder(urls: &[&str]) -> PoolBuilder {
    let clients = urls
        .iter()
        .map(|url| client(url).build().expect("a client"));
    let policy = uttera_stt_client::RetryPolicy {
        base: Duration::ZERO,
        ..Default::default()
    };
    SttPool::builder(clients.collect::<Vec<Client>>()).retry(policy)
}

async fn ask(pool: &SttPool) -> Result<Transcript, Error> {
    let audio = Audio::bytes(&b"RIFF"[..]);
    pool.transcribe(audio, &TranscribeOptions::default()).await
}

fn standings(pool: &SttPool) -> Vec<Standing> {
    pool.nodes().iter().map(|node| node.standing).collect()
}

/// A reply with the server's name as its text.
fn named(name: &str) -> Act {
    json(200, "", &format!("{{\"text\":\"{name}\"}}"))
}

#[tokio::test]
async fn requests_are_shared_among_the_servers() {
    let (a, b) = (
        Scripted::start([fine()]).await,
        Scripted::start([fine()]).await,
    );
    let pool = builder(&[&a.url, &b.url]).build().expect("a pool");
    for _ in 0..6 {
        ask(&pool).await.expect("a reply");
    }
    assert_eq!((a.connections(), b.connections()), (3, 3));
    // A server that keeps its request running gets no further one.
    a.then([Act::HangAtHead]);
    let hanging = tokio::spawn({
        let pool = pool.clone();
        async move { ask(&pool).await }
    });
    a.until_requests(4).await;
    for _ in 0..4 {
        ask(&pool).await.expect("a reply");
    }
    assert_eq!((a.connections(), b.connections()), (4, 7));
    let in_flight: Vec<_> = pool.nodes().iter().map(|node| node.in_flight).collect();
    assert_eq!(in_flight, [1, 0]);
    hanging.abort();
    until("it is given up", || pool.nodes()[0].in_flight == 0).await;
}

#[tokio::test]
async fn a_request_that_fails_on_one_server_goes_to_another_at_once() {
    let _frozen = Frozen::clock();
    let half = Act::Reply("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned());
    let busy = json(429, "retry-after: 30\r\n", "");
    for act in [half, json(500, "", ""), json(200, "", "garbage"), busy] {
        let (bad, good) = (
            Scripted::start([act]).await,
            Scripted::start([named("good")]).await,
        );
        let pool = builder(&[&bad.url, &good.url]).build().expect("a pool");
        // The clock stands still, so the pool did not wait.
        assert_eq!(ask(&pool).await.expect("a reply").text, "good");
        assert_eq!((bad.requests().len(), good.requests().len()), (1, 1));
    }
}

#[tokio::test]
async fn an_error_of_the_request_is_not_retried_on_another_server() {
    for (status, headers) in [(400, ""), (401, ""), (500, "x-should-retry: false\r\n")] {
        let (bad, good) = (
            Scripted::start([json(status, headers, "")]).await,
            Scripted::start([fine()]).await,
        );
        let pool = builder(&[&bad.url, &good.url]).build().expect("a pool");
        ask(&pool).await.expect_err("is refused");
        assert_eq!((bad.connections(), good.connections()), (1, 0));
        assert_eq!(standings(&pool), [Standing::Active; 2]);
    }
}

#[tokio::test]
async fn a_stream_of_audio_goes_to_another_server_only_if_none_of_it_was_sent() {
    let options = TranscribeOptions::default();
    let good = Scripted::start([fine()]).await;
    let pool = builder(&[&refusing_address().await, &good.url])
        .build()
        .expect("a pool");
    let audio = Audio::reader(&b"RIFF"[..]);
    pool.transcribe(audio, &options).await.expect("a reply");
    assert!(good.requests()[0].form().contains("RIFF"));

    let bad = Scripted::start([json(500, "", "")]).await;
    let pool = builder(&[&bad.url, &good.url]).build().expect("a pool");
    let audio = Audio::reader(&b"RIFF"[..]);
    let error = pool.transcribe(audio, &options).await.expect_err("is lost");
    assert!(error.is_retryable());
    assert_eq!(good.connections(), 1);
}

#[tokio::test]
async fn a_dead_server_is_ejected_and_readmitted_by_a_probe() {
    let frozen = Frozen::clock();
    let (a, b) = (
        Scripted::start([fine()]).await,
        Scripted::start([fine()]).await,
    );
    let pool = builder(&[&a.url, &b.url]).build().expect("a pool");
    let address = a.stop().await;
    for _ in 0..5 {
        ask(&pool).await.expect("the other one replies");
    }
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Active]);
    assert_eq!(pool.nodes()[0].statistics.outcomes.connect, 1);
    // The server is still down at the first probe, after 1 s; the next probe follows 2 s later.
    frozen.advance(1.1).await;
    let at = address.trim_start_matches("http://");
    let listener = tokio::net::TcpListener::bind(at)
        .await
        .expect("binds again");
    let back = Scripted::on(
        listener,
        [json(503, "", ""), json(404, "", ""), json(200, "", "")],
    );
    // The server listens but is not ready.
    frozen.advance(2.1).await;
    until("it is asked", || back.requests().len() == 1).await;
    assert!(back.requests()[0].head.starts_with("get /readyz"));
    frozen.advance(0.001).await;
    assert_eq!(standings(&pool)[0], Standing::Ejected);
    // The server is ready, and has only the other path.
    frozen.advance(4.1).await;
    until("it is found well", || {
        standings(&pool)[0] == Standing::Active
    })
    .await;
    assert!(back.requests()[2].head.starts_with("get /v1/health"));
    back.then([named("back")]);
    let mut texts = Vec::new();
    for _ in 0..2 {
        texts.push(ask(&pool).await.expect("a reply").text);
    }
    assert!(texts.contains(&"back".to_owned()), "{texts:?}");
}

#[tokio::test]
async fn a_trial_request_that_fails_goes_to_another_server() {
    let frozen = Frozen::clock();
    let ejection = Ejection {
        after: 1,
        ..Ejection::default()
    };
    let a = Scripted::start([json(500, "", ""), json(500, "", ""), fine()]).await;
    let b = Scripted::start([fine()]).await;
    let pool = builder(&[&a.url, &b.url])
        .ejection(ejection)
        .recovery(Recovery::Trial);
    let pool = pool.build().expect("a pool");
    for (advance, a_has) in [(0.0, 1), (0.5, 1), (0.6, 2), (1.0, 2), (1.1, 3), (0.0, 4)] {
        frozen.advance(advance).await;
        for _ in 0..2 {
            ask(&pool).await.expect("a reply");
        }
        assert_eq!(a.connections(), a_has, "after {advance} s more");
    }
    assert_eq!(standings(&pool), [Standing::Active; 2]);
}

#[tokio::test]
async fn if_all_servers_are_down_the_last_error_is_returned_and_the_first_to_recover_is_used() {
    let (a, b) = (refusing_address().await, refusing_address().await);
    let pool = builder(&[&a, &b]).build().expect("a pool");
    let error = ask(&pool).await.expect_err("all are down");
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    // Each of three rounds tries each server.
    let tried: Vec<_> = pool
        .nodes()
        .iter()
        .map(|n| n.statistics.outcomes.connect)
        .collect();
    assert_eq!(tried, [3, 3]);
    let listener = tokio::net::TcpListener::bind(b.trim_start_matches("http://")).await;
    let _back = Scripted::on(listener.expect("binds"), [named("back")]);
    assert_eq!(ask(&pool).await.expect("a reply").text, "back");
}

#[tokio::test]
async fn a_streamed_reply_counts_as_running_until_it_is_dropped() {
    let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let a = Scripted::start([Act::ReplyAndHang(stream.to_owned())]).await;
    let pool = builder(&[&a.url]).build().expect("a pool");
    let options = SpeechOptions::default();
    let events = pool
        .transcriptions()
        .stream(vec![1], &options)
        .await
        .expect("begins");
    assert_eq!(pool.nodes()[0].in_flight, 1);
    drop(events);
    assert_eq!(pool.nodes()[0].in_flight, 0);
}

#[tokio::test]
async fn an_empty_pool_is_an_error() {
    assert!(matches!(SttPool::new([]), Err(Error::Invalid(_))));
}
