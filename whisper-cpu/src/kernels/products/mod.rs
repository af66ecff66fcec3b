//! Products of a matrix with one or few vectors, and the quantisation that they need.
//!
//! Weights are 8-bit numbers with a scale for each row. Activations are 12-bit numbers with a scale for each vector:
//! products of 8 and 12 bits cannot overflow 32-bit sums of up to 8000 terms, and the activations' rounding errors
//! are far below those of the weights.

use super::{for_each_processor, mul_add};

#[cfg(target_arch = "x86_64")]
mod x86;

/// The largest magnitude of a quantised activation.
pub(super) const MOST: f32 = 2047.0;
/// Columns that share one pass over the weights.
pub const COLUMNS: usize = 4;

/// A vector of activations in 12-bit numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantisedRow {
    /// The numbers.
    pub values: Vec<i16>,
    /// The value of the number 1.
    pub scale: f32,
}

#[inline(always)]
fn largest_magnitude(values: &[f32]) -> f32 {
    let mut most = [0.0_f32; 16];
    let (whole, rest) = values.as_chunks::<16>();
    for chunk in whole {
        for (most, value) in most.iter_mut().zip(chunk) {
            let size = value.abs();
            *most = if size > *most { size } else { *most };
        }
    }
    let rest = rest.iter().map(|value| value.abs());
    most.iter().copied().chain(rest).fold(0.0, f32::max)
}

/// Rounds to a whole number of at most 22 bits; the lowest bits are right for negative ones as well.
#[inline(always)]
pub(super) fn rounded(value: f32) -> u32 {
    // The sum's last bit has the value 1. Converting a float would take more instructions, because it saturates.
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND).to_bits()
}

#[inline(always)]
fn quantise_plain<const FUSES: bool>(values: &[f32], to: &mut QuantisedRow) {
    let most = largest_magnitude(values);
    let factor = if most > 0.0 { MOST / most } else { 0.0 };
    to.scale = most / MOST;
    to.values.resize(values.len(), 0);
    for (to, value) in to.values.iter_mut().zip(values) {
        *to = rounded(value * factor) as i16;
    }
}

for_each_processor! {
    /// Quantises a vector to 12 bits.
    quantise_row(values: &[f32], to: &mut QuantisedRow) = quantise_plain
}

/// The unsigned number that means 0.
pub const ZERO: u8 = 128;

#[inline(always)]
fn quantise_unsigned_plain<const FUSES: bool>(values: &[f32], to: &mut [u8]) -> f32 {
    let most = largest_magnitude(values);
    let factor = if most > 0.0 { 127.0 / most } else { 0.0 };
    for (to, value) in to.iter_mut().zip(values) {
        *to = (rounded(value * factor) as u8).wrapping_add(ZERO);
    }
    most / 127.0
}

for_each_processor! {
    /// Quantises a vector to unsigned 8-bit numbers, of which [`ZERO`] means 0. Returns the value of one step.
    quantise_unsigned(values: &[f32], to: &mut [u8]) -> f32 = quantise_unsigned_plain
}

#[inline(always)]
fn quantise_signed_plain<const FUSES: bool>(values: &[f32], most: f32, to: &mut [i8]) -> f32 {
    let largest = largest_magnitude(values);
    let factor = if largest > 0.0 { most / largest } else { 0.0 };
    for (to, value) in to.iter_mut().zip(values) {
        *to = rounded(value * factor) as i8;
    }
    largest / most
}

for_each_processor! {
    /// Quantises a row of weights to whole numbers of at most the magnitude `most`. Returns the value of one step.
    quantise_signed(values: &[f32], most: f32, to: &mut [i8]) -> f32 = quantise_signed_plain
}

#[inline(always)]
fn scale_sums_plain<const FUSES: bool>(
    sums: &[i32],
    step: f32,
    scales: &[f32],
    bias: &[f32],
    out: &mut [f32],
) {
    let inputs = sums.iter().zip(scales).zip(bias);
    for (out, ((sum, scale), bias)) in out.iter_mut().zip(inputs) {
        *out = mul_add::<FUSES>(*sum as f32, step * scale, *bias);
    }
}

