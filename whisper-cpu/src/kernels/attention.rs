//! Attention of one position to many.

use super::elementwise::softmax_plain;
use super::for_each_processor;

/// Numbers that a loop handles side by side.
const LANES: usize = 8;

#[inline(always)]
fn attend_plain(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    (width, own, bias): (usize, usize, f32),
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let head = query.len();
    let scale = 1.0 / (head as f32).sqrt();
    scores.clear();
    for key in keys.chunks(width) {
        let mut sums = [0.0_f32; LANES];
        let (parts, _) = query.as_chunks::<LANES>();
        let (against, _) = key[..head].as_chunks::<LANES>();
        for (query, key) in parts.iter().zip(against) {
            for lane in 0..LANES {
                sums[lane] += query[lane] * key[lane];
            }
        }
        scores.push(sums.iter().sum::<f32>() * scale);
    }
    for score in &mut scores[own..] {
        *score += bias;
    }
    softmax_plain(scores);
    out.fill(0.0);
    for (score, value) in scores.iter().zip(values.chunks(width)) {
        for (out, value) in out.iter_mut().zip(&value[..head]) {
            *out += score * value;
        }
    }
}

for_each_processor! {
    /// Attention of `query`, one head of one position, to all `keys`. `layout`: the distance of
    /// two keys, the number of keys before those of the tail, and what is added to the scores of those. The weights of
    /// the positions are left in `scores`, the weighted sum of `values` in `out`.
    attend(
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        layout: (usize, usize, f32),
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) = attend_plain
}
