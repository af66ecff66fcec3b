//! Measures word timestamps on clips joined from recordings of single words, whose start and end are known
//! to 5 ms from their loudness.
//!
//! ```text
//! # Make clips with their true times from a table of recordings: path, language, word.
//! cargo run --release --example measure_words -- join --words words.tsv --out clips [--clips 20]
//! # Write another program's words to a table: clip, word, start, end.
//! python scripts/bench/peers/words.py MODEL clips clips/faster-whisper.tsv
//! # Score this server, whisper.cpp's two kinds of timestamps, and the tables.
//! cargo run --release --example measure_words -- score --clips clips --model ggml-base.bin \
//!     --weights silero-vad-16k.safetensors [--peer clips/faster-whisper.tsv]
//! ```
//!
//! There are three kinds of clips: words in close succession, words with pauses, and half a minute of groups
//! of words with pauses between the groups.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::{Args, Parser, Subcommand};
use measurement_support::decode::decode;
use stt_actors::domain::chunk::{AudioChunk, SAMPLE_RATE};
use stt_actors::domain::transcript::{ChunkTranscript, Task};
use stt_actors::text::merger::Merger;
use stt_actors::text::segment_split;
use uttera_stt::audio::chunker::Chunker;
use uttera_stt::audio::vad::SpeechDetector;
use uttera_stt::audio::vad::silero::Weights;
use uttera_stt::engine::ggml_hooks;
use uttera_stt::engine::whisper::{Model, Options, Request};
use uttera_stt_tools::probe::word_error_rate::normalise;
use whisper_rs::{
    DtwMode, DtwModelPreset, DtwParameters, FullParams, SamplingStrategy, WhisperContext,
    WhisperContextParameters,
};

/// Length of the frames for measuring loudness: 5 ms.
const FRAME: usize = SAMPLE_RATE as usize / 200;
/// Sound belongs to a word if it is louder than this part of the word's loudest frame: -35 dB.
const AUDIBLE: f64 = 0.0178;
/// Maximum error, in seconds, of a timestamp that counts as correct.
const NEAR: f64 = 0.2;

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

#[derive(Args)]
struct Join {
    /// Table of recordings of single words: path, language, word.
    #[arg(long)]
    words: PathBuf,
    /// Folder for the clips.
    #[arg(long)]
    out: PathBuf,
    /// Number of clips of each kind and language.
    #[arg(long, default_value_t = 20)]
    clips: usize,
}

#[derive(Args)]
struct Score {
    /// Folder made by `join`.
    #[arg(long)]
    clips: PathBuf,
    /// Path of a ggml file (base).
    #[arg(long)]
    model: PathBuf,
    /// Path of the weights of the voice activity detector.
    #[arg(long)]
    weights: PathBuf,
    /// Tables with other programs' words: clip, word, start, end.
    #[arg(long)]
    peer: Vec<PathBuf>,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Programs to leave out: `ours`, `whisper`.
    #[arg(long)]
    without: Vec<String>,
    /// Print every word of this server.
    #[arg(long)]
    verbose: bool,
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

/// A random number generator that is good enough to shuffle words.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = (self.0)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }

    /// A random duration in seconds between two limits.
    fn seconds(&mut self, range: &Range<f64>) -> f64 {
        range.start + (range.end - range.start) * self.below(1000) as f64 / 1000.0
    }
}

/// A kind of clips.
struct Kind {
    name: &'static str,
    words: usize,
    /// Number of words between two pauses.
    group: usize,
    /// Length of a pause, in seconds.
    pause: Range<f64>,
}

/// Silence between words in close succession, in seconds.
const CLOSE: Range<f64> = 0.02..0.08;

const KINDS: [Kind; 3] = [
    Kind {
        name: "close",
        words: 10,
        group: 10,
        pause: 0.5..0.6,
    },
    Kind {
        name: "paused",
        words: 8,
        group: 1,
        pause: 0.3..1.5,
    },
    Kind {
        name: "long",
        words: 28,
        group: 4,
        pause: 0.5..1.6,
    },
];

