//! Attention of one position to many.

use half::f16;

use super::elementwise::{powers, scale};
#[cfg(target_arch = "x86_64")]
use super::x86::Level;

#[cfg(target_arch = "x86_64")]
mod x86;

/// Where keys and values lie, and which of them are a tail's.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Width of a head. All heads of a position lie side by side.
    pub head: usize,
    /// Number of positions before those of the tail.
    pub own: usize,
    /// What is added to the scores of the tail's positions.
    pub bias: f32,
}

/// What all numbers of keys and values can do.
pub trait Plain: Copy {
    /// The value in 32 bits.
    fn float(self) -> f32;
}

impl Plain for f32 {
    fn float(self) -> f32 {
        self
    }
}

impl Plain for f16 {
    fn float(self) -> f32 {
        self.to_f32()
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::Number;

/// Numbers of keys and values.
#[cfg(not(target_arch = "x86_64"))]
pub trait Number: Plain {}

#[cfg(not(target_arch = "x86_64"))]
impl<T: Plain> Number for T {}

/// Attention of one position to all `keys`, in each head. The weights of the positions are left in `scores`, head by
/// head, the weighted sums of `values` in `out`.
pub fn attend<T: Number>(
    query: &[f32],
    keys: &[T],
    values: &[T],
    layout: Layout,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    let count = keys.len() / query.len();
    scores.clear();
    scores.resize(query.len() / layout.head * count, 0.0);
    score(query, keys, layout.head, scores);
    let factor = 1.0 / (layout.head as f32).sqrt();
    for scores in scores.chunks_exact_mut(count) {
        scale(scores, factor);
        for score in &mut scores[layout.own..] {
            *score += layout.bias;
        }
        let sum = powers(scores);
        scale(scores, 1.0 / sum);
    }
    out.fill(0.0);
    mix(scores, values, layout.head, out);
}

/// The product of each head of `query` with that of each key: `scores[h, p]`. Keys are read once, in the order in which
/// they lie in memory.
fn score<T: Number>(query: &[f32], keys: &[T], head: usize, scores: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        T::score(level, query, keys, head, scores);
        return;
    }
    score_plain(query, keys, head, scores);
}

fn score_plain<T: Plain>(query: &[f32], keys: &[T], head: usize, scores: &mut [f32]) {
    let count = keys.len() / query.len();
    for (place, key) in keys.chunks_exact(query.len()).enumerate() {
        let heads = query.chunks_exact(head).zip(key.chunks_exact(head));
        for (number, (query, key)) in heads.enumerate() {
            scores[number * count + place] = product(query, key);
        }
    }
}

fn product<T: Plain>(query: &[f32], key: &[T]) -> f32 {
    let pairs = query.iter().zip(key);
    pairs.map(|(query, key)| query * key.float()).sum()
}

/// Adds the values of each head, weighted by `scores[h, p]`, to `out`.
fn mix<T: Number>(scores: &[f32], values: &[T], head: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        T::mix(level, scores, values, head, out);
        return;
    }
    mix_plain(scores, values, head, out);
}

fn mix_plain<T: Plain>(scores: &[f32], values: &[T], head: usize, out: &mut [f32]) {
    let count = values.len() / out.len();
    for (place, value) in values.chunks_exact(out.len()).enumerate() {
        let heads = out.chunks_exact_mut(head).zip(value.chunks_exact(head));
        for (number, (out, value)) in heads.enumerate() {
            add_weighted(scores[number * count + place], value, out);
        }
    }
}

fn add_weighted<T: Plain>(weight: f32, values: &[T], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += weight * value.float();
    }
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
            tail in 0_usize..10,
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
            let own = count - tail.min(count);
            let bias = 1.5;
            let (mut scores, mut out) = (Vec::new(), vec![0.0; width]);
            let layout = Layout { head, own, bias };
            attend(&query, &keys, &values, layout, &mut scores, &mut out);
            for number in 0..heads {
                let range = number * head..(number + 1) * head;
                let powers: Vec<f64> = (0..count).map(|place| {
                    let key = &keys[place * width..][range.clone()];
                    let pairs = query[range.clone()].iter().zip(key);
                    let dot: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let bias = if place >= own { bias } else { 0.0 };
                    (dot / (head as f64).sqrt() + f64::from(bias)).exp()
                }).collect();
                let total: f64 = powers.iter().sum();
                for (score, power) in scores[number * count..].iter().zip(&powers) {
                    prop_assert!((f64::from(*score) - power / total).abs() < 1e-5);
                }
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
