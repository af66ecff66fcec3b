//! Attention of any number of positions to those of one head, in products of 16-bit numbers.
//!
//! Queries, keys and values are 12-bit numbers, weights 15-bit ones. Their rounding errors are as small as those of
//! 16-bit floating point, but one instruction multiplies and adds twice as many of them as of 32-bit numbers, and half
//! of the memory is read.

use rayon::prelude::*;

use super::super::elementwise::powers;
use super::super::for_each_processor;
use super::super::panels::{PANEL, ROWS, multiply_pairs};
use super::super::products::{MOST, QuantisedRow, quantise_row, rounded, scale_sums};

/// Positions that one thread handles at a time.
const ROWS_OF_A_TASK: usize = 4 * ROWS;
/// Products for which another thread is worthwhile.
const LEAST_OF_A_TASK: usize = 1 << 18;
/// The largest weight.
const MOST_WEIGHT: f32 = 32_767.0;
/// The largest sum of a position's weights: their products with 12-bit values fit into 32 bits.
const MOST_TOTAL: f32 = (1 << 19) as f32;
/// Added to scores of positions that do not exist.
const NEVER: f32 = -1e30;

/// Keys and values of one head, packed in panels: two numbers of each column lie side by side, then the next two of each
/// column.
#[derive(Debug)]
pub struct Head {
    width: usize,
    /// Number of positions.
    count: usize,
    /// Panels of [`PANEL`] positions. The last one is filled with zeros.
    keys: Vec<i16>,
    /// The value of a step, for each position.
    key_steps: Vec<f32>,
    /// What is added to each position's score.
    biases: Vec<f32>,
    /// Panels of [`PANEL`] numbers of the values.
    values: Vec<i16>,
    /// The value of a step, for each number of the values.
    value_steps: Vec<f32>,
}

/// Memory that attention needs.
#[derive(Debug, Default)]
struct Scratch {
    queries: [QuantisedRow; ROWS],
    sums: Vec<i32>,
    scores: Vec<f32>,
    weights: Vec<i16>,
    /// The sum of each position's weights.
    totals: [i32; ROWS],
}

