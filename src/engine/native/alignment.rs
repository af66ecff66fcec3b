//! Times of the tokens of a text, from the decoder's attention to the audio.
//!
//! Some attention heads of the decoder follow the audio from word to word. The text of a window goes through
//! the decoder once more, all tokens at once, and dynamic time warping finds the best monotonic path through
//! the weights of those heads. OpenAI's implementation times words in the same way (`whisper/timing.py`).

use std::ops::Range;

/// Weights of some heads' attention to the audio.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Number of tokens: the rows of each head.
    pub tokens: usize,
    /// Number of frames of 20 ms: the columns of each head.
    pub frames: usize,
    /// The weights of each head, row by row.
    pub heads: Vec<Vec<f32>>,
}

/// Duration of an encoder frame in seconds.
pub const FRAME_SECONDS: f64 = 0.02;
/// Width of the median filter in frames, as in OpenAI's implementation.
const MEDIAN_WIDTH: usize = 7;
/// A frame whose weights deviate less than this between tokens carries no information.
const LEAST_DEVIATION: f32 = 1e-9;
/// Shorter audio holds no word.
const FEWEST_FRAMES: usize = 5;

/// Start and end of each token of text, in seconds from the start of the window. The rows of `attention` are
/// `before` tokens that begin every text, the tokens of the text, and one that ends it; the audio has
/// `frames` frames. `None` without attention weights.
pub fn token_times(attention: &Attention, before: usize, frames: usize) -> Option<Vec<Range<f64>>> {
    let frames = frames.min(attention.frames);
    if attention.heads.is_empty() || frames < FEWEST_FRAMES || attention.tokens < before + 2 {
        return None;
    }
    let followed = followed(attention, frames);
    // The attention of a token shows where the next one is: the last beginning token gives the start of the
    // first token of text, and the last token of text gives its own end.
    let rows = &followed[before - 1..attention.tokens - 1];
    let begins = first_frames(rows);
    let seconds = |frame: usize| frame as f64 * FRAME_SECONDS;
    let ranges = begins
        .windows(2)
        .map(|two| seconds(two[0])..seconds(two[1]));
    Some(ranges.collect())
}

/// Attention of each token to each frame: normalised so that heads, tokens and frames have equal weight,
/// smoothed, and averaged over the heads.
fn followed(attention: &Attention, frames: usize) -> Vec<Vec<f32>> {
    let share = 1.0 / attention.heads.len() as f32;
    let mut followed = vec![vec![0.0; frames]; attention.tokens];
    for head in &attention.heads {
        let rows = head.chunks_exact(attention.frames);
        let mut rows: Vec<Vec<f32>> = rows.map(|row| share_of_each(&row[..frames])).collect();
        standardise_frames(&mut rows);
        for (sum, row) in followed.iter_mut().zip(&rows) {
            for (place, sum) in sum.iter_mut().enumerate() {
                *sum += share * median_around(row, place);
            }
        }
    }
    followed
}

/// Weights within the audio, scaled to a sum of 1.
fn share_of_each(row: &[f32]) -> Vec<f32> {
    let all: f32 = row.iter().sum();
    row.iter()
        .map(|weight| weight / all.max(f32::MIN_POSITIVE))
        .collect()
}

