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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use measurement_support::corpus::{Pair, Row, difference};
use measurement_support::decode::decode;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use stt_actors::domain::transcript::Task;
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::engine::ggml_hooks;
use uttera_stt::engine::whisper::{Model, Options, Request};
use uttera_stt_tools::probe::word_error_rate::{align, normalise};
use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters};

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

#[derive(Args)]
struct Clips {
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

#[derive(Args)]
struct Long {
    #[command(flatten)]
    corpus: Corpus,
    /// The server's ggml file, for the pass over the whole file.
    #[arg(long)]
    model: PathBuf,
    /// Threads of the pass over the whole file.
    #[arg(long, default_value_t = 2)]
    threads: i32,
    /// Skip the pass over the whole file and measure only the segments' times.
    #[arg(long)]
    skip_whole: bool,
    /// Run the pass over the whole file without the preceding text as context.
    #[arg(long)]
    no_context: bool,
    /// Form fields: `name=value`, comma-separated.
    #[arg(long, default_value = "")]
    fields: String,
}

#[derive(Args)]
struct WithContext {
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

async fn clips(args: &Clips) -> anyhow::Result<()> {
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

async fn long(args: &Long) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let mut all = Vec::new();
    let mut edges = [const { Vec::new() }; 2];
    for row in rows(&args.corpus, "long.tsv")? {
        let path = args.corpus.folder.join(&row.path);
        let utterances = utterances(&path, &row.text)?;
        let samples = decode(&path, 0.0)?;
        let wav = wav(&samples)?;
        let begin = std::time::Instant::now();
        let answer = ask(&client, &args.corpus.url, &wav, &row.language, &args.fields).await?;
        let chunked_seconds = begin.elapsed().as_secs_f64();
        let begin = std::time::Instant::now();
        let whole = if args.skip_whole {
            String::new()
        } else {
            sequential(args, &samples, &row.language)?
        };
        let whole_seconds = begin.elapsed().as_secs_f64();
        let texts = [
            whole,
            answer["text"].as_str().unwrap_or_default().to_owned(),
        ];
        let pairs = by_utterance(&utterances, &texts);
        println!(
            "{}: {chunked_seconds:.1} s in chunks, {whole_seconds:.1} s as a whole",
            row.path
        );
        report(&pairs, ["whole", "chunks"]);
        let off = times_off(&utterances, &samples, &answer);
        print_off(&off);
        all.extend(pairs);
        for (all, off) in edges.iter_mut().zip(off) {
            all.extend(off);
        }
    }
    println!("all files");
    report(&all, ["whole", "chunks"]);
    print_off(&edges);
    Ok(())
}

/// A known utterance of a long file, with its times if they are known.
struct Utterance {
    start: f64,
    end: f64,
    words: Vec<String>,
}

/// Number of words of a unit of the bootstrap, if the utterances are not known.
const UNIT: usize = 20;

fn utterances(path: &Path, text: &str) -> anyhow::Result<Vec<Utterance>> {
    let Ok(json) = std::fs::read(path.with_extension("segments.json")) else {
        let words = normalise(text);
        let units = words.chunks(UNIT).map(|words| Utterance {
            start: f64::NAN,
            end: f64::NAN,
            words: words.to_vec(),
        });
        return Ok(units.collect());
    };
    let rows: Vec<(f64, f64, String, String)> = serde_json::from_slice(&json)?;
    let rows = rows.into_iter().map(|(start, end, _, text)| Utterance {
        start,
        end,
        words: normalise(&text),
    });
    Ok(rows.collect())
}

fn context(args: &WithContext) -> anyhow::Result<()> {
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

fn print_off(off: &[Vec<f64>; 2]) {
    if off[0].is_empty() {
        return;
    }
    println!(
        "  segment edges are off by {:.3} s from the edges of the recordings, by {:.3} s from those of \
         the speech in them (median {:.3} s)",
        mean(&off[0]),
        mean(&off[1]),
        median(&off[1]),
    );
}

/// Start and end of the sound in a recording: where it exceeds a level 25 dB below the one that a twentieth
/// of the recording exceeds.
fn speech_edges(utterance: &Utterance, samples: &[i16]) -> (f64, f64) {
    const FRAME: usize = 160;
    let place = |seconds: f64| ((seconds * 16_000.0) as usize).min(samples.len());
    let frames = samples[place(utterance.start)..place(utterance.end)].chunks_exact(FRAME);
    let powers: Vec<f64> = frames
        .map(|frame| frame.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / FRAME as f64)
        .collect();
    let mut sorted = powers.clone();
    sorted.sort_by(f64::total_cmp);
    let loud = sorted.get(powers.len() * 95 / 100).copied().unwrap_or(0.0) * 10_f64.powf(-2.5);
    let first = powers.iter().position(|power| *power >= loud).unwrap_or(0);
    let last = powers.iter().rposition(|power| *power >= loud).unwrap_or(0);
    let second = |frame: usize| utterance.start + (frame * FRAME) as f64 / 16_000.0;
    (second(first), second(last + 1))
}

/// Distance, in seconds, from each edge of each utterance to the nearest edge of a segment: for the edges of
/// the recording, and for those of the speech in it.
fn times_off(utterances: &[Utterance], samples: &[i16], answer: &Value) -> [Vec<f64>; 2] {
    let segments = answer["segments"].as_array().cloned().unwrap_or_default();
    let edges =
        |name: &str| -> Vec<f64> { segments.iter().filter_map(|s| s[name].as_f64()).collect() };
    let (starts, ends) = (edges("start"), edges("end"));
    let nearest = |edges: &[f64], to: f64| {
        let distances = edges.iter().map(|edge| (edge - to).abs());
        distances.fold(f64::INFINITY, f64::min)
    };
    let mut off = [const { Vec::new() }; 2];
    for utterance in utterances.iter().filter(|u| u.start.is_finite()) {
        let (start, end) = speech_edges(utterance, samples);
        off[0].extend([
            nearest(&starts, utterance.start),
            nearest(&ends, utterance.end),
        ]);
        off[1].extend([nearest(&starts, start), nearest(&ends, end)]);
    }
    off
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Errors of two texts of a long file, by utterance.
fn by_utterance(utterances: &[Utterance], texts: &[String; 2]) -> Vec<Pair> {
    let reference: Vec<String> = utterances.iter().flat_map(|u| u.words.clone()).collect();
    let errors = texts
        .each_ref()
        .map(|text| align(&reference, &normalise(text)));
    let mut at = 0;
    let mut pairs = Vec::new();
    for utterance in utterances {
        let range = at..at + utterance.words.len();
        pairs.push(Pair {
            words: utterance.words.len(),
            errors: errors
                .each_ref()
                .map(|errors| errors[range.clone()].iter().sum()),
        });
        at = range.end;
    }
    pairs
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

/// Runs whisper.cpp unchanged over the whole file.
fn sequential(args: &Long, samples: &[i16], language: &str) -> anyhow::Result<String> {
    whisper_rs::install_logging_hooks();
    ggml_hooks::check().map_err(anyhow::Error::msg)?;
    let context = WhisperContext::new_with_params(
        &args.model,
        WhisperContextParameters {
            flash_attn: false,
            ..WhisperContextParameters::default()
        },
    )?;
    let mut state = context.create_state()?;
    let mut parameters = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
    parameters.set_n_threads(args.threads);
    parameters.set_language(Some(language));
    parameters.set_no_context(args.no_context);
    parameters.set_suppress_nst(true);
    parameters.set_print_progress(false);
    parameters.set_print_realtime(false);
    parameters.set_print_special(false);
    let samples: Vec<f32> = samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
    state.full(parameters, &samples)?;
    let segments = state.as_iter();
    let texts = segments.map(|segment| segment.to_str_lossy().map(std::borrow::Cow::into_owned));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.concat())
}

fn wav(samples: &[i16]) -> anyhow::Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
