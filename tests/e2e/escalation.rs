//! Escalation with real processes and real models: tiny.en passes doubtful texts on to base, and base is
//! killed, stopped, limited and locked.

use std::path::Path;

use reqwest::Response;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use test_support::escalation_pair::{ALWAYS, NEVER, PATH, fallback, header, primary};
use test_support::events::Events;
use test_support::port::HeldPort;
use test_support::wav::write_silence;
use test_support::wer::{Score, assert_alike};
use test_support::{Server, model, sample, sample_text, signal, words};

const SAMPLE: &str = "en-sentence.wav";

fn form(file: &Path, fields: &[(&str, &str)]) -> Form {
    let bytes = std::fs::read(file).expect("the file is there");
    let audio = Part::bytes(bytes).file_name("a.wav");
    let mut form = Form::new().part("audio", audio);
    for (name, value) in fields {
        form = form.text((*name).to_owned(), (*value).to_owned());
    }
    form
}

async fn transcribe(server: &Server, fields: &[(&str, &str)]) -> Response {
    server.post(PATH, form(&sample(SAMPLE), fields)).await
}

async fn body(response: Response) -> Value {
    response.json().await.expect("JSON")
}

async fn asked(fallback: &Server) -> f64 {
    let series = format!("stt_requests_total{{endpoint=\"{PATH}\"}}");
    fallback.metric(&series).await
}

async fn result(primary: &Server, result: &str) -> f64 {
    primary
        .metric(&format!("stt_fallback_total{{result=\"{result}\"}}"))
        .await
}

#[tokio::test]
async fn a_doubtful_text_is_replaced_by_the_fallbacks_and_the_reply_says_so() {
    let fallback = fallback(&[("API_KEYS", "between-us")]).await;
    let primary = primary(&fallback, &[("FALLBACK_API_KEY", "between-us")]).await;
    let response = transcribe(&primary, &[]).await;
    assert_eq!(response.status(), 200);
    for (name, expected) in [
        ("x-fallback-used", "true"),
        ("x-final-model", "base"),
        ("x-conf-below", "logprob"),
        // The primary's model knows English only.
        ("x-lang-check-applicable", "false"),
    ] {
        assert_eq!(header(&response, name), Some(expected), "{name}");
    }
    let millis = |name| -> u64 { header(&response, name).expect(name).parse().expect("whole") };
    let parts = millis("x-queue-wait-ms") + millis("x-primary-infer-ms");
    assert!(millis("x-fallback-infer-ms") > 0 && millis("x-primary-infer-ms") > 0);
    assert!(parts + millis("x-fallback-infer-ms") <= millis("x-total-ms") + 2);
    assert_eq!(header(&response, "x-fallback-error"), None);
    let id = header(&response, "x-req-id").expect("an id").to_owned();
    let reply = body(response).await;
    assert_eq!(
        words(reply["text"].as_str().expect("text")),
        words(&sample_text(SAMPLE))
    );
    assert_eq!(
        (&reply["model"], &reply["fallback_used"]),
        (&"base".into(), &true.into())
    );
    assert_eq!(
        (&reply["request_id"], &reply["language"]),
        (&id.into(), &"en".into())
    );
    assert!(reply["confidence"].as_f64().expect("a number") > 0.3);
    assert!(reply["segments"][0]["avg_logprob"].is_f64());
    assert!(reply["timings"]["fallback_infer_ms"].as_u64() > Some(0));
    // The same on OpenAI's path, with all fields of its formats.
    let fields = [
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ];
    let response = primary.transcribe(&sample(SAMPLE), &fields).await;
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
    let verbose = body(response).await;
    assert_eq!(verbose["text"], reply["text"]);
    let words = verbose["words"].as_array().expect("words");
    assert!(words.len() > 3 && words[0]["end"].as_f64() > words[0]["start"].as_f64());
    assert_eq!(asked(&fallback).await.to_string(), "2");
    assert_eq!(result(&primary, "used").await.to_string(), "2");
    // The fallback logs the request under the id in the client's reply.
    let id = reply["request_id"].as_str().expect("an id");
    fallback.log_line(id).await;
}

