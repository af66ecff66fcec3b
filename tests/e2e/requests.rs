//! A real server with a real model: replies to valid requests.

use serde_json::Value;
use test_support::wav::write_silence;
use test_support::{Server, checks, children, form, model, sample, sample_text, words};

#[tokio::test]
async fn an_english_model_answers_as_documented() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    checks! {
        &server;
        every_format_of_a_real_transcript_is_right,
        a_request_id_is_echoed_and_a_dangerous_one_is_not,
        health_models_and_head_answer_as_the_contract_says,
        fifty_milliseconds_are_valid_and_say_nothing,
    }
}

async fn every_format_of_a_real_transcript_is_right(server: &Server) {
    let file = sample("en-command.wav");
    let expected = words(&sample_text("en-command.wav"));
    for (format, content_type) in [
        ("json", "application/json"),
        ("text", "text/plain"),
        ("verbose_json", "application/json"),
        ("srt", "application/x-subrip"),
        ("vtt", "text/vtt"),
    ] {
        let response = server
            .transcribe(&file, &[("response_format", format)])
            .await;
        assert_eq!(response.status(), 200, "{format}");
        assert_eq!(response.headers()["x-route"], "HOT");
        assert!(response.headers().contains_key("x-request-id"));
        let got = response.headers()["content-type"].to_str().expect("ASCII");
        assert!(got.starts_with(content_type), "{got}");
        let body = response.text().await.expect("a body");
        let text = match format {
            "json" | "verbose_json" => {
                let body: Value = serde_json::from_str(&body).expect("JSON");
                body["text"].as_str().expect("text").to_owned()
            }
            // Times and cue numbers are not part of the text.
            "srt" | "vtt" => body
                .lines()
                .filter(|line| !line.contains("-->") && *line != "WEBVTT")
                .filter(|line| line.parse::<u32>().is_err())
                .collect::<Vec<_>>()
                .join(" "),
            _ => body,
        };
        assert_eq!(words(&text), expected, "{format}");
    }
}

#[tokio::test]
async fn a_multilingual_model_answers_as_documented() {
    let server = Server::ready(&model("base").await, &[]).await;
    checks! {
        &server;
        verbose_json_tells_the_truth_about_a_detected_language_and_its_segments,
        audio_beyond_one_window_is_whole_and_its_words_lie_in_their_segments,
    }
}

async fn verbose_json_tells_the_truth_about_a_detected_language_and_its_segments(server: &Server) {
    let file = sample("es-sentence.wav");
    let response = server
        .transcribe(&file, &[("response_format", "verbose_json")])
        .await;
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["language"], "spanish");
    assert_eq!(body["task"], "transcribe");
    assert_eq!(
        words(body["text"].as_str().expect("text")),
        words(&sample_text("es-sentence.wav"))
    );
    let duration = body["duration"].as_f64().expect("a number");
    assert_eq!(body["usage"]["seconds"].as_f64(), Some(duration.ceil()));
    let mut last = 0.0;
    for segment in body["segments"].as_array().expect("segments") {
        let number = |key: &str| segment[key].as_f64().expect("a number");
        assert!(last <= number("start") && number("start") <= number("end"));
        assert!(number("end") <= duration);
        last = number("end");
        assert!(number("avg_logprob") < 0.0 && number("avg_logprob") > -1.0);
        assert!((0.0..=1.0).contains(&number("no_speech_prob")));
        assert!(number("compression_ratio") > 0.3);
        assert!(number("temperature").abs() < 1e-6);
        assert!(!segment["tokens"].as_array().expect("tokens").is_empty());
    }
    let fields = [("response_format", "verbose_json"), ("temperature", "0.4")];
    let body: Value = (server.transcribe(&file, &fields).await.json().await).expect("JSON");
    assert_eq!(body["segments"][0]["temperature"], 0.4);
    let response = server
        .post("/v1/audio/translations", form(&file, &[]))
        .await;
    let body: Value = response.json().await.expect("JSON");
    let english = words(body["text"].as_str().expect("text"));
    assert!(english.contains(&"music".to_owned()), "{english:?}");
}

