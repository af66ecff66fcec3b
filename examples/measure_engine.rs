//! Measures ways of using the engine against each other, on short clips and inside one process: error
//! rate, time, and how often text was doubted. What docs/performance.md says of windows, beams, number
//! formats and times comes from here.
//!
//! ```text
//! cargo run --release --example measure_engine -- --corpus corpus --model ggml-base.bin \
//!     full 128/384 256/512 "128/384 beam=5" "128/384 no-times" [--model-b ggml-base-q8_0.bin] \
//!     [--languages en,es,fr] [--shortest 1] [--longest 30] [--every 1]
//! ```
//!
//! A way is a window (`full`, or margin/least in frames of 20 ms) and options: `beam=N`, `no-times`,
//! `model-b`. The first way is what the others are compared with: differences of the word error rate
//! are in points, with the 95 % interval of a paired bootstrap over clips.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/decode.rs"]
mod decode;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Parser;
use corpus::{Pair, difference};
use decode::decode;
use stt_actors::transcript::{ChunkTranscript, Task};
use uttera_stt::bench::word_error_rate::{align, normalise};
use uttera_stt::engine::whisper::window::Window;
use uttera_stt::engine::whisper::{Model, Options, Request};

#[derive(Parser)]
struct Cli {
    /// Ways of using the engine.
    #[arg(required = true)]
    ways: Vec<String>,
    /// The folder of the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// A ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Another one, for ways with `model-b`.
    #[arg(long)]
    model_b: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Only these, by comma.
    #[arg(long, default_value = "en,es,fr")]
    languages: String,
    /// Clips of so many seconds at least.
    #[arg(long, default_value_t = 0.0)]
    shortest: f64,
    /// Clips of so many seconds at most.
    #[arg(long, default_value_t = 30.0)]
    longest: f64,
    /// Every so many-th clip.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Print every clip whose text differs from the first way's in its number of errors.
    #[arg(long)]
    verbose: bool,
}

/// What a way has done so far.
#[derive(Default)]
struct Tally {
    pairs: Vec<Pair>,
    seconds: f64,
    passes: u32,
    doubts: BTreeMap<&'static str, usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse();
    let mut models = (args.ways.iter())
        .map(|way| load(&args, way))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut tallies: Vec<Tally> = args.ways.iter().map(|_| Tally::default()).collect();
    let mut audio_seconds = 0.0;
    let languages: Vec<&str> = args.languages.split(',').collect();
    let rows = corpus::rows(&args.corpus, "speech.tsv", &languages, args.every)?;
    for (number, row) in rows.iter().enumerate() {
        let samples = decode(&args.corpus.join(&row.path), 0.0)?;
        let seconds = samples.len() as f64 / 16_000.0;
        if seconds < args.shortest || seconds > args.longest {
            continue;
        }
        audio_seconds += seconds;
        let reference = normalise(&row.text);
        let mut errors = vec![0; models.len()];
        for step in 0..models.len() {
            // In turns, so that none of them always comes first.
            let way = (step + number) % models.len();
            let done = transcribe(&mut models[way], &samples, &row.language)?;
            errors[way] = note(&mut tallies[way], &done, &reference);
        }
        for (way, tally) in tallies.iter_mut().enumerate() {
            tally.pairs.push(Pair {
                words: reference.len(),
                errors: [errors[0], errors[way]],
            });
            if args.verbose && errors[way] != errors[0] {
                let (path, way, first, errors) =
                    (&row.path, &args.ways[way], errors[0], errors[way]);
                println!("{path} ({seconds:.1} s): {first} errors, {errors} with {way}");
            }
        }
        if args.verbose && number % 50 == 49 {
            report(&args.ways, &tallies, audio_seconds);
        }
    }
    report(&args.ways, &tallies, audio_seconds);
    Ok(())
}

/// Takes in a result, and gives its number of errors.
fn note(tally: &mut Tally, done: &ChunkTranscript, reference: &[String]) -> usize {
    tally.seconds += done.inference_seconds;
    tally.passes += done.encoder_passes;
    if let Some(doubt) = done.doubt {
        *tally.doubts.entry(doubt.as_str()).or_default() += 1;
    }
    let text: String = done.segments.iter().map(|s| s.text.as_str()).collect();
    align(reference, &normalise(&text)).into_iter().sum()
}

fn report(ways: &[String], tallies: &[Tally], audio_seconds: f64) {
    let clips = tallies[0].pairs.len();
    println!(
        "{clips} clips, {:.1} s on average",
        audio_seconds / clips as f64
    );
    for (way, tally) in ways.iter().zip(tallies) {
        let (rates, interval) = difference(&tally.pairs);
        let doubted: usize = tally.doubts.values().sum();
        println!(
            "{way:>24}: {:.3} s a clip (x {:.2}), {:.2} % errors, {:+.2} points ({:+.2} to {:+.2}), {:.2} encoder passes, {doubted} doubted {:?}",
            tally.seconds / clips as f64,
            tallies[0].seconds / tally.seconds,
            rates[1],
            rates[1] - rates[0],
            interval[0],
            interval[1],
            f64::from(tally.passes) / clips as f64,
            tally.doubts,
        );
    }
}

fn load(args: &Cli, way: &str) -> anyhow::Result<Model> {
    let mut options = Options {
        threads: args.threads,
        ..Options::default()
    };
    let mut model = &args.model;
    for word in way.split_whitespace() {
        match word.split_once(['=', '/']) {
            None if word == "full" => options.window = Window::Full,
            None if word == "no-times" => options.timestamps = false,
            None if word == "model-b" => {
                model = args.model_b.as_ref().context("--model-b is missing")?;
            }
            Some(("beam", size)) => options.beam_size = size.parse()?,
            Some((margin, least)) => {
                options.window = Window::Trimmed {
                    margin: margin.parse()?,
                    least: least.parse()?,
                }
            }
            None => bail!("{word}: what is that?"),
        }
    }
    Model::load(model, options).map_err(anyhow::Error::msg)
}

fn transcribe(
    model: &mut Model,
    samples: &[i16],
    language: &str,
) -> anyhow::Result<ChunkTranscript> {
    let request = Request {
        samples: samples.iter().map(|s| f32::from(*s) / 32_768.0).collect(),
        task: Task::Transcribe,
        language: Some(language.to_owned()),
        prompt: None,
        temperature: 0.0,
    };
    let done = model.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.map_err(|error| anyhow::anyhow!("{error:?}"))
}
