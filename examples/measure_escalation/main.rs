//! Measures the gain and cost of escalation: the figures and the picture in docs/escalation.md.
//!
//! ```text
//! # Both models transcribe every clip of a corpus, in alternating order. Continues an interrupted run.
//! cargo run --release --example measure_escalation -- measure --corpus corpus --small ggml-tiny.en.bin \
//!     --large ggml-base.bin --weights silero-vad-16k.safetensors --out clips.jsonl [--clips 100]
//!
//! # Compute the result of each threshold: a table, curve.json and escalation.svg.
//! cargo run --release --example measure_escalation -- curve --clips clips.jsonl --out folder
//!
//! # Check that a real primary and fallback make the computed decisions.
//! cargo run --release --example measure_escalation -- check --clips clips.jsonl --corpus corpus \
//!     --server target/release/uttera-stt --small … --large … --weights … [--check 20] [--threshold 0.8]
//! ```

mod clip;
mod curve;
mod pair;
mod plot;
mod ranking;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand};
use clip::{Clip, ClipChunk};
use curve::{Point, Report, report};
use measurement_support::corpus::Row;
use measurement_support::decode::decode;
use pair::{Compared, Pair, check};
use stt_actors::domain::chunk::AudioChunk;
use stt_actors::domain::transcript::{ChunkTranscript, Task};
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::engine::whisper::{Model, Options, Request};
use uttera_stt_tools::bench::statistics::Comparison;

const LANGUAGE: &str = "en";

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Transcribe clips with both models.
    Measure(Measure),
    /// Compute the result of each threshold.
    Curve(Drawn),
    /// Compare the computed decisions with those of a real primary and fallback.
    Check(Compared),
}