async fn audio_beyond_one_window_is_whole_and_its_words_lie_in_their_segments(server: &Server) {
    let file = sample("en-long.ogg");
    let fields = [
        ("response_format", "verbose_json"),
        ("language", "en-GB"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("include[]", "logprobs"),
    ];
    let response = server.transcribe(&file, &fields).await;
    let body: Value = response.json().await.expect("JSON");
    let mut score = test_support::wer::Score::default();
    score.add(
        &sample_text("en-long.ogg"),
        body["text"].as_str().expect("text"),
    );
    assert!(score.rate() < 0.1, "{} {}", score.rate(), body["text"]);
    let all = |name: &str| body[name].as_array().expect("a list").clone();
    let span = |of: &Value| {
        let second = |name: &str| of[name].as_f64().expect("seconds");
        (second("start"), second("end"))
    };
    let (segments, mut rest) = (all("segments"), all("words").into_iter().peekable());
    let starts: Vec<f64> = segments.iter().map(|segment| span(segment).0).collect();
    assert!(
        starts.is_sorted() && starts.last() > Some(&30.0),
        "{starts:?}"
    );
    let mut last = 0.0;
    for segment in &segments {
        let (start, end) = span(segment);
        let mut said = Vec::new();
        while let Some(word) = rest.next_if(|word| span(word).0 < end) {
            let (begins, ends) = span(&word);
            assert!(last <= begins && begins <= ends, "{word}");
            assert!(start <= begins && ends <= end, "{word} in {segment}");
            said.push(word["word"].as_str().expect("a word").to_owned());
            last = ends;
        }
        let text = segment["text"].as_str().expect("text");
        assert_eq!(said.join(" "), text.trim());
    }
    assert_eq!(rest.next(), None);
    let tokens = segments
        .iter()
        .map(|s| s["tokens"].as_array().expect("tokens").len());
    assert_eq!(all("logprobs").len(), tokens.sum::<usize>());
}

async fn a_request_id_is_echoed_and_a_dangerous_one_is_not(server: &Server) {
    let ask = |id: &'static str| {
        let request = server.client.get(format!("{}/livez", server.url));
        request.header("x-request-id", id).send()
    };
    let echoed = ask("abc-123").await.expect("an answer");
    assert_eq!(echoed.headers()["x-request-id"], "abc-123");
    let replaced = ask("with blank").await.expect("an answer");
    assert_ne!(replaced.headers()["x-request-id"], "with blank");
}

async fn health_models_and_head_answer_as_the_contract_says(server: &Server) {
    let health = server.health().await;
    assert_eq!(health["status"], "ok");
    assert_eq!(health["model"], "tiny.en");
    assert_eq!(health["device"], "CPU");
    assert_eq!(health["hot_worker_loaded"], true);
    assert_eq!(health["hot_worker_error"], Value::Null);
    assert_eq!(health["routing"]["accepts_requests"], true);
    let mut keys: Vec<_> = health["smart_routing"]
        .as_object()
        .expect("an object")
        .keys()
        .collect();
    keys.sort();
    insta::assert_json_snapshot!("smart_routing_keys", keys);
    let head = server
        .client
        .head(format!("{}/health", server.url))
        .send()
        .await;
    let head = head.expect("an answer");
    assert_eq!(head.status(), 200);
    assert!(head.bytes().await.expect("a body").is_empty());
    let models: Value = server.get("/v1/models").await.json().await.expect("JSON");
    insta::assert_json_snapshot!("models", models);
    let one: Value = server
        .get("/v1/models/whisper-1")
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(one["owned_by"], "uttera");
    assert_eq!(server.get("/v1/models/gpt-5").await.status(), 404);
    assert_eq!(children(server.pid(), "worker").len(), 1);
}

async fn fifty_milliseconds_are_valid_and_say_nothing(server: &Server) {
    let file = server.folder().join("short.wav");
    write_silence(&file, 50);
    let response = server.transcribe(&file, &[]).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(body["text"], "");
}