for_each_processor! {
    /// The values of a row of sums of products: `out[c] = sums[c] × step × scales[c] + bias[c]`.
    scale_sums(sums: &[i32], step: f32, scales: &[f32], bias: &[f32], out: &mut [f32]) = scale_sums_plain
}

/// The sum of the products of 8-bit and 16-bit numbers.
#[inline(always)]
fn dot(weights: &[i8], values: &[i16]) -> i32 {
    let pairs = weights.iter().zip(values);
    pairs
        .map(|(weight, value)| i32::from(*weight) * i32::from(*value))
        .sum()
}

/// The sums of products of each row with each column, with the best instructions that there are.
#[inline]
fn tile<const R: usize, const C: usize>(rows: [&[i8]; R], columns: [&[i16]; C]) -> [[i32; C]; R] {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = super::x86::Level::best() {
        return x86::tile(level, rows, columns);
    }
    rows.map(|row| columns.map(|column| dot(row, column)))
}

/// Multiplies a matrix with a vector: `out[r] = Σ weights[r, k] × column[k]`. Row `r` of the weights is scaled by
/// `scales[r]`.
pub fn dot_rows(weights: &[i8], scales: &[f32], column: &QuantisedRow, out: &mut [f32]) {
    const ROWS: usize = 4;
    let width = column.values.len();
    let row = |number: usize| &weights[number * width..(number + 1) * width];
    let whole = scales.len() / ROWS * ROWS;
    for first in (0..whole).step_by(ROWS) {
        let sums = tile::<ROWS, 1>(
            std::array::from_fn(|number| row(first + number)),
            [&column.values],
        );
        for (number, [sum]) in sums.into_iter().enumerate() {
            out[first + number] = sum as f32 * scales[first + number] * column.scale;
        }
    }
    for number in whole..scales.len() {
        let [[sum]] = tile([row(number)], [&column.values]);
        out[number] = sum as f32 * scales[number] * column.scale;
    }
}

/// Multiplies a matrix with [`COLUMNS`] vectors in one pass over the weights: `out[r, c]`, row by row.
pub fn dot_columns(
    weights: &[i8],
    scales: &[f32],
    columns: &[&QuantisedRow; COLUMNS],
    out: &mut [f32],
) {
    const ROWS: usize = 2;
    let width = columns[0].values.len();
    let row = |number: usize| &weights[number * width..(number + 1) * width];
    let values = columns.map(|column| &column.values[..]);
    let mut keep = |number: usize, sums: [i32; COLUMNS]| {
        for (place, sum) in sums.into_iter().enumerate() {
            out[number * COLUMNS + place] = sum as f32 * scales[number] * columns[place].scale;
        }
    };
    let whole = scales.len() / ROWS * ROWS;
    for first in (0..whole).step_by(ROWS) {
        let sums = tile::<ROWS, COLUMNS>(std::array::from_fn(|number| row(first + number)), values);
        for (number, sums) in sums.into_iter().enumerate() {
            keep(first + number, sums);
        }
    }
    for number in whole..scales.len() {
        let [sums] = tile([row(number)], values);
        keep(number, sums);
    }
}

#[inline(always)]
fn dot_floats_plain<const FUSES: bool>(weights: &[f32], column: &[f32], out: &mut [f32]) {
    const LANES: usize = 16;
    for (row, out) in weights.chunks_exact(column.len()).zip(out) {
        let mut sums = [0.0_f32; LANES];
        let ((row, row_rest), (column, rest)) =
            (row.as_chunks::<LANES>(), column.as_chunks::<LANES>());
        for (row, column) in row.iter().zip(column) {
            for lane in 0..LANES {
                sums[lane] = mul_add::<FUSES>(row[lane], column[lane], sums[lane]);
            }
        }
        let rest: f32 = row_rest.iter().zip(rest).map(|(a, b)| a * b).sum();
        *out = sums.iter().sum::<f32>() + rest;
    }
}

