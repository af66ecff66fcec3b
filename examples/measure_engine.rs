//! Compares configurations of the engine on short clips in one process: error rate, time, and how often a
//! chunk was decoded again. The figures on windows, beams, data types and timestamps in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_engine -- --corpus corpus --model ggml-base.bin \
//!     full 128/384 256/512 "128/384 beam=5" "128/384 no-times" [--model-b ggml-base-q8_0.bin] \
//!     [--languages en,es,fr] [--shortest 1] [--longest 30] [--every 1]
//! ```
//!
//! A configuration is a window (`full`, or margin/minimum in frames of 20 ms) and options: `beam=N`,
//! `no-times`, `model-b`, `detect` (the language is not given), `native` (the engine, which has no other window than
//! its own and `full`). The others are compared with the first one: differences of the word error rate are in points,
//! with the 95 % interval of a paired bootstrap over clips.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};
use clap::Parser;
use measurement_support::corpus::{Pair, difference};
use measurement_support::decode::decode;
use stt_actors::domain::transcript::{ChunkTranscript, Doubt, Segment, Task};
use uttera_stt::engine::whisper::window::Window;
use uttera_stt::engine::whisper::{Options, Request};
use uttera_stt::engine::{Engine, EngineChoice};
use uttera_stt_tools::probe::word_error_rate::{align, normalise};

#[derive(Parser)]
struct Cli {
    /// Configurations of the engine.
    #[arg(required = true)]
    ways: Vec<String>,
    /// Folder with the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// Path of a ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Path of another ggml file, for configurations with `model-b`.
    #[arg(long)]
    model_b: Option<PathBuf>,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr")]
    languages: String,
    /// Minimum length of a clip, in seconds.
    #[arg(long, default_value_t = 0.0)]
    shortest: f64,
    /// Maximum length of a clip, in seconds.
    #[arg(long, default_value_t = 30.0)]
    longest: f64,
    /// Use every n-th clip.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Write a row for every clip and configuration: path, seconds of audio, words, configuration, errors,
    /// mean log-probability, that of the least probable segment, seconds, reason for decoding again.
    #[arg(long)]
    dump: Option<PathBuf>,
    /// Print every clip whose number of errors differs from that of the first configuration.
    #[arg(long)]
    verbose: bool,
}

/// Results of a configuration so far.
#[derive(Default)]
struct Tally {
    pairs: Vec<Pair>,
    seconds: f64,
    passes: u32,
    doubts: BTreeMap<&'static str, usize>,
    right_language: usize,
}

/// A configuration of the engine.
struct Way {
    engine: Engine,
    detects: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse();
    let mut ways = (args.ways.iter())
        .map(|way| load(&args, way))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut tallies: Vec<Tally> = args.ways.iter().map(|_| Tally::default()).collect();
    let mut audio_seconds = 0.0;
    let mut dump = args.dump.as_ref().map(std::fs::File::create).transpose()?;
    let languages: Vec<&str> = args.languages.split(',').collect();
    let rows =
        measurement_support::corpus::rows(&args.corpus, "speech.tsv", &languages, args.every)?;
    for (number, row) in rows.iter().enumerate() {
        let samples = decode(&args.corpus.join(&row.path), 0.0)?;
        let seconds = samples.len() as f64 / 16_000.0;
        if seconds < args.shortest || seconds > args.longest {
            continue;
        }
        audio_seconds += seconds;
        let reference = normalise(&row.text);
        let mut errors = vec![0; ways.len()];
        for step in 0..ways.len() {
            // The order rotates, so that none of them always runs first.
            let way = (step + number) % ways.len();
            let done = transcribe(&mut ways[way], &samples, &row.language)?;
            tallies[way].right_language += usize::from(done.language == row.language);
            errors[way] = note(&mut tallies[way], &done, &reference);
            if let Some(dump) = &mut dump {
                let (words, errors) = (reference.len(), errors[way]);
                let (mean, least) = log_probabilities(&done);
                let (path, name, took) = (&row.path, &args.ways[way], done.inference_seconds);
                let doubt = done.doubt.map_or("", Doubt::as_str);
                writeln!(
                    dump,
                    "{path}\t{seconds:.2}\t{words}\t{name}\t{errors}\t{mean:.3}\t{least:.3}\t{took:.3}\t{doubt}"
                )?;
            }
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

/// Mean log-probability of all tokens, and of the least probable segment.
fn log_probabilities(done: &ChunkTranscript) -> (f32, f32) {
    let tokens: usize = done.segments.iter().map(|s| s.tokens.len()).sum();
    let sum = |s: &Segment| s.avg_logprob * s.tokens.len() as f32;
    let mean = done.segments.iter().map(sum).sum::<f32>() / tokens.max(1) as f32;
    let least = done.segments.iter().map(|s| s.avg_logprob);
    (mean, least.fold(0.0, f32::min))
}

/// Adds a result and returns its number of errors.
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
            "{way:>24}: {:.3} s a clip (x {:.2}), {:.2} % errors, {:+.2} points ({:+.2} to {:+.2}), {:.2} encoder passes, {doubted} doubted {:?}, language right {:.2} %",
            tally.seconds / clips as f64,
            tallies[0].seconds / tally.seconds,
            rates[1],
            rates[1] - rates[0],
            interval[0],
            interval[1],
            f64::from(tally.passes) / clips as f64,
            tally.doubts,
            100.0 * tally.right_language as f64 / clips as f64,
        );
    }
}

fn load(args: &Cli, way: &str) -> anyhow::Result<Way> {
    let mut detects = false;
    let mut options = Options {
        threads: args.threads,
        ..Options::default()
    };
    let mut model = &args.model;
    let mut choice = EngineChoice::WhisperCpp;
    for word in way.split_whitespace() {
        match word.split_once(['=', '/']) {
            None if word == "full" => options.window = Window::Full,
            None if word == "native" => choice = EngineChoice::Native,
            None if word == "detect" => detects = true,
            None if word == "no-times" => options.timestamps = false,
            None if word == "model-b" => {
                model = args.model_b.as_ref().context("--model-b is missing")?;
            }
            Some(("beam", size)) => options.beam_size = size.parse()?,
            Some(_) => options.window = trimmed(word)?,
            None => bail!("unknown option {word}"),
        }
    }
    let engine = Engine::load(model, choice, options).map_err(anyhow::Error::msg)?;
    Ok(Way { engine, detects })
}

fn trimmed(window: &str) -> anyhow::Result<Window> {
    let (margin, least) = window
        .split_once('/')
        .context("a window must be full or margin/minimum")?;
    Ok(Window::Trimmed {
        margin: margin.parse()?,
        least: least.parse()?,
    })
}

fn transcribe(way: &mut Way, samples: &[i16], language: &str) -> anyhow::Result<ChunkTranscript> {
    let request = Request {
        samples: samples.iter().map(|s| f32::from(*s) / 32_768.0).collect(),
        task: Task::Transcribe,
        language: (!way.detects).then(|| language.to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    };
    let done = way
        .engine
        .transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.map_err(|error| anyhow::anyhow!("{error:?}"))
}
