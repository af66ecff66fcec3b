//! How well a text's confidence predicts whether it is wrong.

use serde::Serialize;
use stt_actors::domain::transcript::confidence;

use crate::clip::Clip;
use uttera_stt_tools::probe::word_error_rate::Score;

/// Areas under the receiver operating characteristic: the probability that, of two clips of which one is
/// positive, the positive one has the lower confidence. 0.5 is chance, 1 is perfect; `None` if all clips are
/// positive or none is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// Positive: the primary has an error.
    pub is_wrong: Option<f64>,
    /// Positive: the fallback has fewer errors.
    pub gains: Option<f64>,
}

/// Computes the areas for these clips, with the scores of the primary and the fallback.
pub(super) fn ranking(clips: &[Clip], small: &[Score], large: &[Score]) -> Ranking {
    let scored = clips.iter().zip(small.iter().zip(large));
    let scored = scored.filter_map(|(clip, (small, large))| {
        let segments = clip.chunks.iter().flat_map(|chunk| &chunk.small.segments);
        let confidence = confidence(&segments.cloned().collect::<Vec<_>>())?;
        Some((f64::from(confidence), small.edits, large.edits))
    });
    let scored: Vec<_> = scored.collect();
    let area = |is_sought: fn(usize, usize) -> bool| {
        let marked = scored.iter();
        let marked =
            marked.map(|(confidence, small, large)| (*confidence, is_sought(*small, *large)));
        area_under_curve(&marked.collect::<Vec<_>>())
    };
    Ranking {
        is_wrong: area(|small, _| small > 0),
        gains: area(|small, large| large < small),
    }
}

/// Compares each positive clip with each negative one; ties count half.
fn area_under_curve(marked: &[(f64, bool)]) -> Option<f64> {
    let of = |sought: bool| {
        let those = marked
            .iter()
            .filter(move |(_, is_sought)| *is_sought == sought);
        those.map(|(confidence, _)| *confidence)
    };
    let pairs = of(true).count() * of(false).count();
    let lower = |sought: f64| {
        of(false).map(move |other| match sought.total_cmp(&other) {
            std::cmp::Ordering::Less => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Greater => 0.0,
        })
    };
    (pairs > 0).then(|| of(true).flat_map(lower).sum::<f64>() / pairs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_the_share_of_pairs_in_the_right_order() {
        let perfect = [(0.1, true), (0.2, true), (0.8, false)];
        assert_eq!(area_under_curve(&perfect), Some(1.0));
        let mixed = [(0.1, true), (0.9, true), (0.5, false), (0.9, false)];
        assert_eq!(area_under_curve(&mixed), Some(0.625));
        assert_eq!(area_under_curve(&[(0.5, true)]), None);
    }

    #[test]
    fn both_questions_are_asked_of_the_primarys_confidence() {
        use crate::clip::tests::clip;
        let clips = [
            clip("a", [("b", 0.2), ("a", 0.1)]),
            clip("a", [("b", 0.4), ("b", 0.1)]),
            clip("a", [("a", 0.3), ("a", 0.1)]),
        ];
        let scores = |edits: [usize; 3]| edits.map(|edits| Score { edits, words: 1 });
        let found = ranking(&clips, &scores([1, 1, 0]), &scores([0, 1, 0]));
        assert_eq!((found.is_wrong, found.gains), (Some(0.5), Some(1.0)));
    }
}
