//! Compares two sets of options on short clips.

use clap::Args;
use measurement_support::corpus::Pair;
use measurement_support::decode::decode;
use measurement_support::wav::wav;
use uttera_stt_tools::probe::word_error_rate::{align, normalise};

use crate::{Corpus, ask, report, rows};

#[derive(Args)]
pub struct Clips {
    #[command(flatten)]
    corpus: Corpus,
    /// Table of the corpus.
    #[arg(long, default_value = "speech.tsv")]
    table: String,
    /// Gain applied to the audio before, in dB.
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    gain_db: f64,
    /// Form fields of A: `name=value`, comma-separated.
    #[arg(long, default_value = "")]
    a: String,
    /// Form fields of B.
    #[arg(long)]
    b: String,
}

/// Prints the word error rates of both sets of options, and the clips in which they differ.
pub async fn clips(args: &Clips) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let mut pairs = Vec::new();
    for row in rows(&args.corpus, &args.table)? {
        let samples = decode(&args.corpus.folder.join(&row.path), args.gain_db)?;
        let wav = wav(&samples)?;
        let reference = normalise(&row.text);
        let mut errors = [0; 2];
        for (fields, errors) in [&args.a, &args.b].into_iter().zip(&mut errors) {
            let answer = ask(&client, &args.corpus.url, &wav, &row.language, fields).await?;
            let said = normalise(answer["text"].as_str().unwrap_or_default());
            *errors = align(&reference, &said).into_iter().sum();
        }
        if errors[0] != errors[1] {
            println!("{}: {} and {} errors", row.path, errors[0], errors[1]);
        }
        pairs.push(Pair {
            words: reference.len(),
            errors,
        });
    }
    report(&pairs, ["A", "B"]);
    Ok(())
}
