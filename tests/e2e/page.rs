//! The page in a real browser: what people do with it, on a real server and model. `tests/support/page/page.mjs` has
//! the scenarios.

use serde_json::{Value, json};
use test_support::page::Scenario;
use test_support::tls::Authority;
use test_support::{Server, model, sample, sample_text, signal};

const SPOKEN: &str = "en-sentence.wav";

/// A scenario with the samples that all of them use.
fn scenario(name: &str, server: &Server, more: Value) -> Option<Scenario> {
    let mut settings = json!({
        "url": format!("{}/", server.url),
        "command": sample("en-command.wav"),
        "commandText": sample_text("en-command.wav"),
        "long": sample("en-long.ogg"),
        "longText": sample_text("en-long.ogg"),
        "spanish": sample("es-sentence.wav"),
        // Chromium reads no file whose path has two dots.
        "microphone": sample(SPOKEN).canonicalize().expect("it is there"),
        "spokenText": sample_text(SPOKEN),
    });
    if let (Value::Object(settings), Value::Object(more)) = (&mut settings, more) {
        settings.extend(more);
    }
    Scenario::begin("page.mjs", name, &settings)
}

/// Runs a scenario in which nothing is asked of the test.
async fn run(name: &str, server: &Server, more: Value) {
    if let Some(mut running) = scenario(name, server, more) {
        assert_eq!(running.next().await, None);
    }
}

#[tokio::test]
async fn files_are_transcribed_played_edited_downloaded_and_kept() {
    let server = Server::ready(&model("base").await, &[]).await;
    run("files", &server, json!({})).await;
}

#[tokio::test]
async fn text_appears_while_one_speaks() {
    // A key with characters that the name of a sub-protocol may not have.
    let key = "a/key=1";
    let server = Server::ready(&model("base").await, &[("API_KEYS", key)]).await;
    run("speak", &server, json!({"key": key})).await;
}

#[tokio::test]
async fn what_was_said_on_a_slow_connection_is_in_the_text() {
    let server = Server::ready(&model("base").await, &[]).await;
    run("speakSlowly", &server, json!({})).await;
}

/// Stops the server and starts another one on its port, when the scenario asks for it.
async fn stop_and_start(name: &str, settings: &[(&str, &str)], more: impl Fn(&Server) -> Value) {
    let tiny = model("tiny.en").await;
    let mut server = Server::ready(&tiny, settings).await;
    let port = server.url.rsplit(':').next().expect("a port").to_owned();
    let Some(mut running) = scenario(name, &server, more(&server)) else {
        return;
    };
    assert_eq!(running.next().await.as_deref(), Some("stop"));
    signal(server.pid(), "TERM");
    server.log_line("draining").await;
    // Again: at once.
    server.terminate().await;
    running.answer().await;
    assert_eq!(running.next().await.as_deref(), Some("start"));
    let with_port = [settings, &[("PORT", port.as_str())]].concat();
    let _server = Server::start(&tiny, &with_port).await;
    running.answer().await;
    assert_eq!(running.next().await, None);
}

#[tokio::test]
async fn a_recording_without_a_live_session_waits_for_the_server_and_outlives_the_page() {
    let settings = [("MAX_LIVE_SESSIONS", "0")];
    stop_and_start("speakWithoutSession", &settings, |_| json!({})).await;
}

#[tokio::test]
async fn a_file_waits_for_a_server_that_comes_back() {
    stop_and_start("stopped", &[], |_| json!({})).await;
}

#[tokio::test]
async fn a_stream_that_a_restart_interrupts_is_begun_again() {
    let hour = |server: &Server| json!({"hour": server.long_file(100)});
    stop_and_start("restarted", &[], hour).await;
}

#[tokio::test]
async fn a_browser_without_storage_and_a_file_that_vanishes() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let file = server.folder().join("vanishing.wav");
    std::fs::copy(sample("en-command.wav"), &file).expect("copies");
    // It waits for two other files until it is gone.
    let hot = server.workers()[0];
    signal(hot, "STOP");
    let Some(mut running) = scenario("withoutStorage", &server, json!({"vanishing": file})) else {
        return;
    };
    assert_eq!(running.next().await.as_deref(), Some("vanish"));
    std::fs::remove_file(&file).expect("removes");
    signal(hot, "CONT");
    running.answer().await;
    assert_eq!(running.next().await, None);
}

#[tokio::test]
async fn a_page_over_plain_http_says_why_there_is_no_microphone() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    run("withoutMicrophone", &server, json!({})).await;
}

#[tokio::test]
async fn over_https_a_page_of_another_machine_has_the_microphone() {
    let issued = Authority::new();
    let issued = issued.issue("stt.test");
    let server = Server::ready(&model("base").await, &issued.settings()).await;
    run("speakOverHttps", &server, json!({})).await;
}

#[tokio::test]
async fn the_page_asks_for_a_key_and_keeps_it() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "sesame")]).await;
    run("key", &server, json!({"key": "sesame"})).await;
}

#[tokio::test]
async fn a_full_queue_is_waited_for_and_a_file_can_be_cancelled() {
    let settings = [("MAX_QUEUE_SECONDS", "0.01")];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let hot = server.workers()[0];
    signal(hot, "STOP");
    let Some(mut running) = scenario("full", &server, json!({})) else {
        return;
    };
    assert_eq!(running.next().await.as_deref(), Some("continue"));
    signal(hot, "CONT");
    running.answer().await;
    assert_eq!(running.next().await, None);
}

#[tokio::test]
async fn a_file_that_waits_says_how_long_and_leaves_the_queue_when_it_is_cancelled() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let hot = server.workers()[0];
    signal(hot, "STOP");
    let others: Vec<_> = (0..3)
        .map(|_| tokio::spawn(server.transcription("en-command.wav")))
        .collect();
    let waiting = || async { server.health().await["smart_routing"]["queue_depth"] == 2 };
    server.until("they wait", waiting).await;
    let Some(mut running) = scenario("queue", &server, json!({})) else {
        return;
    };
    assert_eq!(running.next().await.as_deref(), Some("cancelled"));
    server.until("its place is free", waiting).await;
    signal(hot, "CONT");
    running.answer().await;
    assert_eq!(running.next().await, None);
    for other in others {
        let response = other.await.expect("no panic").expect("an answer");
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn options_are_kept_and_errors_are_sentences() {
    let server = Server::ready(&model("base").await, &[]).await;
    run("options", &server, json!({})).await;
}

#[tokio::test]
async fn a_phone_shows_a_file_of_three_hours_and_text_from_right_to_left() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    run("phone", &server, json!({})).await;
}

#[tokio::test]
async fn page_and_board_can_be_switched_off_and_their_files_are_cached() {
    let server = Server::ready(&model("tiny.en").await, &[]).await;
    let page = server.get("/").await;
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str();
    let policy = policy.expect("ASCII").to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let tag = page.headers()["etag"].clone();
    let again = server.client.get(format!("{}/", server.url));
    let again = again.header("if-none-match", tag).send().await;
    assert_eq!(again.expect("an answer").status(), 304);
    assert_eq!(server.get("/page/main.js").await.status(), 200);
    assert_eq!(server.get("/page/nothing.js").await.status(), 404);
    let without = Server::ready(&model("tiny.en").await, &[("BOARD", "0")]).await;
    for path in ["/", "/board", "/page/main.js"] {
        assert_eq!(without.get(path).await.status(), 404, "{path}");
    }
}
