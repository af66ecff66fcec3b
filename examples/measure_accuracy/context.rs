//! Compares chunks with and without the preceding text as context.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use measurement_support::decode::decode;
use stt_actors::domain::transcript::Task;
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::engine::whisper::{Model, Options, Request};

use crate::utterances::{by_utterance, utterances};
use crate::{Corpus, report, rows};

#[derive(Args)]
pub struct WithContext {
    #[command(flatten)]
    corpus: Corpus,
    /// Path of a ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Path of Silero's weights.
    #[arg(long)]
    weights: PathBuf,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

/// Prints the word error rates without and with context.
pub fn context(args: &WithContext) -> anyhow::Result<()> {
    let weights = Arc::new(Weights::load(&args.weights)?);
    let options = Options {
        threads: args.threads,
        ..Options::default()
    };
    let mut model = Model::load(&args.model, options).map_err(anyhow::Error::msg)?;
    let mut all = Vec::new();
    for row in rows(&args.corpus, "long.tsv")? {
        let path = args.corpus.folder.join(&row.path);
        let detector = SpeechDetector::new(Arc::clone(&weights));
        let mut chunker = Chunker::new(Some(Box::new(detector)));
        chunker.aim_at(Duration::from_secs(28));
        let mut chunks = chunker.push(&decode(&path, 0.0)?);
        chunks.extend(chunker.flush());
        let mut texts = [String::new(), String::new()];
        let mut before = None;
        for chunk in &chunks {
            texts[0] += &transcribe(&mut model, &chunk.samples, &row.language, None)?;
            let said = transcribe(&mut model, &chunk.samples, &row.language, before.take())?;
            texts[1] += &said;
            before = Some(said);
        }
        let pairs = by_utterance(&utterances(&path, &row.text)?, &texts);
        println!("{}: {} chunks", row.path, chunks.len());
        report(&pairs, ["without", "with context"]);
        all.extend(pairs);
    }
    println!("all files");
    report(&all, ["without", "with context"]);
    Ok(())
}

fn transcribe(
    model: &mut Model,
    samples: &[i16],
    language: &str,
    prompt: Option<String>,
) -> anyhow::Result<String> {
    let request = Request {
        samples: samples.iter().map(|s| f32::from(*s) / 32_768.0).collect(),
        task: Task::Transcribe,
        language: Some(language.to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt,
        temperature: 0.0,
    };
    let transcript = model
        .transcribe(request, &AtomicBool::new(false), &mut |_, _| {})
        .map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    Ok(transcript
        .segments
        .iter()
        .map(|s| s.text.as_str())
        .collect())
}
