//! Identical uploads to a real server: while the first one runs, after its client left, and after the reply.

use reqwest::Response;
use serde_json::Value;
use test_support::events::{Events, Line};
use test_support::wer::Score;
use test_support::{Server, form, model, sample, sample_text, signal};

async fn text(response: Response) -> String {
    let status = response.status();
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(status, 200, "{body}");
    body["text"].as_str().expect("text").to_owned()
}

async fn joined(server: &Server, from: &str) -> f64 {
    let series = format!("uttera_stt_joined_requests_total{{from=\"{from}\"}}");
    server.metric(&series).await
}

/// Length of the long sample, in seconds.
const LONG: f64 = 35.7;

/// Asserts that these are the words of the long sample, this many times.
fn assert_spoken(text: &str, times: usize) {
    let spoken = vec![sample_text("en-long.ogg"); times].join(" ");
    let wrong = Score::of(&spoken, text).rate();
    assert!(wrong < 0.2, "{wrong} of the words are not those spoken");
}

#[tokio::test]
async fn identical_uploads_at_the_same_time_share_one_run() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    server.share_work();
    let file = sample("en-long.ogg");
    let first = server.transcribe(&file, &[]);
    let others = async {
        server.until_a_lane_has_work().await;
        // The work goes on when both have joined it.
        let worker = server.workers()[0];
        signal(worker, "STOP");
        let joining = async {
            let have_joined = || async { server.log_lines("joining an equal request").len() == 2 };
            server.until("both have joined", have_joined).await;
            signal(worker, "CONT");
        };
        // One more request, because other formats share the same work.
        let streamed = [("stream", "true")];
        let streamed = async {
            let response = server.transcribe(&file, &streamed).await;
            Events::of(response).rest().await
        };
        tokio::join!(server.transcribe(&file, &[]), streamed, joining)
    };
    let (first, (second, (deltas, done), ())) = tokio::join!(first, others);
    let first = text(first).await;
    assert_spoken(&first, 1);
    assert_eq!(
        text(second).await,
        first,
        "the second reply of the same work"
    );
    assert_eq!(done["text"], first, "the streamed text of the same work");
    assert_eq!(
        deltas.concat(),
        first,
        "a joined stream has its beginning as well"
    );
    let done = server.seconds_handed_out();
    assert!(done < 1.1 * LONG, "{done} s of audio for {LONG} s");
    assert!((joined(&server, "running").await - 2.0).abs() < 1e-9);
    let health = server.health().await;
    assert_eq!(health["smart_routing"]["queue_audio_seconds"], 0.0);
}

#[tokio::test]
async fn requests_with_another_key_or_other_options_do_not_share_a_run() {
    let keys = [("API_KEYS", "one,two")];
    let mut server = Server::ready(&model("tiny.en").await, &keys).await;
    server.share_work();
    let file = sample("en-long.ogg");
    let send = |key: &'static str, temperature: &'static str| {
        let fields = [("temperature", temperature)];
        let request = server
            .client
            .post(format!("{}/v1/audio/transcriptions", server.url))
            .bearer_auth(key)
            .multipart(form(&file, &fields));
        async { request.send().await.expect("an answer") }
    };
    let others = async {
        server.until_a_lane_has_work().await;
        tokio::join!(send("two", "0"), send("one", "0.1"))
    };
    let (first, (second, third)) = tokio::join!(send("one", "0"), others);
    for response in [first, second, third] {
        assert_eq!(response.status(), 200);
    }
    assert!(joined(&server, "running").await.abs() < 1e-9);
}

#[tokio::test]
async fn a_cached_result_serves_its_own_key_only_and_no_store_caches_nothing() {
    let settings = [("API_KEYS", "one,two"), ("RESULT_CACHE_SECONDS", "600")];
    let mut server = Server::ready(&model("tiny.en").await, &settings).await;
    server.share_work();
    let (url, http) = (
        format!("{}/v1/audio/transcriptions", server.url),
        server.client.clone(),
    );
    let send = |key: &'static str, caching: &'static str| {
        let request = http.post(&url).bearer_auth(key);
        let request = request.header("cache-control", caching);
        let request = request.multipart(form(&sample("en-command.wav"), &[]));
        async { request.send().await.expect("an answer") }
    };
    // Nothing of the first request is kept; after that, the work is done once for each key.
    for (key, caching, work) in [
        ("one", "no-store", 1),
        ("one", "max-age=0", 1),
        ("one", "max-age=0", 0),
        ("two", "max-age=0", 1),
        ("one", "private, No-Store", 1),
        ("two", "max-age=0", 0),
    ] {
        let before = server.chunks_handed_out();
        assert_eq!(send(key, caching).await.status(), 200);
        let done = server.chunks_handed_out() - before;
        assert_eq!(done, work, "{key} {caching}");
    }
}

#[tokio::test]
async fn the_first_client_may_leave_and_the_second_gets_the_whole_text() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    server.share_work();
    let file = sample("en-long.ogg");
    let mut first = Events::of(server.transcribe(&file, &[("stream", "true")]).await);
    assert!(matches!(first.event().await, Some(Line::Event(_))));
    let worker = server.workers()[0];
    signal(worker, "STOP");
    let second = server.transcribe(&file, &[]);
    let leaving = async {
        server.log_line("joining an equal request").await;
        drop(first);
        signal(worker, "CONT");
    };
    let (second, ()) = tokio::join!(second, leaving);
    let second = text(second).await;
    assert_spoken(&second, 1);
    let done = server.seconds_handed_out();
    assert!(done < 1.1 * LONG, "{done} s of audio for {LONG} s");
}

#[tokio::test]
async fn a_client_that_gives_up_during_every_chunk_gets_its_text_and_nothing_is_done_twice() {
    let mut server = Server::ready(&model("tiny.en").await, &[]).await;
    server.share_work();
    let file = sample("en-long.ogg");
    let mut tries = 0;
    let found = loop {
        tries += 1;
        assert!(tries < 40, "no answer");
        tokio::select! {
            response = server.transcribe(&file, &[]) => break text(response).await,
            () = server.until_a_lane_has_work() => {}
        }
    };
    assert_spoken(&found, 1);
    let chunks = server.chunks_handed_out();
    assert!(
        1 < tries && tries <= chunks + 1,
        "{tries} tries, {chunks} chunks"
    );
    let done = server.seconds_handed_out();
    assert!(done < 1.1 * LONG, "{done} s of audio for {LONG} s");
    let (abandoned, running) = (
        joined(&server, "abandoned").await,
        joined(&server, "running").await,
    );
    assert!((abandoned + running - (tries - 1) as f64).abs() < 1e-9);
}

#[tokio::test]
async fn results_are_cached_only_if_configured() {
    for (seconds, chunks) in [("0", 2), ("600", 1)] {
        let settings = [("RESULT_CACHE_SECONDS", seconds)];
        let mut server = Server::ready(&model("tiny.en").await, &settings).await;
        server.share_work();
        let file = sample("en-sentence.wav");
        let before = server.chunks_handed_out();
        let first = text(server.transcribe(&file, &[]).await).await;
        // In another format, which shares the same work.
        let fields = [("response_format", "verbose_json")];
        let again = server.transcribe(&file, &fields).await;
        assert_eq!(again.headers()["x-route"], "HOT");
        assert_eq!(text(again).await, first);
        assert_eq!(server.chunks_handed_out() - before, chunks, "{seconds} s");
    }
}