fn join(args: &Join) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out)?;
    let mut recordings: BTreeMap<String, Vec<(String, Vec<i16>)>> = BTreeMap::new();
    for line in std::fs::read_to_string(&args.words)?.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [path, language, word] = columns[..] else {
            return Err(anyhow!("{line}: path, language and word are expected"));
        };
        let samples = audible(&decode(Path::new(path), 0.0)?);
        recordings
            .entry(language.to_owned())
            .or_default()
            .push((word.to_owned(), samples));
    }
    let mut random = Random(1);
    let mut truth = String::new();
    for (language, words) in &recordings {
        for kind in &KINDS {
            for number in 0..args.clips {
                let name = format!("{language}-{}-{number:02}.wav", kind.name);
                let samples = clip(kind, words, &mut random, |timed| {
                    let (word, time) = (&timed.word, &timed.time);
                    // Writing to a string cannot fail.
                    let _ = writeln!(truth, "{name}\t{word}\t{:.4}\t{:.4}", time.start, time.end);
                });
                write_wav(&args.out.join(&name), &samples)?;
            }
        }
    }
    Ok(std::fs::write(args.out.join("truth.tsv"), truth)?)
}

fn clip(
    kind: &Kind,
    words: &[(String, Vec<i16>)],
    random: &mut Random,
    mut tell: impl FnMut(Timed),
) -> Vec<i16> {
    let silence = |seconds: f64| vec![0_i16; (seconds * f64::from(SAMPLE_RATE)) as usize];
    let seconds = |samples: &[i16]| samples.len() as f64 / f64::from(SAMPLE_RATE);
    let mut samples = silence(random.seconds(&(0.2..0.6)));
    for number in 0..kind.words {
        let (word, recording) = &words[random.below(words.len())];
        let start = seconds(&samples);
        samples.extend(recording);
        tell(Timed {
            word: word.clone(),
            time: start..seconds(&samples),
        });
        let ends_group = (number + 1).is_multiple_of(kind.group);
        let pause = if ends_group { &kind.pause } else { &CLOSE };
        samples.extend(silence(random.seconds(pause)));
    }
    // No recording is completely silent.
    for sample in &mut samples {
        *sample = sample.saturating_add(random.below(13) as i16 - 6);
    }
    samples
}

/// A recording without the silence around the word.
fn audible(samples: &[i16]) -> Vec<i16> {
    let loudness = |frame: &[i16]| {
        let sum: f64 = frame.iter().map(|s| f64::from(*s).powi(2)).sum();
        (sum / frame.len() as f64).sqrt()
    };
    let frames: Vec<f64> = samples.chunks(FRAME).map(loudness).collect();
    let loudest = frames.iter().copied().fold(0.0, f64::max);
    let is_loud = |frame: &f64| *frame > AUDIBLE * loudest;
    let first = frames.iter().position(is_loud).unwrap_or(0);
    let last = frames.iter().rposition(is_loud).unwrap_or(0);
    samples[first * FRAME..((last + 1) * FRAME).min(samples.len())].to_vec()
}

fn write_wav(path: &Path, samples: &[i16]) -> anyhow::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    Ok(writer.finalize()?)
}

/// A table of words by clip.
fn table(path: &Path) -> anyhow::Result<BTreeMap<String, Vec<Timed>>> {
    let mut clips: BTreeMap<String, Vec<Timed>> = BTreeMap::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [clip, word, start, end] = columns[..] else {
            return Err(anyhow!("{line}: clip, word, start and end are expected"));
        };
        clips.entry(clip.to_owned()).or_default().push(Timed {
            word: word.to_owned(),
            time: start.parse()?..end.parse()?,
        });
    }
    Ok(clips)
}

/// Errors of a program on a kind of clips: reported minus true time, in seconds.
#[derive(Default)]
struct Errors {
    starts: Vec<f64>,
    ends: Vec<f64>,
    words: usize,
}

