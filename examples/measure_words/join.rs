//! Makes clips from recordings of single words.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use measurement_support::decode::decode;
use measurement_support::wav::wav;
use stt_actors::domain::chunk::SAMPLE_RATE;

use crate::Timed;

/// Length of the frames for measuring loudness: 5 ms.
const FRAME: usize = SAMPLE_RATE as usize / 200;
/// Sound belongs to a word if it is louder than this part of the word's loudest frame: -35 dB.
const AUDIBLE: f64 = 0.0178;

#[derive(Args)]
pub struct Join {
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

/// Makes the clips and `truth.tsv`, the table of their words and times.
pub fn join(args: &Join) -> anyhow::Result<()> {
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
                std::fs::write(args.out.join(&name), wav(&samples)?)?;
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
