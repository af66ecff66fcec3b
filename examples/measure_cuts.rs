//! Compares the native engine as it is served (the mean tail, doubts, retries) with its full window, on random cuts of
//! recordings: the figures on repeated texts and lost ends in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_cuts -- --corpus corpus --model ggml-base.bin \
//!     [--cuts 2000] [--seed 1] [--languages en,es,fr,de] [--every 1] [--verbose]
//! ```
//!
//! A cut has 0.1 to 30 s; every other length is drawn evenly, the rest evenly in the logarithm, so that short ones are
//! frequent. Half of the cuts are from clips (as long as a clip is long enough), half from long recordings. Each is
//! listed whose text
//!
//! - *repeats* a phrase at once with one of the windows only (`window::doubt`),
//! - has a *lost end*: with the full window, three or more words more follow the words that both texts have,
//! - has an *invented end*: the reverse.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::ensure;
use clap::Parser;
use measurement_support::decode::decode;
use stt_actors::domain::transcript::{ChunkTranscript, Doubt, Task};
use uttera_stt::engine::whisper::window::{self, Window};
use uttera_stt::engine::whisper::{Options, Request};
use uttera_stt::engine::{Engine, EngineChoice};
use uttera_stt_tools::probe::word_error_rate::{align, normalise};

/// Samples of a second.
const RATE: f64 = 16_000.0;
/// Lengths of cuts in seconds.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 30.0;
/// Upper limits of the lengths that are counted together, in seconds.
const CLASSES: [u32; 5] = [1, 3, 6, 12, 30];
/// Words more than the other text has that make a lost or an invented end.
const LEAST_END: usize = 3;

#[derive(Parser)]
struct Cli {
    /// Folder with the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// Path of a ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Number of cuts.
    #[arg(long, default_value_t = 2000)]
    cuts: usize,
    /// The same seed gives the same cuts of the same recordings.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr,de")]
    languages: String,
    /// Use every n-th recording.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Print every cut whose words differ.
    #[arg(long)]
    verbose: bool,
}

/// A decoded recording.
struct Recording {
    path: String,
    language: String,
    samples: Vec<i16>,
}

/// A part of a recording, in samples.
struct Cut<'a> {
    recording: &'a Recording,
    start: usize,
    length: usize,
}

/// Counts of cuts of some lengths.
#[derive(Default)]
struct Tally {
    cuts: usize,
    words: usize,
    errors: usize,
    differ: usize,
    seconds: [f64; 2],
    again: usize,
    findings: BTreeMap<&'static str, usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse();
    let recordings = [read(&args, "speech.tsv")?, read(&args, "long.tsv")?];
    let longest = recordings.iter().flatten().map(|r| r.samples.len()).max();
    ensure!(
        longest.is_some_and(|longest| longest as f64 >= LONGEST * RATE),
        "no recording has {LONGEST} s"
    );
    let mut served = load(&args, Window::MEASURED)?;
    let mut full = load(&args, Window::Full)?;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut tallies: BTreeMap<u32, Tally> = BTreeMap::new();
    let (mut greedy, mut all) = (Tally::default(), Tally::default());
    for number in 0..args.cuts {
        let cut = draw(&recordings, number, &mut random);
        let done = [transcribe(&mut full, &cut)?, transcribe(&mut served, &cut)?];
        let seconds = cut.length as f64 / RATE;
        let class = CLASSES.into_iter().find(|most| seconds <= f64::from(*most));
        let counts = compare(&cut, &done, args.verbose);
        if done.iter().all(|done| temperature(done) <= 0.0) {
            greedy.add(&counts);
        }
        all.add(&counts);
        let of_class = tallies.entry(class.unwrap_or(u32::MAX)).or_default();
        of_class.add(&counts);
    }
    for (most, tally) in &tallies {
        report(&format!("up to {most} s"), tally);
    }
    report("both at temperature 0", &greedy);
    report("all", &all);
    Ok(())
}

fn read(args: &Cli, table: &str) -> anyhow::Result<Vec<Recording>> {
    let languages: Vec<&str> = args.languages.split(',').collect();
    let rows = measurement_support::corpus::rows(&args.corpus, table, &languages, args.every)?;
    let recordings = rows.into_iter().map(|row| {
        Ok(Recording {
            samples: decode(&args.corpus.join(&row.path), 0.0)?,
            path: row.path,
            language: row.language,
        })
    });
    recordings.collect()
}

fn load(args: &Cli, window: Window) -> anyhow::Result<Engine> {
    let options = Options {
        threads: args.threads,
        window,
        ..Options::default()
    };
    Engine::load(&args.model, EngineChoice::Native, options).map_err(anyhow::Error::msg)
}