fn score(args: &Score) -> anyhow::Result<()> {
    let truth = table(&args.clips.join("truth.tsv"))?;
    let mut found: BTreeMap<String, BTreeMap<String, Vec<Timed>>> = BTreeMap::new();
    for path in &args.peer {
        let name = path.file_stem().context("a table has a name")?;
        found.insert(name.to_string_lossy().into_owned(), table(path)?);
    }
    let chunks = chunks(args, truth.keys())?;
    let is_left_out = |way: &str| args.without.iter().any(|without| without == way);
    for (name, exact) in [("ours", true), ("ours, rough times", false)] {
        if !is_left_out("ours") {
            found.insert(name.to_owned(), ours(args, &chunks, exact)?);
        }
    }
    if !is_left_out("whisper") {
        let (tokens, dtw) = whispers(args, &chunks)?;
        found.insert("whisper.cpp tokens".to_owned(), tokens);
        found.insert("whisper.cpp DTW".to_owned(), dtw);
    }
    for (way, clips) in &found {
        let mut kinds: BTreeMap<&str, Errors> = BTreeMap::new();
        for (clip, truth) in &truth {
            let kind = clip.rsplit_once('-').map_or("", |(kind, _)| kind);
            let said = clips.get(clip).map_or(&[][..], Vec::as_slice);
            for errors in [kind, "all"] {
                note(kinds.entry(errors).or_default(), truth, said);
            }
            if args.verbose && way == "ours" {
                println!("{clip}\n  {}\n  {}", told(truth), told(said));
            }
        }
        for (kind, errors) in kinds {
            println!("{way:>20} {kind:>10}: {}", summary(&errors));
        }
    }
    Ok(())
}

fn told(words: &[Timed]) -> String {
    let told = words.iter();
    let told = told.map(|w| format!("{}[{:.2} {:.2}]", w.word.trim(), w.time.start, w.time.end));
    told.collect::<Vec<_>>().join(" ")
}

fn summary(errors: &Errors) -> String {
    let about = |errors: &[f64]| {
        let count = errors.len().max(1) as f64;
        let mean = errors.iter().map(|error| error.abs()).sum::<f64>() / count;
        let bias = errors.iter().sum::<f64>() / count;
        let near = errors.iter().filter(|error| error.abs() <= NEAR).count() as f64;
        format!(
            "{:3.0} ms off ({:+4.0}), {:5.1} % within 0.2 s",
            1000.0 * mean,
            1000.0 * bias,
            100.0 * near / count
        )
    };
    format!(
        "{} of {} words; starts {}; ends {}",
        errors.starts.len(),
        errors.words,
        about(&errors.starts),
        about(&errors.ends)
    )
}

/// Pairs the words that are equal, in order: the longest common subsequence.
fn note(errors: &mut Errors, truth: &[Timed], said: &[Timed]) {
    let plain = |timed: &Timed| normalise(&timed.word).concat();
    let (a, b): (Vec<_>, Vec<_>) = (
        truth.iter().map(plain).collect(),
        said.iter().map(plain).collect(),
    );
    let mut longest = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    errors.words += a.len();
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            errors.starts.push(said[j].time.start - truth[i].time.start);
            errors.ends.push(said[j].time.end - truth[i].time.end);
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
}

type Chunks = Vec<(String, Vec<AudioChunk>)>;

/// Cuts the clips as the server does.
fn chunks<'a>(args: &Score, clips: impl Iterator<Item = &'a String>) -> anyhow::Result<Chunks> {
    let weights = Arc::new(Weights::load(&args.weights)?);
    clips
        .map(|clip| {
            let samples = decode(&args.clips.join(clip), 0.0)?;
            let detector = SpeechDetector::new(Arc::clone(&weights));
            let mut chunker = Chunker::new(Some(Box::new(detector)));
            chunker.aim_at(Duration::from_secs(28));
            let mut chunks = chunker.push(&samples);
            chunks.extend(chunker.flush());
            Ok((clip.clone(), chunks))
        })
        .collect()
}

fn language_of(clip: &str) -> &str {
    clip.split('-').next().unwrap_or("en")
}

