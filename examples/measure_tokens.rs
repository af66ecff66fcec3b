//! Compares the native engine in 32-bit numbers with whisper.cpp token by token: the same weights, the full window,
//! greedy decoding at temperature 0 without a ladder, the language given, no prompt, with time stamps. The figures on
//! equal tokens in docs/performance.md.
//!
//! ```text
//! cargo run --release --example measure_tokens -- --corpus corpus --model ggml-base.bin \
//!     [--languages en,es,fr,de] [--longest 30] [--every 1] [--verbose]
//! ```
//!
//! The model has 16-bit weights. The native engine reads them into 32-bit numbers, which changes none of them.
//! whisper.cpp cannot compute with 32-bit weights on a CPU: it aborts at the first convolution, because ggml asserts that
//! the weights there have 16 bits.
//!
//! Every clip that differs is listed with both texts, the first place where they differ, and what both engines think of
//! both candidates there. The reason is found by giving whisper.cpp's scores to the native engine's rules:
//!
//! - *numbers*: the rules choose whisper.cpp's token from its scores, so the scores decide. If the candidates are nearly
//!   equally likely, it is rounding. whisper.cpp looks an approximation of GELU up in a table of 16-bit numbers, where
//!   the native engine computes it exactly; that makes most of the difference. It also keeps all keys and values in 16
//!   bits and rounds the other factor of a product with 16-bit weights to 16 bits; the native engine keeps the keys and
//!   values of the audio in 16 bits, and all else in 32.
//!   In a window after the first, the spectrograms differ too: whisper.cpp limits the range below the maximum of the
//!   whole clip, the native engine below that of the window.
//! - *rules*: the rules choose another token than whisper.cpp from whisper.cpp's own scores, or one of them stopped.
//! - *windows*: one of them has more windows.
//! - *segments*: the tokens are equal, the times or the texts are not.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use clap::Parser;
use measurement_support::corpus::Row;
use measurement_support::decode::decode;
use whisper_cpu::Model;
use whisper_cpu::decoder::Sequence;
use whisper_cpu::decoding::{Decoded, Task};
use whisper_cpu::kernels::log_sum_exp;
use whisper_cpu::linear::Precision;
use whisper_cpu::rules::Rules;
use whisper_cpu::transcribe::{self, Options, Transcriber};
use whisper_cpu::vocabulary::Token;
use whisper_rs::whisper_rs_sys as sys;
use whisper_rs::{FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters};

/// Samples of a second.
const RATE: usize = 16_000;
/// Samples of a time stamp's step.
const STEP: usize = RATE / 50;
/// whisper.cpp reads beyond the end of shorter audio, so the server pads it with silence.
const SHORTEST_SAMPLES: usize = RATE * 11 / 10;
/// Difference of two log-probabilities below which they count as equal.
const ROUNDING: f32 = 0.01;

#[derive(Parser)]
struct Cli {
    /// Folder with the recordings and their tables.
    #[arg(long)]
    corpus: PathBuf,
    /// Path of a ggml file with 16-bit weights.
    #[arg(long)]
    model: PathBuf,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Comma-separated languages to use.
    #[arg(long, default_value = "en,es,fr,de")]
    languages: String,
    /// Maximum length of a clip, in seconds.
    #[arg(long, default_value_t = 30.0)]
    longest: f64,
    /// Use every n-th clip.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Print a line for every equal clip too.
    #[arg(long)]
    verbose: bool,
}

/// A segment: start and end in seconds, and its text.
type Segment = (f64, f64, String);

/// The text of one window.
#[derive(Default)]
struct Window {
    /// Where it begins, in samples; `None`: not known.
    seek: Option<usize>,
    /// All that was chosen, with time stamps; whisper.cpp does not tell the last choice.
    tokens: Vec<Token>,
    /// whisper.cpp's scores before each choice.
    scores: Vec<Vec<f32>>,
    /// The native engine's log-probabilities of its choices.
    logprobs: Vec<f32>,
}

/// What an engine made of a clip.
#[derive(Default)]
struct Heard {
    windows: Vec<Window>,
    segments: Vec<Segment>,
}

/// What whisper.cpp's callback fills.
struct Record {
    vocabulary: usize,
    windows: Vec<Window>,
}

/// Both engines.
struct Engines {
    native: Model,
    rules: Rules,
    whisper: WhisperContext,
    threads: usize,
}

