//! Word errors, escalated audio and cost by threshold.

use serde::Serialize;
use stt_actors::EscalationPolicy;

use crate::clip::Clip;
use crate::ranking::{Ranking, ranking};
use uttera_stt_tools::bench::statistics::{Comparison, word_error_difference, word_error_rate};
use uttera_stt_tools::probe::word_error_rate::Score;

/// The measurement and the computed curves.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Names of the primary's and the fallback's model.
    pub models: [String; 2],
    /// Number of clips.
    pub clips: usize,
    /// Seconds of audio.
    pub seconds: f64,
    /// Number of words in the reference texts.
    pub words: usize,
    /// Inference of the primary on all audio, divided by that of the fallback.
    pub small_cost: f64,
    /// Wrong words, in percent, with the primary alone.
    pub small: Comparison,
    /// Wrong words, in percent, with the fallback alone.
    pub large: Comparison,
    /// Wrong words, in percent, with the better text of each clip: the lower bound.
    pub oracle: Comparison,
    /// Shares of the clips on which the fallback has fewer errors, and more.
    pub better_and_worse: [f64; 2],
    /// How well confidence ranks the clips.
    pub ranking: Ranking,
    /// One curve for each minimum number of words.
    pub curves: Vec<Curve>,
}

/// Points with the same minimum number of words.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// `MIN_WORDS_FOR_CONF`.
    pub min_words: usize,
    /// In ascending order of the thresholds.
    pub points: Vec<Point>,
}

/// The result of a threshold.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// `CONF_LOGPROB_THRESHOLD`.
    pub threshold: f32,
    /// Share of the clips that are passed on, entirely or in part.
    pub clips: f64,
    /// Share of the audio that is passed on.
    pub audio: f64,
    /// Inference of both models, divided by that of the fallback on all audio.
    pub cost: f64,
    /// Wrong words, in percent.
    pub word_errors: Comparison,
    /// Difference to the fallback alone, in points.
    pub to_large: Comparison,
    /// Share of the fallback's improvement over the primary that remains.
    pub gain: f64,
    /// Wrong words, in percent, if as much is passed on at random, for the same cost.
    pub by_chance: f64,
}

/// The result of the primary alone or of the fallback alone.
struct Sums {
    seconds: f64,
    small_inference: f64,
    large_inference: f64,
    small: Vec<Score>,
    large: Vec<Score>,
}

impl Sums {
    fn of(clips: &[Clip]) -> Self {
        let chunks = || clips.iter().flat_map(|clip| &clip.chunks);
        let scores = |escalated: bool| {
            let all = clips.iter();
            all.map(|clip| score(clip, &vec![escalated; clip.chunks.len()]))
                .collect()
        };
        Self {
            seconds: chunks().map(|chunk| chunk.seconds).sum(),
            small_inference: chunks().map(|chunk| chunk.small.inference_seconds).sum(),
            large_inference: chunks().map(|chunk| chunk.large.inference_seconds).sum(),
            small: scores(false),
            large: scores(true),
        }
    }
}

/// Computes the report; `None` without clips.
pub fn report(
    models: [String; 2],
    clips: &[Clip],
    thresholds: &[f32],
    min_words: &[usize],
) -> Option<Report> {
    let sums = Sums::of(clips);
    let both = || sums.small.iter().zip(&sums.large);
    let best = both().map(|(small, large)| {
        *if large.edits < small.edits {
            large
        } else {
            small
        }
    });
    let share = |count: usize| count as f64 / clips.len() as f64;
    let better = both().filter(|(small, large)| large.edits < small.edits);
    let worse = both().filter(|(small, large)| large.edits > small.edits);
    let curve = |min_words: &usize| {
        let points = thresholds
            .iter()
            .map(|threshold| point(clips, &sums, *threshold, *min_words));
        Some(Curve {
            min_words: *min_words,
            points: points.collect::<Option<_>>()?,
        })
    };
    Some(Report {
        models,
        clips: clips.len(),
        seconds: sums.seconds,
        words: sums.small.iter().map(|score| score.words).sum(),
        small_cost: sums.small_inference / sums.large_inference,
        small: word_error_rate(&sums.small)?,
        large: word_error_rate(&sums.large)?,
        oracle: word_error_rate(&best.collect::<Vec<_>>())?,
        better_and_worse: [share(better.count()), share(worse.count())],
        ranking: ranking(clips, &sums.small, &sums.large),
        curves: min_words.iter().map(curve).collect::<Option<_>>()?,
    })
}

