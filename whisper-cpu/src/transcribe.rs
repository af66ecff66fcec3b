//! Transcribes audio of any length: windows, retries, segments.
//!
//! A window is at most 30 s. Its text has time stamps, which part it into segments; the next window begins where the
//! last complete segment ends, as in OpenAI's implementation (`transcribe.py`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::Model;
use crate::decoder::Audio;
use crate::decoding::{Begun, Choice, Decoded, Opening, Sampling, Task};
use crate::encoder::SAMPLES as STEP;
use crate::rules::Rules;
use crate::tail::{Tail, positions};
use crate::vocabulary::Token;

/// Samples of a second.
const RATE: usize = 16_000;
/// Samples of a window.
const WINDOW: usize = 30 * RATE;
/// Samples of the longest audio that a tail follows. After longer audio, texts that end in the middle of a sentence are
/// sometimes continued by words that nobody said.
const LONGEST_WITH_TAIL: usize = 12 * RATE;
/// Positions of silence after longer audio, as many as in the best window that is cut (`docs/performance.md`).
const SILENCE: usize = 256;
/// A rest shorter than this after a window is not transcribed: it rarely holds a word. (whisper.cpp leaves out 0.1 s.)
const LEAST_REST: usize = RATE;
/// Mean log-probability below which a text is decoded again at a higher temperature.
const LEAST_LOGPROB: f32 = -1.0;
/// Probability of silence above which an improbable text is dropped.
const MOST_NO_SPEECH: f32 = 0.6;
/// Temperatures of the ladder above 0, up to 1.
const LADDER_STEPS: u64 = 5;

/// How audio is transcribed.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the windows have in common.
    pub task: Task,
    /// 0: the most likely token each time. Otherwise tokens are drawn.
    pub temperature: f32,
    /// Texts that are kept at each token at temperature 0; 1: greedy decoding.
    pub beam: usize,
    /// Whether improbable texts are decoded again at higher temperatures.
    pub ladder: bool,
}

/// A piece of text with its time.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Where its window began, in samples.
    pub seek: usize,
    /// When it is said, in seconds.
    pub time: Range<f64>,
    /// Its tokens of text.
    pub choices: Vec<Choice>,
    /// When each token is said, in seconds, if heads that follow the audio were given.
    pub token_times: Option<Vec<Range<f64>>>,
    /// The temperature that it was decoded at.
    pub temperature: f32,
    /// The mean log-probability of its window's tokens.
    pub mean_logprob: f32,
    /// The probability that nothing is said in its window.
    pub no_speech: f32,
}

/// The segments of some audio, and what they took.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// The segments, in order.
    pub segments: Vec<Segment>,
    /// Number of encoder passes.
    pub encoder_passes: u32,
}

/// The work was abandoned because it was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// Times the tokens of a window: from the rows of attention of each step.
pub type Timing<'a> = &'a (dyn Fn(&Decoded, usize) -> Option<Vec<Range<f64>>> + Sync);

/// Encodes one window as far as its audio goes, with a `tail` for the rest if it is short enough, otherwise with some
/// silence. Without a tail, the full window. `None` when another thread set `stop`.
pub fn listen(
    model: &Model,
    window: &[f32],
    tail: Option<&Tail>,
    stop: &AtomicBool,
) -> Option<Arc<Audio>> {
    let all = model.dimensions.audio_positions;
    let (own, tail) = match tail {
        Some(tail) if window.len() <= LONGEST_WITH_TAIL => (positions(window.len()), Some(tail)),
        Some(_) => (window.len().div_ceil(STEP) + SILENCE, None),
        None => (all, None),
    };
    model.listen(window, own.min(all), tail, stop)
}

/// What transcribes audio.
pub struct Transcriber<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its rules.
    pub rules: &'a Rules,
    /// Times tokens; `None`: they get no times.
    pub timing: Option<Timing<'a>>,
    /// Says which texts are decoded again.
    pub is_bad: &'a (dyn Fn(&str) -> bool + Sync),
    /// Another thread sets this to end the work.
    pub stop: &'a AtomicBool,
}

