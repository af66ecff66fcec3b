//! When each token of a text was said, by where the model looks while it writes it.
//!
//! Some heads of the decoder's attention follow the audio from word to word. The text that was made of
//! a window goes through the decoder once more, all of it at once, and dynamic time warping finds the
//! path through those heads' weights on which no token comes before the one before it. This is how
//! OpenAI's implementation times words (`whisper/timing.py`), and the heads are those that it names for
//! each of its models.

use std::ops::Range;

use crate::engine::ggml_hooks::observe::{Attention, Head};

/// Seconds of a frame of the encoder.
pub const FRAME_SECONDS: f64 = 0.02;
/// Frames that are smoothed over, as in OpenAI's implementation.
const MEDIAN_WIDTH: usize = 7;
/// A frame at which no token looks more than others, by this much, says nothing.
const LEAST_DEVIATION: f32 = 1e-9;
/// Fewer frames than this hold no word.
const FEWEST_FRAMES: usize = 5;

/// What tells OpenAI's models apart: layers and width of the decoder, and entries of the vocabulary.
type Shape = (i32, i32, i32);

/// Layers and heads that follow the audio, for each of OpenAI's models. Of the large ones of the same
/// shape those of the second, which is in use.
const HEADS: [(Shape, &[(usize, usize)]); 11] = [
    (
        (4, 384, 51_864),
        &[
            (1, 0),
            (2, 0),
            (2, 5),
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 4),
        ],
    ),
    (
        (4, 384, 51_865),
        &[(2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)],
    ),
    ((6, 512, 51_864), &[(3, 3), (4, 7), (5, 1), (5, 5), (5, 7)]),
    (
        (6, 512, 51_865),
        &[
            (3, 1),
            (4, 2),
            (4, 3),
            (4, 7),
            (5, 1),
            (5, 2),
            (5, 4),
            (5, 6),
        ],
    ),
    (
        (12, 768, 51_864),
        &[
            (6, 6),
            (7, 0),
            (7, 3),
            (7, 8),
            (8, 2),
            (8, 5),
            (8, 7),
            (9, 0),
            (9, 4),
            (9, 8),
            (9, 10),
            (10, 0),
            (10, 1),
            (10, 2),
            (10, 3),
            (10, 6),
            (10, 11),
            (11, 2),
            (11, 4),
        ],
    ),
    (
        (12, 768, 51_865),
        &[
            (5, 3),
            (5, 9),
            (8, 0),
            (8, 4),
            (8, 7),
            (8, 8),
            (9, 0),
            (9, 7),
            (9, 9),
            (10, 5),
        ],
    ),
    (
        (24, 1024, 51_864),
        &[
            (11, 4),
            (14, 1),
            (14, 12),
            (14, 14),
            (15, 4),
            (16, 0),
            (16, 4),
            (16, 9),
            (17, 12),
            (17, 14),
            (18, 7),
            (18, 10),
            (18, 15),
            (20, 0),
            (20, 3),
            (20, 9),
            (20, 14),
            (21, 12),
        ],
    ),
    (
        (24, 1024, 51_865),
        &[(13, 15), (15, 4), (15, 15), (16, 1), (20, 0), (23, 4)],
    ),
    (
        (32, 1280, 51_865),
        &[
            (10, 12),
            (13, 17),
            (16, 11),
            (16, 12),
            (16, 13),
            (17, 15),
            (17, 16),
            (18, 4),
            (18, 11),
            (18, 19),
            (19, 11),
            (21, 2),
            (21, 3),
            (22, 3),
            (22, 9),
            (22, 12),
            (23, 5),
            (23, 7),
            (23, 13),
            (25, 5),
            (26, 1),
            (26, 12),
            (27, 15),
        ],
    ),
    (
        (32, 1280, 51_866),
        &[
            (7, 0),
            (10, 17),
            (12, 18),
            (13, 12),
            (16, 1),
            (17, 14),
            (19, 11),
            (21, 4),
            (24, 1),
            (25, 6),
        ],
    ),
    (
        (4, 1280, 51_866),
        &[(2, 4), (2, 11), (3, 3), (3, 6), (3, 11), (3, 14)],
    ),
];