fn draw<'a>(
    recordings: &'a [Vec<Recording>; 2],
    number: usize,
    random: &mut fastrand::Rng,
) -> Cut<'a> {
    let place = random.f64();
    let seconds = if number.is_multiple_of(2) {
        SHORTEST + place * (LONGEST - SHORTEST)
    } else {
        SHORTEST * (LONGEST / SHORTEST).powf(place)
    };
    let length = (seconds * RATE) as usize;
    let first = random.usize(0..2);
    let long_enough = |group: &'a Vec<Recording>| -> Vec<&'a Recording> {
        let recordings = group.iter();
        recordings.filter(|r| r.samples.len() >= length).collect()
    };
    let mut choices = long_enough(&recordings[first]);
    if choices.is_empty() {
        choices = long_enough(&recordings[1 - first]);
    }
    let recording = choices[random.usize(0..choices.len())];
    Cut {
        recording,
        start: random.usize(0..=recording.samples.len() - length),
        length,
    }
}

fn transcribe(engine: &mut Engine, cut: &Cut<'_>) -> anyhow::Result<ChunkTranscript> {
    let samples = &cut.recording.samples[cut.start..cut.start + cut.length];
    let request = Request {
        samples: samples.iter().map(|s| f32::from(*s) / 32_768.0).collect(),
        task: Task::Transcribe,
        language: Some(cut.recording.language.clone()),
        languages: Vec::new(),
        likely_language: None,
        prompt: None,
        temperature: 0.0,
    };
    let done = engine.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
    done.map_err(|error| anyhow::anyhow!("{error:?}"))
}

/// Counts for one cut how the text as served differs from that of the full window, and prints what matters.
fn compare(cut: &Cut<'_>, [full, served]: &[ChunkTranscript; 2], verbose: bool) -> Tally {
    let seconds = cut.length as f64 / RATE;
    let texts = [full, served].map(text);
    let [expected, found] = [&texts[0], &texts[1]].map(|text| normalise(text));
    let errors = if expected.is_empty() {
        found.len()
    } else {
        align(&expected, &found).into_iter().sum()
    };
    let mut findings = Vec::new();
    match [full, served].map(|done| repeats(done, seconds)) {
        [false, true] => findings.push("repeats as served"),
        [true, false] => findings.push("repeats with the full window"),
        _ => {}
    }
    let ends = [
        words_after(&expected, &found),
        words_after(&found, &expected),
    ];
    if ends[0] >= ends[1] + LEAST_END {
        findings.push("lost end");
    } else if ends[1] >= ends[0] + LEAST_END {
        findings.push("invented end");
    }
    if !findings.is_empty() || verbose && errors > 0 {
        let (path, start) = (&cut.recording.path, cut.start as f64 / RATE);
        let doubt = served.doubt.map_or("not doubted", Doubt::as_str);
        println!(
            "{path} from {start:.3} s, {seconds:.3} s: {errors} words differ {findings:?}, {doubt}"
        );
        for (window, done, text) in [("full", full, &texts[0]), ("served", served, &texts[1])] {
            println!(
                "    {window:>6} (temperature {:.1}){text}",
                temperature(done)
            );
        }
    }
    Tally {
        cuts: 1,
        words: expected.len(),
        errors,
        differ: usize::from(errors > 0),
        seconds: [full.inference_seconds, served.inference_seconds],
        again: usize::from(served.doubt.is_some_and(|d| d != Doubt::LowProbability)),
        findings: findings.into_iter().map(|finding| (finding, 1)).collect(),
    }
}

/// The highest temperature. Above 0, tokens are drawn, so the same audio may give other words.
fn temperature(done: &ChunkTranscript) -> f32 {
    let temperatures = done.segments.iter().map(|segment| segment.temperature);
    temperatures.fold(0.0, f32::max)
}

fn text(done: &ChunkTranscript) -> String {
    done.segments.iter().map(|s| s.text.as_str()).collect()
}

fn repeats(done: &ChunkTranscript, seconds: f64) -> bool {
    let doubt = window::doubt(&done.segments, seconds);
    matches!(doubt, Some(Doubt::Repetition | Doubt::Compression))
}

/// How many words of `a` follow the first place up to which it has the longest common subsequence with `b`.
fn words_after(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0_usize; b.len() + 1];
    let (mut longest, mut place) = (0, 0);
    for (i, word) in a.iter().enumerate() {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let both = diagonal + usize::from(word == other);
            diagonal = row[j + 1];
            row[j + 1] = both.max(row[j]).max(diagonal);
        }
        if row[b.len()] > longest {
            (longest, place) = (row[b.len()], i + 1);
        }
    }
    a.len() - place
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.words += other.words;
        self.errors += other.errors;
        self.differ += other.differ;
        self.again += other.again;
        for (sum, seconds) in self.seconds.iter_mut().zip(other.seconds) {
            *sum += seconds;
        }
        for (finding, count) in &other.findings {
            *self.findings.entry(finding).or_default() += count;
        }
    }
}

fn report(name: &str, tally: &Tally) {
    let cuts = tally.cuts.max(1) as f64;
    println!(
        "{name:>21}: {} cuts, {} words, {} differ ({:.2} %) in {} cuts, {} decoded again, {:?}, full {:.3} s and served {:.3} s a cut",
        tally.cuts,
        tally.words,
        tally.errors,
        100.0 * tally.errors as f64 / tally.words.max(1) as f64,
        tally.differ,
        tally.again,
        tally.findings,
        tally.seconds[0] / cuts,
        tally.seconds[1] / cuts,
    );
}