impl Head {
    /// Packs keys and values: `rows` gives both for a position, each of the head's width, which is even. `bias` is added
    /// to the scores of the positions from `own` on.
    pub fn pack<'a>(
        count: usize,
        rows: impl Fn(usize) -> (&'a [f32], &'a [f32]),
        own: usize,
        bias: f32,
    ) -> Self {
        let width = rows(0).0.len();
        let padded = count.next_multiple_of(PANEL);
        let mut keys = vec![0; padded * width];
        let mut key_steps = vec![0.0; padded];
        let mut biases = vec![NEVER; padded];
        biases[..own].fill(0.0);
        biases[own..count].fill(bias);
        let mut largest = vec![0.0_f32; width];
        let mut key = QuantisedRow::default();
        for place in 0..count {
            let (row, value) = rows(place);
            quantise_row(row, &mut key);
            key_steps[place] = key.scale;
            let panel = &mut keys[place / PANEL * PANEL * width..];
            for (number, pair) in key.values.as_chunks::<2>().0.iter().enumerate() {
                let to = (number * PANEL + place % PANEL) * 2;
                panel[to..to + 2].copy_from_slice(pair);
            }
            largest_magnitudes(&mut largest, value);
        }
        let factors: Vec<f32> = (largest.iter())
            .map(|most| if *most > 0.0 { MOST / most } else { 0.0 })
            .collect();
        let panels = width.div_ceil(PANEL);
        let mut values = vec![0; padded * panels * PANEL];
        let mut quantised = vec![0; width];
        for place in 0..count {
            quantise_columns(rows(place).1, &factors, &mut quantised);
            for (number, columns) in quantised.chunks(PANEL).enumerate() {
                let panel = &mut values[number * padded * PANEL..][place / 2 * 2 * PANEL..];
                let pairs = panel.as_chunks_mut::<2>().0.iter_mut();
                for (pair, value) in pairs.zip(columns) {
                    pair[place % 2] = *value;
                }
            }
        }
        Self {
            width,
            count,
            keys,
            key_steps,
            biases,
            values,
            value_steps: largest.iter().map(|most| most / MOST).collect(),
        }
    }

    /// Packs all heads of rows in which they lie side by side.
    pub fn pack_all(
        keys: &[f32],
        values: &[f32],
        (width, head): (usize, usize),
        own: usize,
        bias: f32,
    ) -> Vec<Self> {
        let count = keys.len() / width;
        let numbers = (0..width / head).into_par_iter();
        let heads = numbers.map(|number| {
            let range =
                |place: usize| place * width + number * head..place * width + (number + 1) * head;
            Self::pack(
                count,
                |place| (&keys[range(place)], &values[range(place)]),
                own,
                bias,
            )
        });
        heads.collect()
    }

    /// Attention of up to [`ROWS`] positions: a row of `out` for each query.
    fn attend(&self, queries: &[&[f32]], scratch: &mut Scratch, out: &mut [f32]) {
        if let Ok(queries) = <&[&[f32]; ROWS]>::try_from(queries) {
            self.attend_rows(0, queries, scratch, out);
            return;
        }
        let outs = out.chunks_exact_mut(self.width);
        for (first, (query, out)) in queries.iter().zip(outs).enumerate() {
            self.attend_rows(first, &[query], scratch, out);
        }
    }

    /// The weights of all positions for one of the queries, as [`Self::attend`] has left them.
    fn weights<'a>(&self, scratch: &'a Scratch, query: usize) -> impl Iterator<Item = f32> + 'a {
        let total = scratch.totals[query] as f32;
        let padded = self.key_steps.len();
        let weights = &scratch.weights[query * padded..][..self.count];
        weights.iter().map(move |weight| f32::from(*weight) / total)
    }

    /// The queries from number `first` on.
    fn attend_rows<const R: usize>(
        &self,
        first: usize,
        queries: &[&[f32]; R],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let padded = self.key_steps.len();
        scratch.sums.resize(R * padded.max(PANEL), 0);
        scratch.scores.resize(R * padded, 0.0);
        scratch.weights.resize(ROWS * padded, 0);
        for (query, quantised) in queries.iter().zip(&mut scratch.queries) {
            quantise_row(query, quantised);
        }
        let rows: [&[i16]; R] = std::array::from_fn(|row| &scratch.queries[row].values[..]);
        for (number, panel) in self.keys.chunks_exact(PANEL * self.width).enumerate() {
            multiply_pairs(rows, panel, &mut scratch.sums[number * PANEL..], padded);
        }
        let factor = 1.0 / (self.width as f32).sqrt();
        for row in 0..R {
            let range = row * padded..(row + 1) * padded;
            let scores = &mut scratch.scores[range.clone()];
            let step = scratch.queries[row].scale * factor;
            let sums = &scratch.sums[range];
            scale_sums(sums, step, &self.key_steps, &self.biases, scores);
            let most = (MOST_TOTAL / powers(scores)).min(MOST_WEIGHT);
            let weights = &mut scratch.weights[(first + row) * padded..][..padded];
            scratch.totals[first + row] = quantise_weights(scores, most, weights);
        }
        let rows: [&[i16]; R] =
            std::array::from_fn(|row| &scratch.weights[(first + row) * padded..][..padded]);
        let panels = self.values.chunks_exact(PANEL * padded);
        for (number, panel) in panels.enumerate() {
            multiply_pairs(rows, panel, &mut scratch.sums, PANEL);
            let columns = number * PANEL..self.width.min((number + 1) * PANEL);
            for row in 0..R {
                let factor = 1.0 / scratch.totals[first + row] as f32;
                let sums = scratch.sums[row * PANEL..].iter();
                let out = &mut out[row * self.width..][columns.clone()];
                let steps = &self.value_steps[columns.clone()];
                for ((out, sum), step) in out.iter_mut().zip(sums).zip(steps) {
                    *out = *sum as f32 * (step * factor);
                }
            }
        }
    }
}

/// Attention of positions in all heads. `queries` and `out` have a row for each position, in which the heads lie side by
/// side. Returns the weights of the `wanted` heads: a row for each query.
pub fn attend_heads(
    heads: &[Head],
    queries: &[f32],
    wanted: &[usize],
    out: &mut [f32],
) -> Vec<Vec<f32>> {
    let (width, all) = (heads[0].width, heads.len() * heads[0].width);
    let rows = queries.len() / all;
    let products = 2 * rows.min(ROWS_OF_A_TASK) * width * heads[0].count;
    let query = |head: usize, row: usize| &queries[row * all + head * width..][..width];
    // Head by head, because a head's keys and values fit into a core's cache.
    let mut by_head = vec![0.0; queries.len()];
    let weights: Vec<Vec<f32>> = (by_head.par_chunks_mut(rows * width))
        .with_min_len((LEAST_OF_A_TASK / products).clamp(1, heads.len()))
        .enumerate()
        .map(|(number, out)| {
            let is_wanted = wanted.contains(&number);
            let blocks = out.par_chunks_mut(ROWS_OF_A_TASK * width).enumerate();
            let blocks = blocks.map_init(Scratch::default, |scratch, (block, out)| {
                let mut weights = Vec::new();
                let outs = out.chunks_mut(ROWS * width).enumerate();
                for (part, out) in outs {
                    let first = block * ROWS_OF_A_TASK + part * ROWS;
                    let last = rows.min(first + ROWS);
                    let queries: Vec<&[f32]> =
                        (first..last).map(|row| query(number, row)).collect();
                    heads[number].attend(&queries, scratch, out);
                    if is_wanted {
                        let rows = 0..queries.len();
                        weights.extend(rows.flat_map(|row| heads[number].weights(scratch, row)));
                    }
                }
                weights
            });
            blocks.collect::<Vec<_>>().concat()
        })
        .collect();
    for (number, head) in by_head.chunks_exact(rows * width).enumerate() {
        let rows = out.chunks_exact_mut(all).zip(head.chunks_exact(width));
        for (out, head) in rows {
            out[number * width..(number + 1) * width].copy_from_slice(head);
        }
    }
    let of_wanted = wanted.iter().map(|number| weights[*number].clone());
    of_wanted.collect()
}

