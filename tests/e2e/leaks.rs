//! One client's words never reach another: not on any lane, not after errors, not after cancelled requests.

use std::path::{Path, PathBuf};

use serde_json::Value;
use test_support::wav::{write_silence, write_speech};
use test_support::{Server, form, model, sample, sample_text, signal, words};
use tokio::task::JoinSet;

/// Words of the secret that occur in no other clip.
fn secret_words() -> Vec<String> {
    let mut secret = words(&sample_text("en-sentence.wav"));
    secret.extend(words(PROMPT));
    // Common words prove nothing.
    secret.retain(|word| word.len() > 4);
    secret
}

/// The prompt of the secret, which must not affect another clip.
const PROMPT: &str = "Zanzibar, xylophone, Quetzalcoatl.";

/// Clips in which a model with remaining state would be likely to hallucinate.
fn listeners(folder: &Path) -> Vec<PathBuf> {
    let silence = folder.join("silence.wav");
    write_silence(&silence, 3000);
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) as i16) / 16
    });
    let noise_file = folder.join("noise.wav");
    write_speech(&noise_file, noise.take(48_000));
    vec![silence, noise_file]
}

async fn text(server: &Server, file: &Path) -> String {
    let response = server.transcribe(file, &[]).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("JSON");
    body["text"].as_str().expect("text").to_owned()
}

/// Sends the secret and waits for the answer, or leaves before.
async fn speak(server: &Server, turn: usize) {
    let file = sample("en-sentence.wav");
    match turn % 3 {
        0 => {
            let fields = [("prompt", PROMPT), ("temperature", "0.8")];
            assert_eq!(server.transcribe(&file, &fields).await.status(), 200);
        }
        leaves => {
            let url = format!("{}/v1/audio/transcriptions", server.url);
            let request = server.client.post(url);
            let request = request.multipart(form(&file, &[("prompt", PROMPT)]));
            let handed_out = server.chunks_handed_out();
            let request = tokio::spawn(request.send());
            // While its chunk is in a lane, or while it waits for one.
            let far_enough = || async {
                server.chunks_handed_out() > handed_out || (leaves == 2 && server.is_busy().await)
            };
            server.until("it is far enough", far_enough).await;
            request.abort();
        }
    }
}

/// Asserts that other clients' texts, after and during the secret, equal those of a server that never received it.
async fn check_that_no_text_leaks(model: &Path, more: &[PathBuf], turns: usize) {
    let settings = [
        ("COLD_POOL_SIZE", "1"),
        ("COLD_POOL_MANAGER_INTERVAL", "0.1"),
    ];
    let fresh = Server::ready(model, &settings).await;
    let mut files = listeners(fresh.folder());
    files.extend_from_slice(more);
    let mut expected = Vec::new();
    for file in &files {
        expected.push(text(&fresh, file).await);
    }
    let server = Server::ready(model, &settings).await;
    let hot = server.workers()[0];
    server.start_cold_worker().await;
    let cold = "uttera_stt_inference_duration_seconds_count{op=\"whisper_transcribe_cold\"}";
    let secret = secret_words();
    for turn in 0..turns {
        speak(&server, turn).await;
        // The hot worker stands still in every third turn, so that the cold one gets its share on any machine.
        let cold_before = server.metric(cold).await;
        if turn % 3 == 0 {
            signal(hot, "STOP");
        }
        let mut asked = JoinSet::new();
        for (file, expected) in files
            .iter()
            .zip(&expected)
            .chain(files.iter().zip(&expected))
        {
            let url = format!("{}/v1/audio/transcriptions", server.url);
            let request = server.client.post(url).multipart(form(file, &[]));
            let expected = expected.clone();
            asked.spawn(async move {
                let response = request.send().await.expect("an answer");
                let route = response.headers()["x-route"].clone();
                let body: Value = response.json().await.expect("JSON");
                (
                    body["text"].as_str().expect("text").to_owned(),
                    expected,
                    route,
                )
            });
        }
        if turn % 3 == 0 {
            let has_turn = || async { server.metric(cold).await > cold_before };
            server.until("the cold lane has its turn", has_turn).await;
            signal(hot, "CONT");
        }
        speak(&server, turn + 1).await;
        while let Some(heard) = asked.join_next().await {
            let (heard, expected, route) = heard.expect("no panic");
            assert_eq!(heard, expected, "on {route:?}");
            let heard = words(&heard);
            let leaked: Vec<_> = secret.iter().filter(|word| heard.contains(word)).collect();
            assert!(leaked.is_empty(), "{leaked:?} in {heard:?} on {route:?}");
        }
    }
}

#[tokio::test]
async fn no_text_leaks_between_requests_on_an_english_model() {
    let command = sample("en-command.wav");
    check_that_no_text_leaks(&model("tiny.en").await, &[command], 6).await;
}

#[tokio::test]
async fn no_text_leaks_between_requests_across_languages() {
    let spanish = sample("es-sentence.wav");
    check_that_no_text_leaks(&model("base").await, &[spanish], 2).await;
}
