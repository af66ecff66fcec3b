//! The client crate and a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use test_support::escalation_pair::{fallback, primary};
use test_support::port::HeldPort;
use test_support::wer::{Score, assert_alike};
use test_support::{Server, model, sample, sample_text, signal, words};
use uttera_stt_client::{
    Attempt, Audio, Client, Error, Granularity, ResponseFormat, SpeechEvent, SpeechOptions,
    Standing, SttPool, TranscribeOptions, Word,
};

const KEY: &str = "sesame";

fn client(server: &Server) -> Client {
    let client = Client::builder(&server.url).api_key(KEY);
    // The requests are equal, but the server must work on each.
    let client = client.header("cache-control", "no-store");
    client.build().expect("a client")
}

fn options() -> SpeechOptions {
    SpeechOptions::default()
}

#[tokio::test]
async fn every_reply_has_its_types() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    let client = client(&server);
    let audio = || Audio::file(sample("en-command.wav"));
    let said = words(&sample_text("en-command.wav"));

    let options = SpeechOptions {
        request_id: Some("of-a-test".to_owned()),
        logprobs: true,
        ..options()
    };
    let speech = client.transcriptions();
    let reply = speech.json(audio(), &options).await.expect("a reply");
    assert_eq!(words(&reply.text), said);
    assert_eq!(reply.headers.request_id.as_deref(), Some("of-a-test"));
    assert_eq!(reply.headers.route.as_deref(), Some("HOT"));
    assert!(reply.headers.queue_position.is_some() && reply.usage.is_some());
    let tokens: String = reply
        .logprobs
        .iter()
        .map(|token| token.token.as_str())
        .collect();
    assert_eq!(words(&tokens), said);

    let options = SpeechOptions {
        granularities: vec![Granularity::Segment, Granularity::Word],
        ..options
    };
    let reply = speech
        .verbose_json(audio(), &options)
        .await
        .expect("a reply");
    assert_eq!(reply.language.as_deref(), Some("english"));
    assert!(reply.duration > Some(1.0), "{reply:?}");
    let told: Vec<_> = reply.words.iter().map(|word| word.word.as_str()).collect();
    assert_eq!(words(&told.join(" ")), said);
    assert!(reply.words.iter().all(|word| word.start <= word.end));
    let segment = &reply.segments[0];
    assert!(segment.avg_logprob.is_some() && !segment.tokens.is_empty());

    let format = ResponseFormat::Srt;
    let subtitles = speech
        .rendered(audio(), format, &options)
        .await
        .expect("a reply");
    assert!(subtitles.starts_with("1\n00:00:00,"), "{subtitles}");

    let models = client.models().await.expect("models");
    assert!(
        models.iter().any(|model| model.id == "tiny.en"),
        "{models:?}"
    );
    assert_eq!(client.health().await.expect("health")["status"], "ok");
    let statistics = client.statistics();
    assert_eq!(
        (statistics.latencies, statistics.outcomes.succeeded),
        (5, 5)
    );
    assert!(statistics.p50 <= statistics.p95 && statistics.p95 <= statistics.p99);
}

