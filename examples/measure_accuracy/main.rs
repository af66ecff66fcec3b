//! Measures word error rates of a running server: the figures on voice activity detection, context and
//! long files in docs/performance.md.
//!
//! ```text
//! # Two sets of options on short clips, for example with and without voice activity detection.
//! cargo run --release --example measure_accuracy -- clips --url http://127.0.0.1:9005 \
//!     --corpus corpus --table speech.tsv --b vad_filter=false [--gain-db -40] [--languages en,es]
//!
//! # Long files in chunks, compared with whisper.cpp's own pass over the whole file.
//! cargo run --release --example measure_accuracy -- long --url http://127.0.0.1:9005 \
//!     --corpus corpus --model ggml-base.bin [--languages en]
//!
//! # Chunks with and without the preceding text as context.
//! cargo run --release --example measure_accuracy -- context --corpus corpus \
//!     --model ggml-base.bin --weights silero-vad-16k.safetensors
//! ```
//!
//! All print the difference between B and A in points of word error rate, with the 95 % interval of a
//! paired bootstrap over clips, or over a long file's utterances. `long` also prints how far the
//! segments' times are from the known times of the utterances.

mod clips;
mod context;
mod edges;
mod long;
mod utterances;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use clips::{Clips, clips};
use context::{WithContext, context};
use long::{Long, long};
use measurement_support::corpus::{Pair, Row, difference};
use reqwest::multipart::{Form, Part};
use serde_json::Value;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compare two sets of options.
    Clips(Clips),
    /// Compare chunks with one pass over the whole file.
    Long(Long),
    /// Compare chunks with and without the preceding text as context.
    Context(WithContext),
}

#[derive(Args)]
struct Corpus {
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:9005")]
    url: String,
    /// Folder with the recordings and their tables.
    #[arg(long = "corpus")]
    folder: PathBuf,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr")]
    languages: String,
    /// Use every n-th row.
    #[arg(long, default_value_t = 1)]
    every: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().what {
        What::Clips(args) => clips(&args).await,
        What::Long(args) => long(&args).await,
        What::Context(args) => context(&args),
    }
}

fn rows(corpus: &Corpus, table: &str) -> anyhow::Result<Vec<Row>> {
    let languages: Vec<&str> = corpus.languages.split(',').collect();
    measurement_support::corpus::rows(&corpus.folder, table, &languages, corpus.every)
}

fn report(pairs: &[Pair], names: [&str; 2]) {
    let ([a, b], [low, high]) = difference(pairs);
    println!(
        "  {}: {a:.2} %, {}: {b:.2} %, difference {:+.2} points (95 %: {low:+.2} to {high:+.2}), {} units",
        names[0],
        names[1],
        b - a,
        pairs.len()
    );
}

async fn ask(
    client: &reqwest::Client,
    url: &str,
    wav: &[u8],
    language: &str,
    fields: &str,
) -> anyhow::Result<Value> {
    let mut form = Form::new()
        .part("file", Part::bytes(wav.to_vec()).file_name("clip.wav"))
        .text("language", language.to_owned())
        .text("response_format", "verbose_json");
    for field in fields.split(',').filter(|field| !field.is_empty()) {
        let (name, value) = field
            .split_once('=')
            .context("a field must be name=value")?;
        form = form.text(name.to_owned(), value.to_owned());
    }
    let request = client.post(format!("{url}/v1/audio/transcriptions"));
    let response = request.multipart(form).send().await?;
    let status = response.status();
    let body: Value = response.json().await?;
    ensure!(status == 200, "{status}: {body}");
    Ok(body)
}
