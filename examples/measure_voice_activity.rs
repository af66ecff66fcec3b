//! Measures the voice activity detector and the chunker on recordings: the figures on voice activity
//! detection in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_voice_activity -- --weights silero-vad-16k.safetensors \
//!     [--gain-db -40] FILE…
//! ```
//!
//! Prints a line for each file: its length, the seconds of audio that would go to the model, the number of
//! chunks, and the CPU time in seconds. With `--probabilities`, prints the detector's probability for every
//! frame of 32 ms instead.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use measurement_support::decode::decode;
use stt_actors::domain::chunk::AudioChunk;
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::audio::vad::{BLOCK, DetectSpeech, SpeechDetector};

#[derive(Parser)]
struct Args {
    /// Path of Silero's weights.
    #[arg(long)]
    weights: PathBuf,
    /// Gain applied to the audio before, in dB.
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    gain_db: f64,
    /// Print the probability of every frame.
    #[arg(long)]
    probabilities: bool,
    /// Audio files in any format.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let weights = Arc::new(Weights::load(&args.weights)?);
    let (mut all, mut all_passed) = (0.0, 0.0);
    for file in &args.files {
        let samples = decode(file, args.gain_db)?;
        let begin = Instant::now();
        let mut detector = SpeechDetector::new(Arc::clone(&weights));
        if args.probabilities {
            for block in samples.chunks(BLOCK) {
                for value in detector.score(block) {
                    println!("{:.3}", f64::from(value) / 255.0);
                }
            }
            continue;
        }
        let mut chunker = Chunker::new(Some(Box::new(detector)));
        let mut chunks = chunker.push(&samples);
        chunks.extend(chunker.flush());
        let seconds = samples.len() as f64 / 16_000.0;
        let passed: f64 = chunks.iter().map(AudioChunk::duration_seconds).sum();
        (all, all_passed) = (all + seconds, all_passed + passed);
        println!(
            "{seconds:9.2} s, passed {passed:9.2} s in {:4} chunks, {:.3} s of work: {}",
            chunks.len(),
            begin.elapsed().as_secs_f64(),
            file.display()
        );
    }
    if !args.probabilities {
        println!("{all:9.2} s, passed {all_passed:9.2} s");
    }
    Ok(())
}