#[inline(always)]
fn largest_magnitudes_plain<const FUSES: bool>(largest: &mut [f32], values: &[f32]) {
    for (largest, value) in largest.iter_mut().zip(values) {
        let size = value.abs();
        *largest = if size > *largest { size } else { *largest };
    }
}

for_each_processor! {
    /// Raises the largest magnitude of each column.
    largest_magnitudes(largest: &mut [f32], values: &[f32]) = largest_magnitudes_plain
}

#[inline(always)]
fn quantise_columns_plain<const FUSES: bool>(values: &[f32], factors: &[f32], to: &mut [i16]) {
    for ((value, factor), to) in values.iter().zip(factors).zip(to) {
        *to = rounded(value * factor) as i16;
    }
}

for_each_processor! {
    /// Quantises each column with a factor of its own.
    quantise_columns(values: &[f32], factors: &[f32], to: &mut [i16]) = quantise_columns_plain
}

#[inline(always)]
fn quantise_weights_plain<const FUSES: bool>(values: &[f32], factor: f32, to: &mut [i16]) -> i32 {
    let mut total = 0;
    for (value, to) in values.iter().zip(to) {
        *to = rounded(value * factor) as i16;
        total += i32::from(*to);
    }
    total
}

for_each_processor! {
    /// Quantises positive numbers. Returns the sum of the results.
    quantise_weights(values: &[f32], factor: f32, to: &mut [i16]) -> i32 = quantise_weights_plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn attention_is_the_mean_of_the_values_weighted_by_the_softmax_of_the_scores(
            width in prop::sample::select(vec![8_usize, 24, 64, 72]),
            count in 1_usize..200,
            tail in 0_usize..10,
            queries in 1_usize..=ROWS,
            // From almost equal weights to one that counts alone.
            size in 0.1_f32..6.0,
            seed in 0_u64..1000,
        ) {
            let mut state = seed;
            let mut random = |count: usize, size: f32| -> Vec<f32> {
                (0..count).map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ((state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0) * size
                }).collect()
            };
            let rows = random(queries * width, size);
            let (keys, values) = (random(count * width, size), random(count * width, 1.0));
            let own = count - tail.min(count);
            let bias = 1.5;
            let row_of = |place: usize| place * width..(place + 1) * width;
            let head = Head::pack(count, |place| (&keys[row_of(place)], &values[row_of(place)]), own, bias);
            let mut scratch = Scratch::default();
            let mut out = vec![0.0; queries * width];
            let all: Vec<&[f32]> = rows.chunks_exact(width).collect();
            head.attend(&all, &mut scratch, &mut out);
            for (number, query) in all.iter().enumerate() {
                let powers: Vec<f64> = (0..count).map(|place| {
                    let pairs = query.iter().zip(&keys[row_of(place)]);
                    let dot: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let bias = if place >= own { bias } else { 0.0 };
                    (dot / (width as f64).sqrt() + f64::from(bias)).exp()
                }).collect();
                let total: f64 = powers.iter().sum();
                // The largest error of a score changes its power by this share.
                let tolerance = 0.002 + f64::from(size * size) * 0.005;
                for (weight, power) in head.weights(&scratch, number).zip(&powers) {
                    let error = (f64::from(weight) - power / total).abs();
                    prop_assert!(error < tolerance, "{error}");
                }
                for column in 0..width {
                    let weighted = powers.iter().enumerate()
                        .map(|(place, power)| power * f64::from(values[place * width + column]));
                    let expected = weighted.sum::<f64>() / total;
                    let error = (f64::from(out[number * width + column]) - expected).abs();
                    prop_assert!(error < tolerance, "{error}");
                }
            }
        }
    }
}
