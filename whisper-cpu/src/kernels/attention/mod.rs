//! Attention: of positions to those of one head, packed for products ([`attend_heads`]), and of one position to the few before
//! it ([`attend`]).

mod head;

pub use head::{Head, attend_heads};

use super::elementwise::{LANES, powers_plain, scale_plain, sum_of};
use super::{for_each_processor, mul_add};

#[inline(always)]
fn attend_plain<const FUSES: bool>(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    head: usize,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let width = query.len();
    let count = keys.len() / width;
    scores.clear();
    scores.resize(width / head * count, 0.0);
    let factor = 1.0 / (head as f32).sqrt();
    for (place, key) in keys.chunks_exact(width).enumerate() {
        let heads = query.chunks_exact(head).zip(key.chunks_exact(head));
        for (number, (query, key)) in heads.enumerate() {
            scores[number * count + place] = product::<FUSES>(query, key) * factor;
        }
    }
    for scores in scores.chunks_exact_mut(count) {
        let sum = powers_plain::<FUSES>(scores);
        scale_plain::<FUSES>(scores, 1.0 / sum);
    }
    out.fill(0.0);
    for (place, value) in values.chunks_exact(width).enumerate() {
        let heads = out.chunks_exact_mut(head).zip(value.chunks_exact(head));
        for (number, (out, value)) in heads.enumerate() {
            let weight = scores[number * count + place];
            for (out, value) in out.iter_mut().zip(value) {
                *out = mul_add::<FUSES>(weight, *value, *out);
            }
        }
    }
}

#[inline(always)]
fn product<const FUSES: bool>(query: &[f32], key: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let ((query, query_rest), (key, key_rest)) =
        (query.as_chunks::<LANES>(), key.as_chunks::<LANES>());
    for (query, key) in query.iter().zip(key) {
        for lane in 0..LANES {
            sums[lane] = mul_add::<FUSES>(query[lane], key[lane], sums[lane]);
        }
    }
    let rest = query_rest.iter().zip(key_rest);
    sum_of(sums) + rest.map(|(query, key)| query * key).sum::<f32>()
}

for_each_processor! {
    /// Attention of one position to all `keys`, in each head of this width. The heads of a position lie side by side.
    /// `scores` is memory that it needs.
    attend(
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        head: usize,
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) = attend_plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn attention_is_the_mean_of_the_values_weighted_by_the_softmax_of_the_scores(
            heads in 1_usize..4,
            head in prop::sample::select(vec![8_usize, 24, 64]),
            count in 1_usize..40,
            seed in 0_u64..1000,
        ) {
            let mut state = seed;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
            };
            let width = heads * head;
            let query: Vec<f32> = (0..width).map(|_| random() * 2.0).collect();
            let keys: Vec<f32> = (0..count * width).map(|_| random() * 2.0).collect();
            let values: Vec<f32> = (0..count * width).map(|_| random()).collect();
            let (mut scores, mut out) = (Vec::new(), vec![0.0; width]);
            attend(&query, &keys, &values, head, &mut scores, &mut out);
            for number in 0..heads {
                let range = number * head..(number + 1) * head;
                let powers: Vec<f64> = (0..count).map(|place| {
                    let key = &keys[place * width..][range.clone()];
                    let pairs = query[range.clone()].iter().zip(key);
                    let dot: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    (dot / (head as f64).sqrt()).exp()
                }).collect();
                let total: f64 = powers.iter().sum();
                for column in range {
                    let weighted = powers.iter().enumerate()
                        .map(|(place, power)| power * f64::from(values[place * width + column]));
                    let expected = weighted.sum::<f64>() / total;
                    prop_assert!((f64::from(out[column]) - expected).abs() < 1e-4);
                }
            }
        }
    }
}
