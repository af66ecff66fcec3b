//! Products of many positions with weights that are packed once.

use rayon::prelude::*;

use crate::file::{FileError, ModelFile};
use crate::kernels::{
    PANEL, ROWS, ZERO, largest_weight, multiply_float_panel, multiply_panel, quantise_signed,
    quantise_unsigned,
};
use crate::prepared::{ByteMatrix, Bytes};

/// Numbers in which an encoder computes its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    Float,
    /// 8-bit whole numbers: weights with a scale for each row, activations for each position.
    Byte,
}

/// A layer `y = W x + b`.
pub struct Linear {
    input: usize,
    output: usize,
    weights: Weights,
    /// Zeros if the layer has none.
    bias: Vec<f32>,
}

/// Memory that products need. The system gives fresh memory page by page, which takes as long as some of the work.
#[derive(Debug, Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    steps: Vec<f32>,
}

/// The most positions that one thread handles at a time: their activations stay in a core's cache.
const MOST_OF_A_TASK: usize = 8 * ROWS;
/// Numbers of a column that lie side by side in a panel.
const SIDE_BY_SIDE: usize = 4;

enum Weights {
    /// Packed for [`multiply_float_panel`].
    Float(Vec<f32>),
    /// Packed for [`multiply_panel`].
    Byte(ByteMatrix),
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear({} → {})", self.input, self.output)
    }
}

/// Number of positions that one thread should handle at a time, so that all have work.
pub(crate) fn positions_of_a_task(positions: usize) -> usize {
    let even = positions.div_ceil(2 * rayon::current_num_threads());
    even.next_multiple_of(ROWS).clamp(ROWS, MOST_OF_A_TASK)
}

impl Linear {
    /// Packs weights of `output` rows and `input` columns.
    pub fn new(
        weights: &[f32],
        bias: Option<Vec<f32>>,
        input: usize,
        precision: Precision,
    ) -> Self {
        let output = weights.len() / input;
        let weights = match precision {
            Precision::Float => Weights::floats(weights, input),
            Precision::Byte => {
                let mut rows = QuantisedRows::new(input, largest_weight());
                rows.extend(weights);
                Weights::Byte(packed(&rows))
            }
        };
        Self {
            input,
            output,
            weights,
            bias: bias.unwrap_or_else(|| vec![0.0; output]),
        }
    }

    /// Reads a layer's weights, `output` rows of `input` columns, and its bias if it has one.
    pub(crate) fn read(
        file: &ModelFile,
        name: &str,
        (output, input): (usize, usize),
        has_bias: bool,
        precision: Precision,
    ) -> Result<Self, FileError> {
        let weights = format!("{name}.weight");
        let weights = match precision {
            Precision::Float => Weights::floats(&file.tensor(&weights, &[output, input])?, input),
            Precision::Byte => {
                let bytes = output.next_multiple_of(PANEL) * input.next_multiple_of(SIDE_BY_SIDE);
                let read =
                    || QuantisedRows::read(file, &weights, (output, input), largest_weight());
                let matrix =
                    file.prepared(&weights, [bytes, output, output], || Ok(packed(&read()?)))?;
                Weights::Byte(matrix)
            }
        };
        Ok(Self {
            input,
            output,
            weights,
            bias: read_bias(file, name, output, has_bias)?.unwrap_or_else(|| vec![0.0; output]),
        })
    }

    /// Width of the result.
    pub fn output(&self) -> usize {
        self.output
    }

    /// Multiplies `input`, which has a row for each position, on all threads. The result has one too.
    pub fn apply(&self, input: &[f32]) -> Vec<f32> {
        let positions = input.len() / self.input;
        let mut out = vec![0.0; positions * self.output];
        let each = positions_of_a_task(positions);
        (input.par_chunks(each * self.input))
            .zip(out.par_chunks_mut(each * self.output))
            .for_each_init(Scratch::default, |scratch, (input, out)| {
                self.apply_to(input, scratch, out);
            });
        out
    }

    /// As [`Self::apply`], on one thread and into memory of the right size.
    pub fn apply_to(&self, input: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        match &self.weights {
            Weights::Float(weights) => {
                let rows: Vec<&[f32]> = input.chunks_exact(self.input).collect();
                let panels = weights.chunks_exact(self.input * PANEL).enumerate();
                for (number, panel) in panels {
                    let columns = number * PANEL..self.output.min((number + 1) * PANEL);
                    let bias = &self.bias[columns.clone()];
                    for (part, rows) in rows.chunks(ROWS).enumerate() {
                        let out = &mut out[part * ROWS * self.output + columns.start..];
                        multiply_float_panel(rows, panel, bias, out, self.output);
                    }
                }
            }
            Weights::Byte(weights) => self.apply_bytes(weights, input, scratch, out),
        }
    }