fn ours(
    args: &Score,
    chunks: &Chunks,
    exact: bool,
) -> anyhow::Result<BTreeMap<String, Vec<Timed>>> {
    let options = Options {
        threads: args.threads,
        exact_words: exact,
        ..Options::default()
    };
    let mut model = Model::load(&args.model, options).map_err(anyhow::Error::msg)?;
    let mut seconds = 0.0;
    let mut found = BTreeMap::new();
    for (clip, chunks) in chunks {
        let mut merger = Merger::default();
        let mut words = Vec::new();
        for chunk in chunks {
            let request = Request {
                samples: floats(&chunk.samples),
                task: Task::Transcribe,
                language: Some(language_of(clip).to_owned()),
                prompt: None,
                temperature: 0.0,
            };
            let done = model.transcribe(request, &AtomicBool::new(false), &mut |_, _| {});
            let mut done: ChunkTranscript = done.map_err(|error| anyhow!("{error:?}"))?;
            seconds += done.inference_seconds;
            done.segments = segment_split::settle(std::mem::take(&mut done.segments), chunk);
            for segment in merger.push(chunk.clone(), done) {
                words.extend(segment.words.into_iter().map(|word| Timed {
                    word: word.text,
                    time: word.start..word.end,
                }));
            }
        }
        found.insert(clip.clone(), words);
    }
    println!("exact times: {exact}; {seconds:.1} s of inference");
    Ok(found)
}

fn floats(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|s| f32::from(*s) / 32_768.0).collect()
}

/// whisper.cpp's own timestamps: those of tokens, and those of its dynamic time warping, which gives the
/// ends of tokens.
#[expect(clippy::type_complexity, reason = "two tables")]
fn whispers(
    args: &Score,
    chunks: &Chunks,
) -> anyhow::Result<(BTreeMap<String, Vec<Timed>>, BTreeMap<String, Vec<Timed>>)> {
    let mut parameters = WhisperContextParameters::default();
    parameters.flash_attn(false).dtw_parameters(DtwParameters {
        mode: DtwMode::ModelPreset {
            model_preset: DtwModelPreset::Base,
        },
        ..DtwParameters::default()
    });
    whisper_rs::install_logging_hooks();
    ggml_hooks::check().map_err(anyhow::Error::msg)?;
    let context = WhisperContext::new_with_params(&args.model, parameters)?;
    let (mut by_tokens, mut by_dtw) = (BTreeMap::new(), BTreeMap::new());
    for (clip, chunks) in chunks {
        let mut words = [Vec::new(), Vec::new()];
        for chunk in chunks {
            let mut parameters = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
            parameters.set_n_threads(args.threads.cast_signed());
            parameters.set_language(Some(language_of(clip)));
            parameters.set_token_timestamps(true);
            parameters.set_no_context(true);
            let mut state = context.create_state()?;
            state.full(parameters, &floats(&chunk.samples))?;
            for (words, found) in words.iter_mut().zip(whispers_words(&state, &context)) {
                words.extend(found.into_iter().map(|timed| Timed {
                    time: chunk.begins_at(timed.time.start)..chunk.ends_at(timed.time.end),
                    ..timed
                }));
            }
        }
        let [tokens, dtw] = words;
        by_tokens.insert(clip.clone(), tokens);
        by_dtw.insert(clip.clone(), dtw);
    }
    ensure!(!by_tokens.is_empty(), "there are no clips");
    Ok((by_tokens, by_dtw))
}

fn whispers_words(state: &whisper_rs::WhisperState, context: &WhisperContext) -> [Vec<Timed>; 2] {
    let mut found = [Vec::<Timed>::new(), Vec::<Timed>::new()];
    for segment in state.as_iter() {
        for number in 0..segment.n_tokens() {
            let Some(token) = segment.get_token(number) else {
                continue;
            };
            let data = token.token_data();
            if data.id >= context.token_eot() {
                continue;
            }
            let text = token.to_str_lossy().unwrap_or_default().into_owned();
            let seconds = |frames: i64| frames as f64 / 100.0;
            let before = found[1].last().map_or(0.0, |word| word.time.end);
            let times = [
                seconds(data.t0)..seconds(data.t1),
                before..seconds(data.t_dtw),
            ];
            for (words, time) in found.iter_mut().zip(times) {
                if text.starts_with(' ') || words.is_empty() {
                    words.push(Timed {
                        word: text.clone(),
                        time,
                    });
                } else if let Some(word) = words.last_mut() {
                    word.word += &text;
                    word.time.end = time.end;
                }
            }
        }
    }
    found
}