#[derive(Args)]
struct Measure {
    #[command(flatten)]
    pair: Pair,
    /// Append the texts to this file, one clip per line; clips that it already has are skipped.
    #[arg(long)]
    out: PathBuf,
    /// Number of clips, spread over the table. Default: all.
    #[arg(long)]
    clips: Option<usize>,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

#[derive(Args)]
struct Drawn {
    /// File written by `measure`.
    #[arg(long)]
    clips: PathBuf,
    /// Folder for curve.json and escalation.svg.
    #[arg(long)]
    out: PathBuf,
    /// Names of the models.
    #[arg(long, default_value = "tiny.en,base", value_delimiter = ',')]
    models: Vec<String>,
    /// Thresholds that the picture labels: `threshold=name`, comma-separated.
    #[arg(long, default_value = "0.55=default", value_delimiter = ',')]
    mark: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().what {
        What::Measure(args) => measure(&args),
        What::Curve(args) => curve(&args),
        What::Check(args) => check(&args, &measured(&args.clips)?).await,
    }
}

fn measure(args: &Measure) -> anyhow::Result<()> {
    let rows = measurement_support::corpus::rows(&args.pair.corpus, "speech.tsv", &[LANGUAGE], 1)?;
    let known = if args.out.exists() {
        measured(&args.out)?
    } else {
        Vec::new()
    };
    let known: BTreeSet<String> = known.into_iter().map(|clip| clip.name).collect();
    let mut out = File::options().create(true).append(true).open(&args.out)?;
    let weights = Arc::new(Weights::load(&args.pair.weights)?);
    let options = Options {
        threads: args.threads,
        ..Options::default()
    };
    let load = |path: &Path| Model::load(path, options).map_err(anyhow::Error::msg);
    let mut models = [load(&args.pair.small)?, load(&args.pair.large)?];
    let order = scattered(rows.len()).take(args.clips.unwrap_or(rows.len()));
    for (turn, index) in order.enumerate() {
        let row = &rows[index];
        if known.contains(&row.path) {
            continue;
        }
        let samples = decode(&args.pair.corpus.join(&row.path), 0.0)?;
        let detector = SpeechDetector::new(Arc::clone(&weights));
        let mut chunker = Chunker::new(Some(Box::new(detector)));
        chunker.aim_at(Duration::from_secs(28));
        let mut chunks = chunker.push(&samples);
        chunks.extend(chunker.flush());
        let clip = written(&mut models, row, &chunks, turn)?;
        writeln!(out, "{}", serde_json::to_string(&clip)?)?;
        println!("{} {}", turn + 1, clip.name);
    }
    Ok(())
}

/// All numbers below `count`, in an order of which every prefix is spread over the whole range.
fn scattered(count: usize) -> impl Iterator<Item = usize> {
    let golden = (count as f64 * 0.618) as usize;
    let has_no_common_divisor = |stride: &usize| {
        let (mut a, mut b) = (*stride, count);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    let stride = (golden.max(1)..=count)
        .find(has_no_common_divisor)
        .unwrap_or(1);
    (0..count).map(move |turn| turn * stride % count)
}

fn written(
    models: &mut [Model; 2],
    row: &Row,
    chunks: &[AudioChunk],
    turn: usize,
) -> anyhow::Result<Clip> {
    let mut written = Vec::new();
    for chunk in chunks {
        let mut texts = [const { None }; 2];
        // The models alternate in running first, because the machine's speed drifts.
        for step in 0..2 {
            let which = (turn + step) % 2;
            texts[which] = Some(transcribe(&mut models[which], chunk)?);
        }
        let [Some(small), Some(large)] = texts else {
            continue;
        };
        written.push(ClipChunk {
            seconds: chunk.duration_seconds(),
            small,
            large,
        });
    }
    Ok(Clip {
        name: row.path.clone(),
        reference: row.text.clone(),
        chunks: written,
    })
}

fn transcribe(model: &mut Model, chunk: &AudioChunk) -> anyhow::Result<ChunkTranscript> {
    let samples = chunk.samples.iter().map(|s| f32::from(*s) / 32_768.0);
    let request = Request {
        samples: samples.collect(),
        task: Task::Transcribe,
        language: Some(LANGUAGE.to_owned()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    };
    let done = model.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.map_err(|failure| anyhow!("{failure:?}"))
}

fn measured(path: &Path) -> anyhow::Result<Vec<Clip>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let clips = text.lines().map(serde_json::from_str);
    Ok(clips.collect::<Result<_, _>>()?)
}

/// `MIN_WORDS_FOR_CONF` of each curve; the picture shows the first.
const MIN_WORDS: [usize; 2] = [3, 0];

/// Coarse steps where few texts have such a low confidence, fine steps where most have.
fn thresholds() -> Vec<f32> {
    let coarse = (0..50).step_by(5);
    let hundredths = coarse.chain((50..=100).step_by(1));
    hundredths
        .map(|hundredth: u8| f32::from(hundredth) / 100.0)
        .collect()
}

fn curve(args: &Drawn) -> anyhow::Result<()> {
    let models: [String; 2] =
        (args.models.clone().try_into()).map_err(|_| anyhow!("--models needs two names"))?;
    let clips = measured(&args.clips)?;
    let report = report(models, &clips, &thresholds(), &MIN_WORDS).context("there are no clips")?;
    let marked = args.mark.iter().map(|mark| {
        let (threshold, name) = mark.split_once('=')?;
        Some((threshold.parse().ok()?, format!("{name} {threshold}")))
    });
    let marked: Option<Vec<_>> = marked.collect();
    let marked = marked.context("a mark must be threshold=name")?;
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(
        args.out.join("curve.json"),
        serde_json::to_vec_pretty(&report)?,
    )?;
    std::fs::write(
        args.out.join("escalation.svg"),
        plot::render(&report, &marked)?,
    )?;
    print(&report);
    Ok(())
}

fn print(report: &Report) {
    let [small, large] = &report.models;
    println!(
        "{} clips, {:.0} s, {} words; {small} costs {:.2} of {large}",
        report.clips, report.seconds, report.words, report.small_cost
    );
    for (name, figure) in [
        (small.as_str(), report.small),
        (large.as_str(), report.large),
        ("the better text of each clip", report.oracle),
    ] {
        println!("{name}: {} % wrong words", bounded(figure));
    }
    let [better, worse] = report.better_and_worse.map(|share| 100.0 * share);
    println!("{large} is better on {better:.0} % of the clips and worse on {worse:.0} %");
    println!("areas under the curve: {:.2?}", report.ranking);
    for curve in &report.curves {
        println!("MIN_WORDS_FOR_CONF={}", curve.min_words);
        println!("threshold  clips  audio  cost  % wrong  to {large}  gain  by chance");
        let hundredths = |point: &Point| (point.threshold * 100.0).round() as u32;
        for point in curve
            .points
            .iter()
            .filter(|point| hundredths(point) % 5 == 0)
        {
            println!(
                "{:.2} {:5.1} % {:5.1} % {:5.2} {} {} {:.2} {:.2}",
                point.threshold,
                100.0 * point.clips,
                100.0 * point.audio,
                point.cost,
                bounded(point.word_errors),
                bounded(point.to_large),
                point.gain,
                point.by_chance
            );
        }
    }
}

fn bounded(figure: Comparison) -> String {
    let (low, high) = figure.bounds.unwrap_or((f64::NAN, f64::NAN));
    format!("{:.2} ({low:.2} to {high:.2})", figure.value)
}