fn score(clip: &Clip, escalated: &[bool]) -> Score {
    Score::of(&clip.reference, &clip.text(escalated))
}

fn point(clips: &[Clip], sums: &Sums, threshold: f32, min_words: usize) -> Option<Point> {
    let policy = EscalationPolicy {
        min_confidence: threshold,
        // The language is given.
        min_language_probability: 0.0,
        min_words,
    };
    let (mut escalated_clips, mut seconds, mut inference) = (0, 0.0, 0.0);
    let mut scores = Vec::new();
    for clip in clips {
        let escalated = clip.escalated(policy);
        escalated_clips += usize::from(escalated.contains(&true));
        let passed_on = clip.chunks.iter().zip(&escalated);
        for (chunk, _) in passed_on.filter(|(_, escalated)| **escalated) {
            seconds += chunk.seconds;
            inference += chunk.large.inference_seconds;
        }
        scores.push(score(clip, &escalated));
    }
    let edits = |scores: &[Score]| scores.iter().map(|score| score.edits).sum::<usize>() as f64;
    let saved = edits(&sums.small) - edits(&scores);
    let (small, large) = (word_error_rate(&sums.small)?, word_error_rate(&sums.large)?);
    let at_fallback = inference / sums.large_inference;
    let pairs: Vec<_> = sums.large.iter().copied().zip(scores.clone()).collect();
    Some(Point {
        threshold,
        clips: escalated_clips as f64 / clips.len() as f64,
        audio: seconds / sums.seconds,
        cost: sums.small_inference / sums.large_inference + at_fallback,
        word_errors: word_error_rate(&scores)?,
        to_large: word_error_difference(&pairs)?,
        gain: saved / (edits(&sums.small) - edits(&sums.large)),
        by_chance: small.value + at_fallback * (large.value - small.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::tests::clip;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    /// The primary is wrong on the first clip, certain on the second, and right but uncertain on the third.
    fn clips() -> [Clip; 3] {
        [
            clip("a b c d", [("a b c x", 0.3), ("a b c d", 0.9)]),
            clip("a b c d", [("a b c d", 0.9), ("a b x d", 0.9)]),
            clip("a b", [("a b", 0.6), ("a b", 0.9)]),
        ]
    }

    fn of(clips: &[Clip], min_words: usize) -> Report {
        let thresholds = [0.0, 0.5, 0.7, 1.0];
        let names = ["small".to_owned(), "large".to_owned()];
        report(names, clips, &thresholds, &[min_words]).unwrap()
    }

    #[test]
    fn a_threshold_passes_on_what_is_below_it() {
        let report = of(&clips(), 0);
        let points = &report.curves[0].points;
        let shares: Vec<f64> = points.iter().map(|point| point.clips * 3.0).collect();
        assert!(
            shares
                .iter()
                .zip([0.0, 1.0, 2.0, 3.0])
                .all(|(a, b)| close(*a, b))
        );
        let errors: Vec<f64> = points.iter().map(|p| p.word_errors.value).collect();
        assert!(
            errors
                .iter()
                .zip([10.0, 0.0, 0.0, 10.0])
                .all(|(a, b)| close(*a, b))
        );
        assert!(close(report.oracle.value, 0.0));
        assert!(close(report.better_and_worse[0], 1.0 / 3.0));
    }

    #[test]
    fn the_ends_are_either_model_alone() {
        let report = of(&clips()[..1], 0);
        let [none, .., all] = &report.curves[0].points[..] else {
            panic!("{report:?}");
        };
        assert!(close(none.word_errors.value, report.small.value) && close(none.gain, 0.0));
        assert!(close(all.word_errors.value, report.large.value) && close(all.gain, 1.0));
        assert!(close(all.by_chance, report.large.value) && close(all.to_large.value, 0.0));
        // A clip costs the primary 1 s and the fallback 4 s.
        assert!(close(none.cost, 0.25) && close(all.cost, 1.25) && close(all.audio, 1.0));
    }

    #[test]
    fn few_words_are_passed_on_however_sure() {
        let report = of(&clips(), 3);
        assert!(close(report.curves[0].points[0].clips, 1.0 / 3.0));
    }

    #[test]
    fn of_nothing_there_is_no_report() {
        let names = [String::new(), String::new()];
        assert!(report(names, &[], &[0.5], &[0]).is_none());
    }
}