    fn apply_bytes(
        &self,
        weights: &ByteMatrix,
        input: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Scratch { bytes, steps } = scratch;
        let (rows, width) = (
            input.len() / self.input,
            self.input.next_multiple_of(SIDE_BY_SIDE),
        );
        bytes.resize(rows * width, ZERO);
        steps.clear();
        let rows_of_bytes = bytes.chunks_exact_mut(width);
        for (row, bytes) in input.chunks_exact(self.input).zip(rows_of_bytes) {
            steps.push(quantise_unsigned(row, &mut bytes[..self.input]));
        }
        let panels = weights.bytes.chunks_exact(width * PANEL);
        for (number, panel) in panels.enumerate() {
            let columns = number * PANEL..self.output.min((number + 1) * PANEL);
            for first in (0..rows).step_by(ROWS) {
                let last = rows.min(first + ROWS);
                multiply_panel(
                    std::array::from_fn(|row| {
                        &bytes[(first + row).min(last - 1) * width..][..width]
                    }),
                    panel,
                    &steps[first..last],
                    (
                        &weights.offsets[columns.clone()],
                        &weights.scales[columns.clone()],
                    ),
                    &self.bias[columns.clone()],
                    &mut out[first * self.output + columns.start..],
                    self.output,
                );
            }
        }
    }
}

impl Weights {
    /// Packs rows of `width` numbers.
    fn floats(weights: &[f32], width: usize) -> Self {
        let mut packed = vec![0.0; (weights.len() / width).next_multiple_of(PANEL) * width];
        for (number, row) in weights.chunks_exact(width).enumerate() {
            let panel = &mut packed[number / PANEL * PANEL * width..];
            for (place, weight) in row.iter().enumerate() {
                panel[place * PANEL + number % PANEL] = *weight;
            }
        }
        Self::Float(packed)
    }
}

/// Packs rows in panels for [`multiply_panel`].
fn packed(rows: &QuantisedRows) -> ByteMatrix {
    let width = rows.width.next_multiple_of(SIDE_BY_SIDE);
    let outputs = rows.scales.len();
    let mut bytes = vec![0; outputs.next_multiple_of(PANEL) * width];
    let mut offsets = Vec::with_capacity(outputs);
    for (number, row) in rows.bytes.chunks_exact(rows.width).enumerate() {
        let panel = &mut bytes[number / PANEL * PANEL * width..];
        let sum: i32 = row.iter().map(|byte| i32::from(*byte)).sum();
        offsets.push(sum * i32::from(ZERO));
        for (place, part) in row.chunks(SIDE_BY_SIDE).enumerate() {
            let to = (place * PANEL + number % PANEL) * SIDE_BY_SIDE;
            panel[to..to + part.len()].copy_from_slice(part);
        }
    }
    ByteMatrix {
        bytes: Bytes::Own(bytes.into()),
        scales: rows.scales[..].into(),
        offsets: offsets.into(),
    }
}

/// Reads a layer's bias if it has one.
pub(crate) fn read_bias(
    file: &ModelFile,
    name: &str,
    output: usize,
    has_bias: bool,
) -> Result<Option<Vec<f32>>, FileError> {
    let read = || file.tensor(&format!("{name}.bias"), &[output]);
    has_bias.then(read).transpose()
}

/// A matrix whose rows are rounded to whole numbers of at most a given magnitude.
#[derive(Debug)]
pub(crate) struct QuantisedRows {
    pub(crate) bytes: Vec<i8>,
    /// The value of a step, for each row.
    pub(crate) scales: Vec<f32>,
    width: usize,
    most: f32,
}

impl QuantisedRows {
    pub(crate) fn new(width: usize, most: f32) -> Self {
        Self {
            bytes: Vec::new(),
            scales: Vec::new(),
            width,
            most,
        }
    }

    /// Reads a matrix from a file, some rows at a time.
    pub(crate) fn read(
        file: &ModelFile,
        name: &str,
        (output, input): (usize, usize),
        most: f32,
    ) -> Result<Self, FileError> {
        let mut rows = Self::new(input, most);
        rows.bytes.reserve_exact(output * input);
        file.each_rows(name, &[output, input], |weights| rows.extend(weights))?;
        Ok(rows)
    }

    /// Adds whole rows.
    pub(crate) fn extend(&mut self, weights: &[f32]) {
        let before = self.bytes.len();
        self.bytes.resize(before + weights.len(), 0);
        let rows = weights.chunks_exact(self.width);
        for (row, bytes) in rows.zip(self.bytes[before..].chunks_exact_mut(self.width)) {
            self.scales.push(quantise_signed(row, self.most, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Each row has a size of its own: rows must not take the quantisation of others.
        #[test]
        fn both_precisions_compute_the_product(
            rows in 1_usize..70,
            input in 1_usize..130,
            output in 1_usize..50,
            seed in 0_u64..1000,
        ) {
            let mut state = seed;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
            };
            let weights: Vec<f32> = (0..output * input).map(|_| random()).collect();
            let bias: Vec<f32> = (0..output).map(|_| random()).collect();
            let values: Vec<f32> = (0..rows * input).map(|place| random() * (1 + place / input) as f32).collect();
            for (precision, tolerance) in [(Precision::Float, 1e-5), (Precision::Byte, 0.02)] {
                let layer = Linear::new(&weights, Some(bias.clone()), input, precision);
                let found = layer.apply(&values);
                for row in 0..rows {
                    let values = &values[row * input..(row + 1) * input];
                    let size = (values.iter().map(|value| value * value).sum::<f32>() * input as f32).sqrt() + 1.0;
                    for place in 0..output {
                        let weights = &weights[place * input..(place + 1) * input];
                        let sum: f32 = values.iter().zip(weights).map(|(value, weight)| value * weight).sum();
                        let error = (found[row * output + place] - sum - bias[place]).abs();
                        prop_assert!(error <= tolerance * size, "{precision:?}: {error} of {size}");
                    }
                }
            }
        }
    }
}