impl Transcriber<'_> {
    /// Transcribes audio, 16 kHz ±1.0. With a `tail`, windows are encoded as far as their audio goes; without one they
    /// are full. The first window may have been encoded already, and its text begun (`first`).
    ///
    /// # Errors
    /// `stop` was set.
    pub fn transcribe(
        &self,
        samples: &[f32],
        options: &Options,
        tail: Option<&Tail>,
        first: Option<(Arc<Audio>, Opening)>,
    ) -> Result<Transcript, Stopped> {
        // Once for all steps, because every change of threads takes time.
        (self.model).install(|| self.windows(samples, options, tail, first))
    }

    fn windows(
        &self,
        samples: &[f32],
        options: &Options,
        tail: Option<&Tail>,
        mut first: Option<(Arc<Audio>, Opening)>,
    ) -> Result<Transcript, Stopped> {
        let special = self.model.vocabulary.special;
        let mut transcript = Transcript::default();
        let mut seek = 0;
        while seek < samples.len() && (seek == 0 || samples.len() - seek >= LEAST_REST) {
            let window = &samples[seek..samples.len().min(seek + WINDOW)];
            let (audio, opening) = if let Some((audio, opening)) = first.take() {
                (audio, Some(opening))
            } else {
                transcript.encoder_passes += 1;
                let audio = listen(self.model, window, tail, self.stop).ok_or(Stopped)?;
                (audio, None)
            };
            let (decoded, temperature) = self.climb(&audio, opening.as_ref(), options)?;
            let is_silent =
                decoded.no_speech > MOST_NO_SPEECH && decoded.mean_logprob < LEAST_LOGPROB;
            if is_silent {
                seek += window.len();
                continue;
            }
            let times = self
                .timing
                .and_then(|timing| timing(&decoded, window.len().div_ceil(STEP)));
            let pieces = pieces(&decoded.choices, special.first_timestamp, window.len());
            let begin = seek as f64 / RATE as f64;
            let mut texts_before = 0;
            for piece in pieces.segments {
                let choices: Vec<Choice> = (decoded.choices[piece.tokens].iter())
                    .filter(|choice| choice.token < special.end)
                    .copied()
                    .collect();
                let own = texts_before..texts_before + choices.len();
                texts_before = own.end;
                if choices.is_empty() {
                    continue;
                }
                let seconds = |steps: u32| begin + f64::from(steps) * STEP as f64 / RATE as f64;
                let shifted = |time: &Range<f64>| time.start + begin..time.end + begin;
                transcript.segments.push(Segment {
                    seek,
                    time: seconds(piece.time.start)..seconds(piece.time.end),
                    choices,
                    token_times: times
                        .as_ref()
                        .map(|times| times[own].iter().map(shifted).collect()),
                    temperature,
                    mean_logprob: decoded.mean_logprob,
                    no_speech: decoded.no_speech,
                });
            }
            seek += pieces.length.max(STEP);
        }
        Ok(transcript)
    }

    /// Decodes at temperature 0. A bad text is decoded again at the higher temperatures, all at once; the lowest one
    /// with a good text counts. If there is none, the most probable one of those that `is_bad` accepts counts. Other temperatures are used alone.
    fn climb(
        &self,
        audio: &Arc<Audio>,
        opening: Option<&Opening>,
        options: &Options,
    ) -> Result<(Decoded, f32), Stopped> {
        let (model, rules) = (self.model, self.rules);
        let begun = Begun::new(model, rules, (audio, opening), &options.task, self.stop);
        let begun = begun.ok_or(Stopped)?;
        let decoded = if options.beam > 1 && options.temperature <= 0.0 {
            begun.beam(options.beam)
        } else {
            let first = Sampling {
                temperature: options.temperature,
                seed: 0,
            };
            begun.sample(&[first]).and_then(|mut all| all.pop())
        };
        let decoded = decoded.ok_or(Stopped)?;
        if !options.ladder || !self.failed(&decoded) {
            return Ok((decoded, options.temperature));
        }
        let ladder: Vec<Sampling> = (1..=LADDER_STEPS)
            .map(|step| Sampling {
                temperature: step as f32 / LADDER_STEPS as f32,
                seed: step,
            })
            .collect();
        let all = begun.sample(&ladder).ok_or(Stopped)?;
        let mut all: Vec<(Decoded, f32)> = (all.into_iter())
            .zip(ladder.iter().map(|sampling| sampling.temperature))
            .collect();
        if let Some(good) = all.iter().position(|(decoded, _)| !self.failed(decoded)) {
            return Ok(all.swap_remove(good));
        }
        all.push((decoded, options.temperature));
        let chosen = most_probable(all, |decoded| self.is_bad(decoded));
        chosen.ok_or(Stopped)
    }

    fn failed(&self, decoded: &Decoded) -> bool {
        let is_silent = decoded.no_speech > MOST_NO_SPEECH;
        (decoded.mean_logprob < LEAST_LOGPROB && !is_silent) || self.is_bad(decoded)
    }

    fn is_bad(&self, decoded: &Decoded) -> bool {
        let tokens: Vec<Token> = decoded.choices.iter().map(|choice| choice.token).collect();
        (self.is_bad)(&self.model.vocabulary.text(&tokens))
    }
}

/// The most probable text of those that are not bad, or of all if all are: a text that repeats itself is probable, and bad
/// all the same.
fn most_probable(
    all: Vec<(Decoded, f32)>,
    is_bad: impl Fn(&Decoded) -> bool,
) -> Option<(Decoded, f32)> {
    let good = all.iter().any(|(decoded, _)| !is_bad(decoded));
    let rated = all
        .into_iter()
        .filter(|(decoded, _)| !good || !is_bad(decoded));
    rated.max_by(|(a, _), (b, _)| a.mean_logprob.total_cmp(&b.mean_logprob))
}