#[tokio::test]
async fn a_pairs_reply_has_its_types_and_so_has_its_failure() {
    let fallback_node = fallback(&[("API_KEYS", KEY)]).await;
    let keys = [("API_KEYS", KEY), ("FALLBACK_API_KEY", KEY)];
    let primary_node = primary(&fallback_node, &keys).await;
    let client = client(&primary_node);
    let name = "en-sentence.wav";
    let said = words(&sample_text(name));
    let options = TranscribeOptions {
        words: true,
        request_id: Some("of-a-pair".to_owned()),
        ..TranscribeOptions::default()
    };
    let reply = client.transcribe(sample(name), &options).await;
    let reply = reply.expect("a reply");
    assert_eq!(words(&reply.text), said);
    assert_eq!(
        (reply.fallback_used, reply.model.as_deref()),
        (true, Some("base"))
    );
    assert_eq!(reply.request_id.as_deref(), Some("of-a-pair"));
    assert_eq!(reply.language.as_deref(), Some("en"));
    assert!(reply.confidence > Some(0.3) && reply.duration > Some(7.0));
    let told: Vec<&Word> = reply.all_words().collect();
    let joined: Vec<_> = told.iter().map(|word| word.word.as_str()).collect();
    assert_eq!(words(&joined.join(" ")), said);
    assert!(told.iter().all(|word| word.start <= word.end));
    assert!(reply.segments[0].avg_logprob.is_some());
    let (timings, headers) = (reply.timings, &reply.headers);
    assert!(timings.primary_infer_ms > Some(0.0) && timings.fallback_infer_ms > Some(0.0));
    for (told, millis) in [
        (headers.queue_wait, timings.queue_wait_ms),
        (headers.primary_infer, timings.primary_infer_ms),
        (headers.fallback_infer, timings.fallback_infer_ms),
        (headers.total, timings.total_ms),
    ] {
        assert_eq!(told.map(|told| told.as_millis() as f64), millis);
    }
    assert_eq!(headers.request_id.as_deref(), Some("of-a-pair"));
    assert_eq!(headers.fallback_used, Some(true));
    assert_eq!(headers.final_model.as_deref(), Some("base"));
    assert_eq!(headers.conf_below, ["logprob"]);
    assert_eq!(headers.lang_check_applicable, Some(false));
    assert_eq!(
        (&headers.fallback_error, &headers.error_type),
        (&None, &None)
    );
    fallback_node.log_line("of-a-pair").await;

    drop(fallback_node);
    let error = client.transcribe(sample(name), &options).await;
    let error = error.expect_err("no fallback is running");
    let status = error.status().expect("a status");
    assert_eq!(
        (status.status, status.code.as_deref()),
        (502, Some("fallback_unreachable"))
    );
    let headers = &status.headers;
    assert_eq!(headers.error_type, status.code);
    let reason = headers.fallback_error.as_deref().expect("a reason");
    assert!(status.message.ends_with(reason), "{status}: {reason}");
    assert_eq!(headers.fallback_used, Some(false));
    assert!(headers.primary_infer > Some(Duration::ZERO) && headers.total.is_some());
    assert_eq!(status.request_id.as_deref(), Some("of-a-pair"));
    let kept = status.primary.as_deref().expect("nothing is lost");
    assert_alike(&kept.text, &sample_text(name));
    assert_eq!(
        (kept.fallback_used, kept.model.as_deref()),
        (false, Some("tiny.en"))
    );
    assert_eq!(kept.request_id.as_deref(), Some("of-a-pair"));
    assert!(kept.all_words().count() > 3 && kept.confidence.is_some());

    let health = client.tier_health().await.expect("health");
    assert_eq!(
        (&health["ok"], &health["model"]),
        (&true.into(), &"tiny.en".into())
    );
    let figures = client.metrics().await.expect("figures");
    let counters = &figures["counters"];
    // A 502 may be temporary, so the client retried.
    let failed = client.statistics().outcomes.server_error;
    assert_eq!(counters["requests_total"]["/v1/transcribe"], 1 + failed);
    let expected = json!({"used": 1, "skipped": 0, "failed": failed});
    assert_eq!(counters["fallback_total"], expected);
}

#[tokio::test]
async fn an_error_of_the_server_is_shown_in_its_words() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&attempts);
    let count = move |_: &Attempt<'_>| {
        seen.fetch_add(1, Ordering::Relaxed);
    };
    let stranger = Client::builder(&server.url).telemetry(count);
    let stranger = stranger.build().expect("a client");
    let audio = Audio::file(sample("en-command.wav"));
    let error = stranger.transcriptions().json(audio, &options()).await;
    let error = error.expect_err("has no key");
    let status = error.status().expect("a status");
    assert_eq!(
        (status.status, status.code.as_deref()),
        (401, Some("invalid_api_key"))
    );
    assert!(!error.is_retryable());
    assert_eq!(attempts.load(Ordering::Relaxed), 1);

    let client = client(&server);
    let audio = || Audio::file(sample("en-command.wav"));
    let error = client.translations().json(audio(), &options()).await;
    let error = error.expect_err("knows English only");
    let code = error.status().and_then(|status| status.code.as_deref());
    assert_eq!(code, Some("translation_unsupported"));
    let wrong = SpeechOptions {
        temperature: Some(7.0),
        ..options()
    };
    let error = client.transcriptions().json(audio(), &wrong).await;
    let error = error.expect_err("is too warm");
    let param = error.status().and_then(|status| status.param.as_deref());
    assert_eq!(param, Some("temperature"));
    let noise = Audio::reader(&b"no audio"[..]).named("a.wav");
    let error = client.transcriptions().json(noise, &options()).await;
    let error = error.expect_err("is no audio");
    let code = error.status().and_then(|status| status.code.as_deref());
    assert_eq!(code, Some("audio_decode_error"));
}