#[tokio::test]
async fn the_last_event_of_a_stream_names_the_model() {
    let fallback = fallback(&[]).await;
    let primary = primary(&fallback, &[]).await;
    let stream = async || {
        let file = sample(SAMPLE);
        let response = primary.transcribe(&file, &[("stream", "true")]).await;
        let (deltas, done) = Events::of(response).rest().await;
        assert_eq!(done["text"], deltas.concat());
        assert_alike(&deltas.concat(), &sample_text(SAMPLE));
        done
    };
    let done = stream().await;
    let direct = body(fallback.transcribe(&sample(SAMPLE), &[]).await).await;
    assert_eq!(done["text"], direct["text"]);
    assert_eq!(
        (&done["x_fallback_used"], &done["x_final_model"]),
        (&true.into(), &"base".into())
    );
    assert_eq!(done["x_fallback_error"], Value::Null);
    assert_eq!(asked(&fallback).await.to_string(), "1");
    drop(fallback);
    let done = stream().await;
    assert_eq!(
        (&done["x_fallback_used"], &done["x_final_model"]),
        (&false.into(), &"tiny.en".into())
    );
    let reason = done["x_fallback_error"].as_str();
    assert!(reason.is_some_and(|reason| !reason.is_empty()), "{done}");
}

#[tokio::test]
async fn trusted_texts_and_silence_are_not_escalated() {
    let fallback = fallback(&[]).await;
    let primary = primary(&fallback, &NEVER).await;
    let response = transcribe(&primary, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-fallback-used"), Some("false"));
    assert_eq!(header(&response, "x-final-model"), Some("tiny.en"));
    assert_eq!(header(&response, "x-conf-below"), None);
    drop(primary);
    let primary = self::primary(&fallback, &[]).await;
    let silence = primary.folder().join("silence.wav");
    write_silence(&silence, 2000);
    let response = primary.post(PATH, form(&silence, &[])).await;
    assert_eq!(header(&response, "x-fallback-used"), Some("false"));
    assert_eq!(body(response).await["text"], "");
    assert_eq!(asked(&fallback).await.to_string(), "0");
    assert_eq!(result(&primary, "skipped").await.to_string(), "1");
}

/// Asserts a 502 with all headers and the primary's text.
async fn check_failed(response: Response, kind: &str) {
    assert_eq!(response.status(), 502);
    assert_eq!(header(&response, "x-error-type"), Some(kind));
    let message = header(&response, "x-error-message")
        .expect("a message")
        .to_owned();
    let error = header(&response, "x-fallback-error")
        .expect("an error")
        .to_owned();
    assert!(message.ends_with(&error), "{message}: {error}");
    for name in [
        "x-req-id",
        "x-queue-wait-ms",
        "x-primary-infer-ms",
        "x-total-ms",
    ] {
        assert!(header(&response, name).is_some(), "{name}");
    }
    assert_eq!(header(&response, "x-fallback-used"), Some("false"));
    assert_eq!(header(&response, "x-conf-below"), Some("logprob"));
    let body = body(response).await;
    assert_eq!(
        (&body["error"]["type"], &body["error"]["code"]),
        (&"server_error".into(), &kind.into())
    );
    let text = body["primary"]["text"].as_str().expect("nothing is lost");
    assert_alike(text, &sample_text(SAMPLE));
    assert_eq!(body["primary"]["model"], "tiny.en");
}

/// Asserts that OpenAI's path returns 200 nevertheless.
async fn check_fine_without(primary: &Server) {
    let response = primary.transcribe(&sample(SAMPLE), &[]).await;
    assert_eq!(response.status(), 200);
    assert!(header(&response, "x-fallback-error").is_some());
    assert_eq!(header(&response, "x-final-model"), Some("tiny.en"));
    let text = body(response).await["text"]
        .as_str()
        .expect("text")
        .to_owned();
    assert_alike(&text, &sample_text(SAMPLE));
}

#[tokio::test]
async fn a_killed_fallback_loses_no_text_and_is_used_again_after_a_restart() {
    let port = HeldPort::new();
    let fallback = fallback(&[port.setting()]).await;
    let primary = primary(&fallback, &[]).await;
    signal(fallback.pid(), "KILL");
    drop(fallback);
    check_failed(transcribe(&primary, &[]).await, "fallback_unreachable").await;
    check_fine_without(&primary).await;
    assert_eq!(result(&primary, "failed").await.to_string(), "2");
    assert_eq!(
        primary
            .metric(r#"uttera_stt_errors_total{type="fallback"}"#)
            .await
            .to_string(),
        "2"
    );
    let _fallback = self::fallback(&[port.setting()]).await;
    let response = transcribe(&primary, &[]).await;
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
}

#[tokio::test]
async fn a_hanging_fallback_is_awaited_up_to_its_timeout_without_holding_a_lane() {
    let fallback = fallback(&[]).await;
    let patient = primary(&fallback, &[("FALLBACK_TIMEOUT_S", "120")]).await;
    let primary = primary(&fallback, &[("FALLBACK_TIMEOUT_S", "3")]).await;
    signal(fallback.pid(), "STOP");
    let hanging = transcribe(&patient, &[]);
    let others = async {
        patient.log_line("the text is doubtful").await;
        let free = || async { !patient.is_busy().await };
        patient.until("the lane is free", free).await;
        assert_eq!(patient.log_lines("the fallback failed").len(), 0);
        assert_eq!(patient.workers().len(), 1);
        check_failed(transcribe(&primary, &[]).await, "fallback_timeout").await;
        signal(fallback.pid(), "CONT");
    };
    let (response, ()) = tokio::join!(hanging, others);
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
}

#[tokio::test]
async fn a_fallback_that_rejects_requests_is_reported_as_such() {
    // One request from time to time.
    let limited = fallback(&[("RATE_LIMIT_RPS", "0.01"), ("RATE_LIMIT_BURST", "1")]).await;
    let primary = primary(&limited, &[]).await;
    let response = transcribe(&primary, &[]).await;
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
    check_failed(transcribe(&primary, &[]).await, "fallback_rate_limited").await;
    drop((primary, limited));
    let locked = fallback(&[("API_KEYS", "sesame")]).await;
    let primary = self::primary(&locked, &[("FALLBACK_API_KEY", "pomegranate")]).await;
    check_failed(transcribe(&primary, &[]).await, "fallback_refused").await;
    let log = primary.log().join("\n") + &locked.log().join("\n");
    assert!(!log.contains("pomegranate") && !log.contains("sesame"));
}

#[tokio::test]
async fn a_given_language_is_passed_on_and_a_detected_one_is_tested() {
    let fallback = fallback(&[]).await;
    let url = fallback.url.clone();
    let settings = [
        ("FALLBACK_URL", url.as_str()),
        ("CONF_LANGPROB_THRESHOLD", "1"),
        NEVER[0],
        NEVER[1],
    ];
    let primary = Server::ready(&model("base").await, &settings).await;
    let file = sample("es-sentence.wav");
    let response = primary.post(PATH, form(&file, &[("language", "es")])).await;
    assert_eq!(header(&response, "x-lang-check-applicable"), Some("false"));
    assert_eq!(header(&response, "x-fallback-used"), Some("false"));
    assert_eq!(body(response).await["language_probability"], Value::Null);
    let response = primary.post(PATH, form(&file, &[])).await;
    assert_eq!(header(&response, "x-lang-check-applicable"), Some("true"));
    assert_eq!(header(&response, "x-conf-below"), Some("langprob"));
    let reply = body(response).await;
    assert_eq!(
        (&reply["language"], &reply["fallback_used"]),
        (&"es".into(), &true.into())
    );
    assert!(reply["language_probability"].as_f64() > Some(0.5));
}

#[tokio::test]
async fn only_the_doubtful_chunks_of_a_long_file_are_escalated() {
    let file = sample("en-long.ogg");
    // The machine's speed decides where the file is cut. The chunk in which the language is detected is doubtful
    // in any case; the others take the language of the fallback, whose text is judged by its words alone.
    let other = Server::ready(&model("tiny.en").await, &[]).await;
    let settings = [
        ("FALLBACK_URL", other.url.as_str()),
        ("CONF_LANGPROB_THRESHOLD", "1"),
        NEVER[0],
        NEVER[1],
    ];
    let primary = Server::ready(&model("base").await, &settings).await;
    let response = primary.post(PATH, form(&file, &[])).await;
    assert_eq!(header(&response, "x-final-model"), Some("base+tiny.en"));
    assert_eq!(header(&response, "x-conf-below"), Some("langprob"));
    assert_eq!(asked(&other).await.to_string(), "1");
    let passed_on = primary.log_lines("the text is doubtful");
    assert!(
        passed_on.len() == 1 && passed_on[0].contains("chunk=0"),
        "{passed_on:?}"
    );
    assert!(primary.chunks_handed_out() > 1);
    let reply = body(response).await;
    let text = reply["text"].as_str().expect("text");
    let wrong = Score::of(&sample_text("en-long.ogg"), text).rate();
    // The fallback's model is the smaller one here, and its chunk may be half of the file.
    assert!(wrong <= 0.2, "{text}");
    // Only the first chunk was doubtful: its times are the fallback's.
    let ends = reply["segments"].as_array().expect("segments").iter();
    let ends: Vec<_> = ends.map(|segment| segment["end"].as_f64()).collect();
    assert!(ends.is_sorted() && ends.last().copied().flatten() > Some(30.0));
}

#[tokio::test]
async fn a_fallback_model_of_this_node_has_a_worker_while_it_is_needed() {
    let fallback_model = model("base").await;
    let settings = [
        ALWAYS,
        ("FALLBACK_MODEL", fallback_model.to_str().expect("UTF-8")),
        ("COLD_WORKER_IDLE_TIMEOUT", "1"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    assert_eq!(server.workers().len(), 1);
    let response = transcribe(&server, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
    assert_eq!(header(&response, "x-final-model"), Some("base"));
    let text = body(response).await["text"]
        .as_str()
        .expect("text")
        .to_owned();
    assert_alike(&text, &sample_text(SAMPLE));
    server
        .until("its worker goes", || async { server.workers().len() == 1 })
        .await;
    // The fallback is running again.
    let response = server.transcribe(&sample(SAMPLE), &[]).await;
    assert_eq!(header(&response, "x-fallback-used"), Some("true"));
    drop(server);
    let settings = [ALWAYS, ("FALLBACK_MODEL", "/nowhere/model.bin")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    check_failed(transcribe(&server, &[]).await, "fallback_model").await;
}

#[tokio::test]
async fn a_node_without_a_working_model_passes_everything_on() {
    let fallback = fallback(&[]).await;
    let url = fallback.url.clone();
    let settings = [("FALLBACK_URL", url.as_str())];
    let broken = Path::new("/nowhere/model.bin");
    let primary = Server::start(broken, &settings).await;
    primary.log_line("cannot transcribe").await;
    let response = transcribe(&primary, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-final-model"), Some("base"));
    drop(fallback);
    let response = transcribe(&primary, &[]).await;
    assert_eq!(response.status(), 502);
    for (name, expected) in [
        ("x-error-type", "fallback_unreachable"),
        ("x-fallback-used", "false"),
    ] {
        assert_eq!(header(&response, name), Some(expected), "{name}");
    }
    for name in [
        "x-queue-wait-ms",
        "x-primary-infer-ms",
        "x-fallback-infer-ms",
        "x-total-ms",
    ] {
        let millis = header(&response, name).map(str::parse::<u64>);
        assert!(matches!(millis, Some(Ok(_))), "{name}: {millis:?}");
    }
    for name in ["x-req-id", "x-error-message", "x-fallback-error"] {
        assert!(header(&response, name).is_some(), "{name}");
    }
    assert_eq!(body(response).await["primary"], Value::Null);
    // OpenAI's clients get the error of this node.
    let response = primary.transcribe(&sample(SAMPLE), &[]).await;
    assert_eq!(response.status(), 503);
    assert!(header(&response, "x-fallback-error").is_some());
    assert_eq!(body(response).await["error"]["code"], "loading");
}

#[tokio::test]
async fn two_nodes_that_are_each_others_fallback_do_not_loop() {
    let port = HeldPort::new();
    let first = fallback(&[port.setting()]).await;
    let second = primary(&first, &[]).await;
    drop(first);
    let url = second.url.clone();
    let settings = [("FALLBACK_URL", url.as_str()), port.setting(), ALWAYS];
    let first = Server::ready(&model("base").await, &settings).await;
    let response = transcribe(&second, &[]).await;
    assert_eq!(header(&response, "x-final-model"), Some("base"));
    assert_eq!(asked(&first).await.to_string(), "1");
    assert_eq!(asked(&second).await.to_string(), "1");
}

#[tokio::test]
async fn errors_name_their_type_in_a_header_and_figures_are_served_as_json() {
    let settings = [("API_KEYS", "sesame"), ("SERVER_COMMIT", "prod-7")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let response = transcribe(&server, &[]).await;
    assert_eq!(response.status(), 401);
    assert_eq!(header(&response, "x-error-type"), Some("invalid_api_key"));
    assert!(header(&response, "x-req-id").is_some());
    let keyed = |form| {
        let request = server.client.post(format!("{}{PATH}", server.url));
        request.bearer_auth("sesame").multipart(form).send()
    };
    let response = keyed(Form::new().text("language", "en"))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 400);
    assert_eq!(header(&response, "x-error-type"), Some("missing_file"));
    assert_eq!(body(response).await["error"]["param"], "audio");
    let garbage = Form::new().part("audio", Part::bytes(b"garb\xc3\xa4ge".to_vec()));
    let response = keyed(garbage).await.expect("an answer");
    assert_eq!(
        header(&response, "x-error-type"),
        Some("audio_decode_error")
    );
    let fine = keyed(form(
        &sample(SAMPLE),
        &[("language", "en"), ("response_format", "srt")],
    ))
    .await;
    let reply = body(fine.expect("an answer")).await;
    assert_eq!(reply["fallback_used"], false);
    // Health is open, metrics require a key.
    let health: Value = body(server.get("/v1/health").await).await;
    assert_eq!(
        (&health["ok"], &health["role"]),
        (&true.into(), &"hotcold".into())
    );
    assert_eq!(server.get("/v1/metrics").await.status(), 401);
    let request = server.client.get(format!("{}/v1/metrics", server.url));
    let figures = body(
        request
            .bearer_auth("sesame")
            .send()
            .await
            .expect("an answer"),
    )
    .await;
    assert_eq!(figures["server_commit"], "prod-7");
    let counters = &figures["counters"];
    assert_eq!(counters["requests_total"][PATH], 4);
    let exceptions = &counters["requests_exceptions_total"][PATH];
    assert_eq!(
        (&exceptions["auth"], &exceptions["decode"]),
        (&1.into(), &1.into())
    );
    let latency = &figures["latency_ms"]["request_total"];
    // Refused ones are not in it.
    assert_eq!(latency["count"], 1);
    assert!(latency["p50"].as_f64() <= latency["p99"].as_f64());
    assert_eq!(figures["gpu"]["mem_total_mb"], Value::Null);
}