/// The heads that follow the audio in a model of this shape: its own, or where nobody has looked for
/// them, as many as are worth it of the upper half.
pub fn heads(shape: Shape, heads_of_a_layer: usize) -> Vec<Head> {
    let known = HEADS.iter().find(|(known, _)| *known == shape);
    if let Some((_, heads)) = known {
        let heads = heads.iter().map(|&(layer, head)| Head { layer, head });
        return heads.collect();
    }
    let layers = usize::try_from(shape.0).unwrap_or(0);
    let upper = (layers / 2..layers).rev();
    let all = upper.flat_map(|layer| (0..heads_of_a_layer).map(move |head| Head { layer, head }));
    // The last layer and a half: the work grows with each of them.
    all.take(heads_of_a_layer * 3 / 2).collect()
}

/// The stretch of each token, in seconds of the window. `attention` is that of `before` tokens that
/// begin every text, of the text's tokens, and of the one that ends it; the audio has so many frames.
/// `None` where nothing was seen.
pub fn token_times(attention: &Attention, before: usize, frames: usize) -> Option<Vec<Range<f64>>> {
    let frames = frames.min(attention.frames);
    if attention.heads.is_empty() || frames < FEWEST_FRAMES || attention.tokens < before + 2 {
        return None;
    }
    let followed = followed(attention, frames);
    // What is looked at after a token tells where the next one is: the last of the beginning tells of
    // the first of the text, and the last of the text of where it ends.
    let rows = &followed[before - 1..attention.tokens - 1];
    let begins = first_frames(rows);
    let seconds = |frame: usize| frame as f64 * FRAME_SECONDS;
    let ranges = begins
        .windows(2)
        .map(|two| seconds(two[0])..seconds(two[1]));
    Some(ranges.collect())
}

/// How much the heads look at each frame for each token: scaled so that heads, tokens and frames count
/// alike, smoothed, and the mean of all heads.
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

/// What was looked at within the audio, as parts of one.
fn share_of_each(row: &[f32]) -> Vec<f32> {
    let all: f32 = row.iter().sum();
    row.iter()
        .map(|weight| weight / all.max(f32::MIN_POSITIVE))
        .collect()
}

/// Every frame gets mean 0 and deviation 1 over the tokens; one that says nothing, 0.
fn standardise_frames(rows: &mut [Vec<f32>]) {
    // The squares of small weights are nothing in 32 bits.
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

/// The median of the values around a place; beyond the ends they are mirrored.
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

/// Dynamic time warping: the frame in which each row begins on the path through the matrix with the
/// largest sum, from its first cell to its last, on which rows and frames only grow.
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

/// From which neighbour a path came.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The token before, in the frame before.
    Both,
    /// The token before, in the same frame.
    Row,
    /// The same token, in the frame before.
    Frame,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One head that looks at these frames, one after the other for each token.
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
    fn without_anything_seen_there_are_no_times() {
        assert_eq!(token_times(&Attention::default(), 2, 100), None);
        let looks = [0..10, 10..20, 20..30];
        assert_eq!(token_times(&attention(&looks, 100), 2, 3), None);
        assert_eq!(token_times(&attention(&looks[..2], 100), 1, 0), None);
    }

    #[test]
    fn a_model_that_nobody_knows_has_heads_all_the_same() {
        let unknown = heads((2, 1280, 51_864), 20);
        assert_eq!(unknown.len(), 20);
        assert!(unknown.iter().all(|head| head.layer == 1));
        assert_eq!(heads((6, 512, 51_865), 8).len(), 8);
    }

    #[test]
    fn frames_that_nobody_looks_at_say_nothing() {
        // Of the same order as each other, and too small to be squared.
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
            // Nothing is further from the mean of twelve than so many deviations.
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
