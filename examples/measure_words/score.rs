//! Compares words and times with the true ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use uttera_stt::engine::EngineChoice;
use uttera_stt_tools::probe::word_error_rate::normalise;

use crate::Timed;
use crate::transcribe::{Words, chunks, ours, whispers};

/// Maximum error, in seconds, of a timestamp that counts as correct.
const NEAR: f64 = 0.2;

#[derive(Args)]
pub struct Score {
    /// Folder made by `join`.
    #[arg(long)]
    pub clips: PathBuf,
    /// Path of a ggml file (base).
    #[arg(long)]
    pub model: PathBuf,
    /// Path of the weights of the voice activity detector.
    #[arg(long)]
    pub weights: PathBuf,
    /// Tables with other programs' words: clip, word, start, end.
    #[arg(long)]
    peer: Vec<PathBuf>,
    /// Threads of the inference.
    #[arg(long, default_value_t = 2)]
    pub threads: u32,
    /// Programs to leave out: `ours`, `whisper`.
    #[arg(long)]
    without: Vec<String>,
    /// Print every word of this server.
    #[arg(long)]
    verbose: bool,
}

/// A table of words by clip.
fn table(path: &Path) -> anyhow::Result<Words> {
    let mut clips = Words::new();
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

/// Prints the errors of each program on each kind of clips.
pub fn score(args: &Score) -> anyhow::Result<()> {
    let truth = table(&args.clips.join("truth.tsv"))?;
    let mut found: BTreeMap<String, Words> = BTreeMap::new();
    for path in &args.peer {
        let name = path.file_stem().context("a table has a name")?;
        found.insert(name.to_string_lossy().into_owned(), table(path)?);
    }
    let chunks = chunks(args, truth.keys())?;
    let is_left_out = |way: &str| args.without.iter().any(|without| without == way);
    for (name, engine) in [
        ("ours", EngineChoice::Native),
        ("ours, on whisper.cpp", EngineChoice::WhisperCpp),
    ] {
        if !is_left_out("ours") {
            found.insert(name.to_owned(), ours(args, &chunks, engine)?);
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
