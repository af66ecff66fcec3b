//! Compares long files in chunks with whisper.cpp's own pass over the whole file.

use std::path::PathBuf;

use clap::Args;
use measurement_support::decode::decode;
use measurement_support::wav::wav;
use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters};

use crate::edges::{print_off, times_off};
use crate::utterances::{by_utterance, utterances};
use crate::{Corpus, ask, report, rows};

#[derive(Args)]
pub struct Long {
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

/// Prints the word error rates of both, and the errors of the segments' times.
pub async fn long(args: &Long) -> anyhow::Result<()> {
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

/// Runs whisper.cpp unchanged over the whole file.
fn sequential(args: &Long, samples: &[i16], language: &str) -> anyhow::Result<String> {
    whisper_rs::install_logging_hooks();
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