/// Scales every frame to mean 0 and deviation 1 over the tokens; a frame without information becomes 0.
fn standardise_frames(rows: &mut [Vec<f32>]) {
    // In 32 bits, the squares of small weights would be 0.
    let count = rows.len() as f64;
    let frames = rows.first().map_or(0, Vec::len);
    for frame in 0..frames {
        let weights = || rows.iter().map(|row| f64::from(row[frame]));
        let mean = weights().sum::<f64>() / count;
        let variance = weights().map(|weight| (weight - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt();
        for row in rows.iter_mut() {
            row[frame] = if deviation < f64::from(LEAST_DEVIATION) {
                0.0
            } else {
                ((f64::from(row[frame]) - mean) / deviation) as f32
            };
        }
    }
}

/// The median of the values around a position; values beyond the ends are mirrored.
fn median_around(row: &[f32], place: usize) -> f32 {
    let last = row.len() - 1;
    let mut around = [0.0; MEDIAN_WIDTH];
    for (offset, value) in around.iter_mut().enumerate() {
        let from = (place + offset).abs_diff(MEDIAN_WIDTH / 2);
        let from = if from > last { 2 * last - from } else { from };
        *value = row[from];
    }
    around.sort_unstable_by(f32::total_cmp);
    around[MEDIAN_WIDTH / 2]
}

/// Dynamic time warping: finds the monotonic path from the first to the last cell of the matrix with the
/// largest sum. Returns the frame at which each row begins on it.
fn first_frames(rows: &[Vec<f32>]) -> Vec<usize> {
    let frames = rows.first().map_or(0, Vec::len);
    let width = frames + 1;
    let mut cost = vec![f32::INFINITY; (rows.len() + 1) * width];
    let mut came_from = vec![Step::Frame; cost.len()];
    cost[0] = 0.0;
    for (row, weights) in rows.iter().enumerate() {
        for (frame, weight) in weights.iter().enumerate() {
            let here = (row + 1) * width + frame + 1;
            let steps = [
                (cost[here - width - 1], Step::Both),
                (cost[here - width], Step::Row),
                (cost[here - 1], Step::Frame),
            ];
            let (least, step) =
                steps.into_iter().fold(
                    steps[2],
                    |best, step| {
                        if step.0 < best.0 { step } else { best }
                    },
                );
            cost[here] = least - weight;
            came_from[here] = step;
        }
    }
    let mut begins = vec![0; rows.len()];
    let (mut row, mut frame) = (rows.len(), frames);
    while row > 0 && frame > 0 {
        begins[row - 1] = frame - 1;
        match came_from[row * width + frame] {
            Step::Both => (row, frame) = (row - 1, frame - 1),
            Step::Row => row -= 1,
            Step::Frame => frame -= 1,
        }
    }
    begins
}

/// The neighbour that a path came from.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The previous token, in the previous frame.
    Both,
    /// The previous token, in the same frame.
    Row,
    /// The same token, in the previous frame.
    Frame,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One head that attends to one of these ranges of frames per token.
    fn attention(looks: &[Range<usize>], frames: usize) -> Attention {
        let row = |look: &Range<usize>| -> Vec<f32> {
            let weight = |frame| if look.contains(&frame) { 1.0 } else { 0.01 };
            (0..frames).map(weight).collect()
        };
        Attention {
            tokens: looks.len(),
            frames,
            heads: vec![looks.iter().flat_map(row).collect()],
        }
    }

    #[test]
    fn tokens_are_where_the_model_looks_before_it_writes_them() {
        // Two tokens that begin every text, two of the text, and the end.
        let looks = [0..10, 10..40, 40..70, 70..100, 0..1];
        let times = token_times(&attention(&looks, 100), 2, 100).expect("seen");
        let frames: Vec<_> = times
            .iter()
            .map(|time| {
                (time.start / FRAME_SECONDS).round() as usize
                    ..(time.end / FRAME_SECONDS).round() as usize
            })
            .collect();
        assert_eq!(frames.len(), 2);
        assert!(
            frames[0].start <= 10 && frames[0].end.abs_diff(40) <= 3,
            "{frames:?}"
        );
        assert!(frames[1].end.abs_diff(70) <= 3, "{frames:?}");
    }

    #[test]
    fn without_attention_there_are_no_times() {
        assert_eq!(token_times(&Attention::default(), 2, 100), None);
        let looks = [0..10, 10..20, 20..30];
        assert_eq!(token_times(&attention(&looks, 100), 2, 3), None);
        assert_eq!(token_times(&attention(&looks[..2], 100), 1, 0), None);
    }

    #[test]
    fn frames_without_attention_carry_no_information() {
        // Of equal magnitude, and too small to be squared in 32 bits.
        let mut rows = vec![vec![0.2, 1e-20, 0.0], vec![0.4, 3e-20, 1e-38]];
        standardise_frames(&mut rows);
        assert!((rows[0][0] + 1.0).abs() < 1e-5 && (rows[1][0] - 1.0).abs() < 1e-5);
        let rest = rows.iter().flat_map(|row| &row[1..]);
        assert!(
            rest.into_iter().all(|weight| weight.abs() < f32::EPSILON),
            "{rows:?}"
        );
    }

    proptest! {
        #[test]
        fn tiny_weights_neither_blow_up_nor_turn_times_back(
            weights in prop::collection::vec(0.0_f32..1.0, 12 * 60),
            exponents in prop::collection::vec(-45.0_f32..0.0, 60),
        ) {
            // Each frame has an order of its own.
            let of_frame = exponents.iter().cycle();
            let weights = weights.iter().zip(of_frame);
            let weights = weights.map(|(weight, exponent)| weight * 10.0_f32.powf(*exponent)).collect();
            let seen = Attention { tokens: 12, frames: 60, heads: vec![weights] };
            let mut rows: Vec<_> = seen.heads[0].chunks_exact(60).map(share_of_each).collect();
            standardise_frames(&mut rows);
            // With twelve values, no deviation from the mean can be larger.
            let most = 12.0_f32.sqrt();
            prop_assert!(rows.iter().flatten().all(|weight| weight.abs() <= most));
            prop_assert!(followed(&seen, 60).iter().flatten().all(|weight| weight.abs() <= most));
            let times = token_times(&seen, 3, 60).expect("seen");
            let mut last = 0.0;
            for time in times {
                prop_assert!(last <= time.start && time.start <= time.end && time.end <= 60.0 * FRAME_SECONDS);
                last = time.start;
            }
        }

        #[test]
        fn times_run_on_and_stay_in_the_audio(
            weights in prop::collection::vec(0.0_f32..1.0, 12 * 60),
            frames in 0_usize..80,
        ) {
            let seen = Attention { tokens: 12, frames: 60, heads: vec![weights] };
            if let Some(times) = token_times(&seen, 3, frames) {
                prop_assert_eq!(times.len(), 8);
                let mut last = 0.0;
                for time in times {
                    prop_assert!(last <= time.start && time.start <= time.end);
                    last = time.start;
                    prop_assert!(time.end <= frames.min(60) as f64 * FRAME_SECONDS);
                }
            }
        }
    }
}