for_each_processor! {
    /// Multiplies a matrix of 32-bit numbers with a vector.
    dot_floats(weights: &[f32], column: &[f32], out: &mut [f32]) = dot_floats_plain
}

// Computed in the same way, so equal.
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A matrix of 8-bit numbers with 5 rows, and vectors of the same width.
    fn matrix() -> impl Strategy<Value = (Vec<i8>, Vec<Vec<f32>>)> {
        (1_usize..150).prop_flat_map(|width| {
            let weights = prop::collection::vec(-127_i8..=127, 5 * width);
            let column = prop::collection::vec(-30.0_f32..30.0, width);
            (weights, prop::collection::vec(column, COLUMNS))
        })
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_quantised_numbers((weights, columns) in matrix()) {
            let scales = [0.5, 1.0, 0.01, 2.0, 0.1];
            let width = columns[0].len();
            let quantised: Vec<QuantisedRow> = columns
                .iter()
                .map(|column| {
                    let mut row = QuantisedRow::default();
                    quantise_row(column, &mut row);
                    row
                })
                .collect();
            let four = std::array::from_fn(|column| &quantised[column]);
            let mut together = vec![0.0; 5 * COLUMNS];
            dot_columns(&weights, &scales, &four, &mut together);
            for (number, column) in quantised.iter().enumerate() {
                let mut alone = [0.0; 5];
                dot_rows(&weights, &scales, column, &mut alone);
                for row in 0..5 {
                    let weights = &weights[row * width..(row + 1) * width];
                    let sum: i64 = weights
                        .iter()
                        .zip(&column.values)
                        .map(|(weight, value)| i64::from(*weight) * i64::from(*value))
                        .sum();
                    let expected = sum as f32 * scales[row] * column.scale;
                    prop_assert_eq!(alone[row], expected);
                    prop_assert_eq!(together[row * COLUMNS + number], expected);
                }
            }
        }

        #[test]
        fn a_quantised_value_is_within_half_a_step(values in prop::collection::vec(-50.0_f32..50.0, 1..200)) {
            let mut row = QuantisedRow::default();
            quantise_row(&values, &mut row);
            let mut bytes = vec![0; values.len()];
            let step = quantise_unsigned(&values, &mut bytes);
            for ((value, quantised), byte) in values.iter().zip(&row.values).zip(bytes) {
                let near = |found: f32, step: f32| (found - value).abs() <= step * 0.501 + 1e-6;
                prop_assert!(near(f32::from(*quantised) * row.scale, row.scale), "{value}: {quantised}");
                let found = (f32::from(byte) - f32::from(ZERO)) * step;
                prop_assert!(near(found, step), "{value}: {byte}");
            }
            for most in [63.0, 127.0] {
                let mut weights = vec![0; values.len()];
                let step = quantise_signed(&values, most, &mut weights);
                for (value, weight) in values.iter().zip(weights) {
                    let error = (f32::from(weight) * step - value).abs();
                    prop_assert!(error <= step * 0.501 + 1e-6, "{value}: {weight}");
                }
            }
        }

        #[test]
        fn products_of_32_bits_are_sums_of_products(
            (values, weights) in (1_usize..100).prop_flat_map(|width| (
                prop::collection::vec(-2.0_f32..2.0, width),
                prop::collection::vec(-2.0_f32..2.0, 3 * width),
            )),
        ) {
            let mut found = [0.0; 3];
            dot_floats(&weights, &values, &mut found);
            for (row, found) in weights.chunks_exact(values.len()).zip(found) {
                let pairs = row.iter().zip(&values);
                let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                prop_assert!((f64::from(found) - expected).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn silence_is_quantised_to_zeros() {
        let mut row = QuantisedRow::default();
        quantise_row(&[0.0; 20], &mut row);
        assert!(row.values.iter().all(|value| *value == 0) && row.scale == 0.0);
        let mut bytes = [0; 20];
        quantise_unsigned(&[0.0; 20], &mut bytes);
        assert_eq!(bytes, [ZERO; 20]);
    }
}