/// The segments of a window, and how much of it they cover.
#[derive(Debug, PartialEq)]
struct Pieces {
    segments: Vec<Piece>,
    /// In samples.
    length: usize,
}

/// A segment within its window.
#[derive(Debug, PartialEq)]
struct Piece {
    /// In steps of 20 ms.
    time: Range<u32>,
    /// Places of its tokens, with their time stamps.
    tokens: Range<usize>,
}

/// Parts a window's tokens at its time stamps.
fn pieces(choices: &[Choice], first_timestamp: Token, samples: usize) -> Pieces {
    let step = |choice: &Choice| choice.token.checked_sub(first_timestamp);
    let whole = samples.div_ceil(STEP) as u32;
    // Places where one segment ends and the next one begins: two time stamps side by side.
    let mut cuts: Vec<usize> = (1..choices.len())
        .filter(|place| step(&choices[place - 1]).is_some() && step(&choices[*place]).is_some())
        .collect();
    let ends_complete = match choices {
        [.., before, last] => step(before).is_none() && step(last).is_some(),
        [_] | [] => false,
    };
    if cuts.is_empty() {
        // One segment, to its last time stamp or to the end.
        let start = choices.first().and_then(step).unwrap_or(0);
        let end = choices.iter().skip(1).rev().find_map(step);
        let end = end.filter(|end| *end > 0).unwrap_or(whole);
        return Pieces {
            segments: vec![Piece {
                time: start.min(end)..end.min(whole),
                tokens: 0..choices.len(),
            }],
            length: samples,
        };
    }
    if ends_complete {
        cuts.push(choices.len());
    }
    let mut segments = Vec::new();
    let mut begin = 0;
    for cut in &cuts {
        let start = step(&choices[begin]).unwrap_or(0).min(whole);
        let end = step(&choices[cut - 1]).unwrap_or(whole).min(whole);
        segments.push(Piece {
            time: start..end.max(start),
            tokens: begin..*cut,
        });
        begin = *cut;
    }
    let length = if ends_complete {
        // Nothing is left.
        samples
    } else {
        let last = segments.last().map_or(0, |piece| piece.time.end);
        samples.min(last as usize * STEP)
    };
    Pieces { segments, length }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Token = 100;

    /// Times and places of the segments, and the length that they cover.
    type Cut = (Vec<(Range<u32>, Range<usize>)>, usize);

    fn cut(tokens: &[Token], seconds: usize) -> Cut {
        let choices: Vec<Choice> = (tokens.iter())
            .map(|token| Choice {
                token: *token,
                logprob: 0.0,
            })
            .collect();
        let found = pieces(&choices, FIRST, seconds * RATE);
        let pieces = found
            .segments
            .into_iter()
            .map(|piece| (piece.time, piece.tokens));
        (pieces.collect(), found.length)
    }

    #[test]
    fn a_bad_text_is_chosen_only_if_all_are_bad_however_probable_it_is() {
        let texts = [(-0.1, 0.0), (-1.5, 0.2), (-1.2, 0.4), (-4.0, 1.0)];
        let chosen = |is_bad: fn(&Decoded) -> bool| {
            let all = texts.map(|(mean_logprob, temperature)| {
                let decoded = Decoded {
                    mean_logprob,
                    ..Decoded::default()
                };
                (decoded, temperature)
            });
            most_probable(all.to_vec(), is_bad).map(|(decoded, _)| decoded.mean_logprob)
        };
        assert_eq!(chosen(|decoded| decoded.mean_logprob > -1.0), Some(-1.2));
        assert_eq!(chosen(|_| true), Some(-0.1));
        assert_eq!(chosen(|_| false), Some(-0.1));
    }

    #[test]
    fn two_time_stamps_side_by_side_part_segments() {
        let tokens = [100, 1, 2, 150, 150, 3, 200];
        assert_eq!(
            cut(&tokens, 5),
            (vec![(0..50, 0..4), (50..100, 4..7)], 5 * RATE)
        );
    }

    #[test]
    fn the_next_window_begins_where_the_last_complete_segment_ends() {
        let tokens = [100, 1, 2, 150, 150, 3];
        assert_eq!(cut(&tokens, 5), (vec![(0..50, 0..4)], RATE));
    }

    #[test]
    fn a_text_without_an_end_lasts_to_the_end_of_the_audio() {
        assert_eq!(cut(&[105, 1, 2], 5), (vec![(5..250, 0..3)], 5 * RATE));
        assert_eq!(cut(&[1, 2], 5), (vec![(0..250, 0..2)], 5 * RATE));
        assert_eq!(cut(&[], 5), (vec![(0..250, 0..0)], 5 * RATE));
    }

    #[test]
    fn one_segment_ends_at_its_time_stamp_but_not_after_the_audio() {
        assert_eq!(cut(&[100, 1, 120], 5), (vec![(0..20, 0..3)], 5 * RATE));
        assert_eq!(cut(&[100, 1, 400], 5), (vec![(0..250, 0..3)], 5 * RATE));
    }
}