/// The first difference of two texts.
struct Difference {
    reason: &'static str,
    /// By how much one candidate is more likely to the native engine, if the scores decide.
    margin: Option<f32>,
    details: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse();
    whisper_rs::install_logging_hooks();
    let native = Model::load(&args.model, Some(Precision::Float), args.threads)?;
    let engines = Engines {
        rules: Rules::new(&native.vocabulary),
        native,
        // As the server loads it for a CPU.
        whisper: WhisperContext::new_with_params(&args.model, WhisperContextParameters::default())?,
        threads: args.threads,
    };
    let languages: Vec<&str> = args.languages.split(',').collect();
    let rows =
        measurement_support::corpus::rows(&args.corpus, "speech.tsv", &languages, args.every)?;
    let mut deviations = Vec::new();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut clips, mut rounding) = (0, 0);
    for row in &rows {
        let samples = decode(&args.corpus.join(&row.path), 0.0)?;
        let samples: Vec<f32> = samples.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        let seconds = samples.len() as f64 / RATE as f64;
        if seconds > args.longest {
            continue;
        }
        clips += 1;
        let ours = engines.native(&samples, &row.language)?;
        let theirs = engines.whisper(&samples, &row.language)?;
        let difference = engines.compare(row, &samples, [&ours, &theirs], &mut deviations)?;
        let Some(difference) = difference else {
            if args.verbose {
                println!("{} ({seconds:.1} s): equal", row.path);
            }
            continue;
        };
        *reasons.entry(difference.reason).or_default() += 1;
        rounding += usize::from(difference.margin.is_some_and(|margin| margin < ROUNDING));
        println!("{} ({seconds:.1} s): {}", row.path, difference.reason);
        for detail in difference.details {
            println!("    {detail}");
        }
        print_segments("native", &ours.segments);
        print_segments("whisper.cpp", &theirs.segments);
    }
    let differ: usize = reasons.values().sum();
    println!(
        "{clips} clips: {} equal, {differ} differ {reasons:?}; numbers within {ROUNDING}: {rounding}",
        clips - differ
    );
    report(&mut deviations);
    Ok(())
}

fn print_segments(engine: &str, segments: &[Segment]) {
    for (start, end, text) in segments {
        println!("    {engine:>11} {start:5.2}–{end:5.2}{text}");
    }
}

/// How much the engines' log-probabilities differ where they chose the same token.
fn report(deviations: &mut [f32]) {
    deviations.sort_by(f32::total_cmp);
    let Some(largest) = deviations.last() else {
        return;
    };
    let count = deviations.len();
    println!(
        "{count} equal choices; their log-probabilities differ by {:.5} on average, 99 % of them by less than {:.5}, all by at most {largest:.5}",
        deviations.iter().sum::<f32>() / count as f32,
        deviations[count * 99 / 100],
    );
}