#[tokio::test]
async fn a_refusal_is_heard_though_most_of_the_upload_never_went_out() {
    let model = model("tiny.en").await;
    let settings = [("API_KEYS", KEY), ("MAX_UPLOAD_MB", "1")];
    let server = Server::ready(&model, &settings).await;
    let large = server.folder().join("large.wav");
    std::fs::write(&large, vec![0; 50_000_000]).expect("writes");
    let stranger = Client::new(&server.url).expect("a client");
    for (client, expected) in [
        (stranger, "invalid_api_key"),
        (client(&server), "upload_too_large"),
    ] {
        for _ in 0..5 {
            let error = client
                .transcriptions()
                .json(large.as_path(), &options())
                .await;
            let error = error.expect_err("is refused");
            let code = error.status().and_then(|status| status.code.as_deref());
            assert_eq!(code, Some(expected), "{error:?}");
        }
        assert_eq!(client.statistics().outcomes.refused, 5);
    }
}

#[tokio::test]
async fn a_stream_gives_the_text_while_it_is_made() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", KEY)]).await;
    let client = client(&server);
    let audio = Audio::file(sample("en-long.ogg"));
    let speech = client.transcriptions();
    let mut events = speech.stream(audio, &options()).await.expect("begins");
    let mut deltas = Vec::new();
    let done = loop {
        match events
            .next()
            .await
            .expect("ends with the text")
            .expect("an event")
        {
            SpeechEvent::Delta(delta) => deltas.push(delta.text),
            SpeechEvent::Done(done) => break done,
            other => panic!("{other:?}"),
        }
    };
    assert!(deltas.len() > 1 && events.next().await.is_none());
    assert_eq!(deltas.concat(), done.text);
    assert_eq!(done.x_route.as_deref(), Some("HOT"));
    // The chunks are as short as the machine is slow, which costs words with this small model.
    let wrong = Score::of(&sample_text("en-long.ogg"), &done.text).rate();
    assert!(wrong <= 0.2, "{}", done.text);

    // Dropping the stream cancels the work.
    let audio = Audio::file(server.long_file(10));
    let mut events = speech.stream(audio, &options()).await.expect("begins");
    events.next().await.expect("more").expect("an event");
    drop(events);
    let idle = || async { !server.is_busy().await };
    server.until("the work is given up", idle).await;
}

#[tokio::test]
async fn a_pool_loses_nothing_when_a_server_dies_and_finds_it_when_it_is_back() {
    let model = model("tiny.en").await;
    let port = HeldPort::new();
    let settings = [("API_KEYS", KEY), port.setting()];
    let mut first = Server::ready(&model, &settings).await;
    let second = Server::ready(&model, &[("API_KEYS", KEY)]).await;
    let pool = SttPool::builder([client(&first), client(&second)]);
    let pool = pool
        .timeout(Duration::from_secs(120))
        .build()
        .expect("a pool");
    let ask = |name: &'static str| {
        let pool = pool.clone();
        async move {
            let speech = pool.transcriptions();
            let reply = speech.json(Audio::file(sample(name)), &options()).await?;
            Ok::<_, Error>((name, reply.text))
        }
    };
    // Each server has one request, and the first one dies during its own.
    signal(first.workers()[0], "STOP");
    let long = tokio::spawn(ask("en-long.ogg"));
    first.until_a_lane_has_work().await;
    first.child.kill().expect("lives");
    first.child.wait().expect("ends");
    let replies = [long.await.expect("ends"), ask("en-command.wav").await];
    for reply in replies {
        let (name, text) = reply.expect("the other one does it");
        let wrong = Score::of(&sample_text(name), &text).rate();
        assert!(wrong <= 0.1, "{name}: {text}");
    }
    let nodes = pool.nodes();
    assert_eq!(nodes[0].statistics.outcomes.succeeded, 0, "{nodes:?}");
    assert_eq!(nodes[1].statistics.outcomes.succeeded, 2, "{nodes:?}");

    // Until the pool notices that it is gone.
    while pool.nodes()[0].standing != Standing::Ejected {
        ask("en-command.wav").await.expect("the other one does it");
    }
    let back = Server::ready(&model, &settings).await;
    assert_eq!(back.url, first.url);
    let found = || async { pool.nodes()[0].standing == Standing::Active };
    back.until("a probe finds it", found).await;
    for _ in 0..2 {
        ask("en-command.wav").await.expect("a reply");
    }
    let nodes = pool.nodes();
    assert!(nodes[0].statistics.outcomes.succeeded > 0, "{nodes:?}");
}
