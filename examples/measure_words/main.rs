//! Measures word timestamps on clips joined from recordings of single words, whose start and end are known
//! to 5 ms from their loudness.
//!
//! ```text
//! # Make clips with their true times from a table of recordings: path, language, word.
//! cargo run --release --example measure_words -- join --words words.tsv --out clips [--clips 20]
//! # Write another program's words to a table: clip, word, start, end.
//! python scripts/bench/peers/words.py MODEL clips clips/faster-whisper.tsv
//! # Score this server's engines, whisper.cpp's two kinds of timestamps, and the tables.
//! cargo run --release --example measure_words -- score --clips clips --model ggml-base.bin \
//!     --weights silero-vad-16k.safetensors [--peer clips/faster-whisper.tsv]
//! ```
//!
//! There are three kinds of clips: words in close succession, words with pauses, and half a minute of groups
//! of words with pauses between the groups.

mod join;
mod score;
mod transcribe;

use std::ops::Range;

use clap::{Parser, Subcommand};
use join::{Join, join};
use score::{Score, score};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make the clips.
    Join(Join),
    /// Measure on the clips.
    Score(Score),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Join(args) => join(&args),
        What::Score(args) => score(&args),
    }
}

/// A word and its time, in seconds.
#[derive(Clone, Debug)]
struct Timed {
    word: String,
    time: Range<f64>,
}