impl Engines {
    fn native(&self, samples: &[f32], language: &str) -> anyhow::Result<Heard> {
        let windows = Mutex::new(Vec::new());
        // Not for times: it is shown the tokens of each window.
        let timing = |decoded: &Decoded, steps: usize| {
            // Windows begin at whole steps and last to the end of the clip.
            let seek = (samples.len().div_ceil(STEP) - steps) * STEP;
            let window = Window {
                seek: Some(seek),
                tokens: decoded.choices.iter().map(|choice| choice.token).collect(),
                logprobs: decoded
                    .choices
                    .iter()
                    .map(|choice| choice.logprob)
                    .collect(),
                scores: Vec::new(),
            };
            let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.push(window);
            None
        };
        let transcriber = Transcriber {
            model: &self.native,
            rules: &self.rules,
            timing: Some(&timing),
            is_bad: &|_| false,
            stop: &AtomicBool::new(false),
        };
        let options = Options {
            task: self.task(language)?,
            temperature: 0.0,
            beam: 1,
            ladder: false,
        };
        let transcript = transcriber.transcribe(samples, &options, None, None);
        let transcript = transcript.map_err(|_| anyhow::anyhow!("stopped"))?;
        let segments = transcript.segments.into_iter().map(|segment| {
            let tokens: Vec<Token> = segment.choices.iter().map(|c| c.token).collect();
            let text = self.native.vocabulary.text(&tokens);
            (segment.time.start, segment.time.end, text)
        });
        Ok(Heard {
            segments: segments.collect(),
            windows: windows.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn task(&self, language: &str) -> anyhow::Result<Task> {
        let special = self.native.vocabulary.special;
        let place = whisper_rs::get_lang_id(language).and_then(|place| u32::try_from(place).ok());
        Ok(Task {
            language: Some(
                place
                    .and_then(|place| special.language(place))
                    .with_context(|| format!("unknown language {language}"))?,
            ),
            translate: false,
            prompt: Vec::new(),
            timestamps: true,
            heads: Vec::new(),
        })
    }

    /// As the server calls it, but without the ladder.
    fn whisper(&self, samples: &[f32], language: &str) -> anyhow::Result<Heard> {
        let mut parameters = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
        parameters.set_n_threads(self.threads as c_int);
        parameters.set_language(Some(language));
        parameters.set_temperature(0.0);
        parameters.set_temperature_inc(0.0);
        parameters.set_no_context(true);
        parameters.set_suppress_blank(true);
        parameters.set_suppress_nst(true);
        parameters.set_print_progress(false);
        parameters.set_print_timestamps(false);
        parameters.set_duration_ms((samples.len() * 1000 / RATE) as c_int);
        let mut record = Record {
            vocabulary: self.native.dimensions.vocabulary,
            windows: Vec::new(),
        };
        // SAFETY: the function takes its user data as the record, which outlives the call and which nothing else uses
        // during it; with one candidate, whisper.cpp calls it from one thread.
        unsafe {
            parameters.set_filter_logits_callback(Some(note));
            parameters.set_filter_logits_callback_user_data((&raw mut record).cast::<c_void>());
        }
        let mut padded = samples.to_vec();
        padded.resize(samples.len().max(SHORTEST_SAMPLES), 0.0);
        let mut state = self.whisper.create_state()?;
        state.full(parameters, &padded)?;
        let end = samples.len() as f64 / RATE as f64;
        let seconds = |frames: i64| (frames as f64 / 100.0).min(end);
        let segments = state.as_iter().map(|segment| {
            let text = segment.to_str_lossy()?.into_owned();
            let times = [segment.start_timestamp(), segment.end_timestamp()].map(seconds);
            anyhow::Ok((times[0], times[1], text))
        });
        Ok(Heard {
            segments: segments.collect::<anyhow::Result<_>>()?,
            windows: record.windows,
        })
    }

    /// The first difference, if there is one. Adds the differences of the log-probabilities before it.
    fn compare(
        &self,
        row: &Row,
        samples: &[f32],
        [ours, theirs]: [&Heard; 2],
        deviations: &mut Vec<f32>,
    ) -> anyhow::Result<Option<Difference>> {
        let end = self.native.vocabulary.special.end;
        for (number, (our, their)) in ours.windows.iter().zip(&theirs.windows).enumerate() {
            for place in 0..our.tokens.len().max(their.scores.len()) {
                // A text without a further token has ended.
                let mine = our.tokens.get(place).copied().unwrap_or(end);
                let scores = their.scores.get(place).map(|scores| {
                    let mut scores = scores.clone();
                    self.rules.apply(&mut scores, &our.tokens[..place], true);
                    scores
                });
                let allowed = scores.as_ref().map(|scores| best(scores));
                // The last choice is not known, but by the rules.
                let other = their.tokens.get(place).copied().or(allowed).unwrap_or(end);
                if mine == other {
                    if let (Some(scores), Some(logprob)) = (scores, our.logprobs.get(place)) {
                        let their = scores[mine as usize] - log_sum_exp(&scores);
                        deviations.push((logprob - their).abs());
                    }
                    continue;
                }
                let at = (number, place);
                let reason = if allowed == Some(other) {
                    "numbers"
                } else {
                    "rules"
                };
                return self
                    .difference(row, samples, at, [our, their], [mine, other], reason)
                    .map(Some);
            }
        }
        // Windows of which nothing is left because they are silent do not count.
        if is_same(&ours.segments, &theirs.segments, samples.len()) {
            return Ok(None);
        }
        let counts = [ours, theirs].map(|heard| heard.windows.len());
        let reason = if counts[0] == counts[1] {
            "segments"
        } else {
            "windows"
        };
        Ok(Some(Difference {
            reason,
            margin: None,
            details: vec![format!("{} and {} windows", counts[0], counts[1])],
        }))
    }

    /// What both engines think of the two candidates at the first place where they differ.
    fn difference(
        &self,
        row: &Row,
        samples: &[f32],
        (number, place): (usize, usize),
        [our, their]: [&Window; 2],
        candidates: [Token; 2],
        reason: &'static str,
    ) -> anyhow::Result<Difference> {
        let special = self.native.vocabulary.special;
        let seek = our.seek.unwrap_or(0);
        let stop = AtomicBool::new(false);
        let audio = transcribe::listen(&self.native, &samples[seek..], None, &stop);
        let mut sequence = Sequence::new(audio.context("stopped")?, &[]);
        let language = self.task(&row.language)?.language;
        let mut tokens = vec![special.start];
        tokens.extend(language);
        tokens.push(special.transcribe);
        tokens.extend(&our.tokens[..place]);
        let ours = self.native.step(&mut [(&mut sequence, &tokens)]).remove(0);
        let before = &our.tokens[..place];
        let margin = self.likelihoods(&ours, before, candidates);
        let mut details = vec![format!(
            "window {} from {:.2} s, token {place}: native {}, whisper.cpp {}",
            number + 1,
            seek as f64 / RATE as f64,
            self.name(candidates[0]),
            self.name(candidates[1])
        )];
        for (engine, scores) in [
            ("native", Some(&ours)),
            ("whisper.cpp", their.scores.get(place)),
        ] {
            details.push(match scores {
                Some(scores) => {
                    let [first, second] = self.likelihoods(scores, before, candidates);
                    format!("log-probabilities, {engine}: {first:.4} and {second:.4}")
                }
                None => format!("{engine} had stopped"),
            });
        }
        Ok(Difference {
            reason,
            margin: (reason == "numbers").then_some(margin[0] - margin[1]),
            details,
        })
    }

    /// The log-probabilities of two candidates. If one of them is a time stamp and the other is not, then that of all
    /// time stamps that may follow together, because the rule compares that one.
    fn likelihoods(&self, scores: &[f32], before: &[Token], candidates: [Token; 2]) -> [f32; 2] {
        let first = self.native.vocabulary.special.first_timestamp;
        let total = log_sum_exp(scores);
        let is_time = candidates.map(|token| token >= first);
        let latest = before.iter().rev().find(|token| **token >= first);
        let times = log_sum_exp(&scores[latest.copied().unwrap_or(first) as usize..]);
        [0, 1].map(|which| {
            let own = scores[candidates[which] as usize];
            let together = is_time[which] && !is_time[1 - which];
            (if together { times } else { own }) - total
        })
    }

    fn name(&self, token: Token) -> String {
        let special = self.native.vocabulary.special;
        match special.timestamp(token) {
            Some(time) => format!("<{:.2}>", f64::from(time) / 50.0),
            None if token == special.end => "<end>".to_owned(),
            None => format!("{:?}", self.native.vocabulary.text(&[token])),
        }
    }
}

fn best(scores: &[f32]) -> Token {
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as Token)
}

/// Whether texts and times are equal, the times to a step. Times after the audio are cut.
fn is_same(ours: &[Segment], theirs: &[Segment], samples: usize) -> bool {
    let end = samples as f64 / RATE as f64;
    let near = |a: f64, b: f64| (a.min(end) - b.min(end)).abs() < 0.015;
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(our, their)| near(our.0, their.0) && near(our.1, their.1) && our.2 == their.2)
}

/// Records the tokens so far and the next one's scores, before whisper.cpp's rules for symbols and time stamps.
unsafe extern "C" fn note(
    _context: *mut sys::whisper_context,
    _state: *mut sys::whisper_state,
    tokens: *const sys::whisper_token_data,
    count: c_int,
    scores: *mut f32,
    record: *mut c_void,
) {
    let count = count as usize;
    // SAFETY: the caller gave the record for this call, and whisper.cpp gives as many tokens as it says, and a score for
    // each token of its vocabulary.
    let (record, last, scores) = unsafe {
        let record = &mut *record.cast::<Record>();
        let last = (count > 0).then(|| (*tokens.add(count - 1)).id);
        let scores = std::slice::from_raw_parts(scores, record.vocabulary);
        (record, last, scores)
    };
    // Nothing is chosen yet: this is a new window.
    if last.is_none() {
        record.windows.push(Window::default());
    }
    if let Some(window) = record.windows.last_mut() {
        window.tokens.extend(last.map(i32::cast_unsigned));
        window.scores.push(scores.to_vec());
    }
}
