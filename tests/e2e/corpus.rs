//! Word error rate on real speech, if the corpus is available (`STT_CORPUS`).

use serde_json::Value;
use test_support::wer::Score;
use test_support::{Server, corpus, model};

/// Uses every n-th English clip: enough to detect a faulty decoder.
const EVERY: usize = 24;
/// Far above the error rate of the models (base: 6.7 % of all English clips), and far below that with a wrong
/// sample rate, a wrong prompt or a missing suppression.
const BASE_BOUND: f64 = 0.16;
const TINY_BOUND: f64 = 0.20;

async fn rate(model_name: &str) -> Option<f64> {
    let corpus = corpus()?;
    let server = Server::ready(&model(model_name).await, &[]).await;
    let table = std::fs::read_to_string(corpus.join("speech.tsv")).expect("the table");
    let english = table
        .lines()
        .skip(1)
        .filter(|line| line.split('\t').nth(1) == Some("en"));
    let mut score = Score::default();
    for line in english.step_by(EVERY) {
        let mut columns = line.split('\t');
        let (path, reference) = (columns.next().expect("path"), columns.nth(2).expect("text"));
        let response = server
            .transcribe(&corpus.join(path), &[("language", "en")])
            .await;
        assert_eq!(response.status(), 200, "{path}");
        let body: Value = response.json().await.expect("JSON");
        score.add(reference, body["text"].as_str().expect("text"));
    }
    println!(
        "{model_name}: {score:?}, word error rate {:.4}",
        score.rate()
    );
    Some(score.rate())
}

#[tokio::test]
async fn base_understands_real_english() {
    if let Some(rate) = rate("base").await {
        assert!(rate < BASE_BOUND, "{rate}");
    }
}

#[tokio::test]
async fn tiny_en_understands_real_english() {
    if let Some(rate) = rate("tiny.en").await {
        assert!(rate < TINY_BOUND, "{rate}");
    }
}
