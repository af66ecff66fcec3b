//! Measures the benefit and cost of streaming, compared with a whole reply: the time to the first text of a
//! recording, the waits between texts, and the words that differ because of the shorter chunks. The figures
//! on streaming in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_streaming -- --url http://127.0.0.1:9005 \
//!     --corpus corpus [--table long.tsv] [--languages en,es,fr] [--every 1]
//! ```

use std::path::{Path, PathBuf};
// A measurement uses the real clock.
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use measurement_support::corpus::{Pair, print_difference};
use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use uttera_stt_tools::probe::word_error_rate::Score;

#[derive(Parser)]
struct Args {
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:9005")]
    url: String,
    /// Folder with the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// Table of the corpus.
    #[arg(long, default_value = "long.tsv")]
    table: String,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr")]
    languages: String,
    /// Use every n-th recording.
    #[arg(long, default_value_t = 1)]
    every: usize,
}

/// A reply, and the times at which its parts arrived.
struct Reply {
    text: String,
    /// Times since the request was sent.
    texts: Vec<Duration>,
    end: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    let client = Client::new();
    let languages: Vec<&str> = args.languages.split(',').collect();
    let mut pairs = Vec::new();
    for row in measurement_support::corpus::rows(&args.corpus, &args.table, &languages, args.every)?
    {
        let file = args.corpus.join(&row.path);
        let plain = ask(&client, &args.url, &file, &row.language, false).await?;
        let streamed = ask(&client, &args.url, &file, &row.language, true).await?;
        let scores = [&plain, &streamed].map(|reply| Score::of(&row.text, &reply.text));
        let mut last = Duration::ZERO;
        let mut longest = Duration::ZERO;
        for text in &streamed.texts {
            longest = longest.max(text.saturating_sub(last));
            last = *text;
        }
        println!(
            "{:40} plain {:6.2} s {:5.1} % errors; streamed {:6.2} s {:5.1} %, first text {:5.2} s, \
             {} texts, longest wait {:5.2} s",
            row.path,
            plain.end.as_secs_f64(),
            100.0 * scores[0].rate(),
            streamed.end.as_secs_f64(),
            100.0 * scores[1].rate(),
            streamed
                .texts
                .first()
                .copied()
                .unwrap_or_default()
                .as_secs_f64(),
            streamed.texts.len(),
            longest.as_secs_f64(),
        );
        pairs.push(Pair {
            words: scores[0].words,
            errors: scores.map(|score| score.edits),
        });
    }
    print_difference(&pairs, ["plain", "streamed"])
}

async fn ask(
    client: &Client,
    url: &str,
    file: &Path,
    language: &str,
    stream: bool,
) -> anyhow::Result<Reply> {
    let bytes = tokio::fs::read(file).await?;
    let form = Form::new()
        .text("language", language.to_owned())
        .text("stream", stream.to_string())
        .part("file", Part::bytes(bytes).file_name("recording"));
    let begin = Instant::now();
    let request = client.post(format!("{url}/v1/audio/transcriptions"));
    let mut response = request.multipart(form).send().await?;
    ensure!(response.status().is_success(), "{}", response.status());
    let mut body = Vec::new();
    let mut texts = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        body.extend_from_slice(&bytes);
        if bytes.windows(7).any(|part| part == b"\"delta\"") {
            texts.push(begin.elapsed());
        }
    }
    let end = begin.elapsed();
    let body = String::from_utf8(body)?;
    let last = match body
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .next_back()
    {
        Some(done) => format!("{{{done}"),
        None => body,
    };
    let last: Value = serde_json::from_str(&last)?;
    let text = last["text"]
        .as_str()
        .context("the reply has no text")?
        .to_owned();
    Ok(Reply { text, texts, end })
}
