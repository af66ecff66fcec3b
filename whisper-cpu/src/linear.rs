//! Matrix products with weights that are packed once.

use rayon::prelude::*;
use rten_gemm::{
    BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams,
};
use rten_tensor::{Matrix, NdTensorView};

use crate::file::{FileError, ModelFile};
use crate::kernels::{ZERO, quantise_signed, quantise_unsigned, scale_sums};

/// Numbers in which an encoder computes its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    Float,
    /// 8-bit whole numbers: weights with a scale for each row, activations for each position.
    Byte,
}

/// A layer `y = W x + b` for many positions at once.
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
    zeros: Vec<u8>,
    sums: Vec<i32>,
}

/// Positions that one thread handles at a time.
const ROWS_OF_A_TASK: usize = 32;

enum Weights {
    Float(PackedBMatrix<f32>),
    Byte {
        packed: PackedBMatrix<i8>,
        /// The value of a step, for each output.
        scales: Vec<f32>,
    },
}

impl std::fmt::Debug for Linear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Linear({} → {})", self.input, self.output)
    }
}

/// A row-major matrix.
fn matrix<T>(rows: usize, columns: usize, values: &[T]) -> Matrix<'_, T> {
    NdTensorView::from_data([rows, columns], values)
}

/// A matrix whose neighbouring elements are `strides` apart.
fn strided<T>(shape: [usize; 2], strides: [usize; 2], values: &[T]) -> Matrix<'_, T> {
    NdTensorView::from_slice_with_strides(shape, values, strides)
        .expect("the caller's slice holds this matrix")
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
                let mut rows = QuantisedRows::new(input, Weights::most());
                rows.extend(weights);
                Weights::bytes(rows)
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
                let most = Weights::most();
                Weights::bytes(QuantisedRows::read(file, &weights, (output, input), most)?)
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

    /// Multiplies `input`, which has a row for each position. The result has one too.
    pub fn apply(&self, input: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        self.apply_to(input, &mut Scratch::default(), &mut out);
        out
    }

    /// As [`Self::apply`], into memory that was used before.
    pub fn apply_to(&self, input: &[f32], scratch: &mut Scratch, out: &mut Vec<f32>) {
        let rows = input.len() / self.input;
        out.resize(rows * self.output, 0.0);
        match &self.weights {
            Weights::Float(packed) => {
                let options = GemmOptions {
                    bias: Some(BiasVector::Row(&self.bias)),
                    ..GemmOptions::default()
                };
                GemmExecutor::<f32>::new()
                    .gemm(
                        out,
                        GemmInputA::Unpacked(matrix(rows, self.input, input)),
                        GemmInputB::Packed(packed),
                        options,
                    )
                    .expect("the shapes fit");
            }
            Weights::Byte { packed, scales } => {
                self.apply_bytes(packed, scales, input, scratch, out);
            }
        }
    }

    fn apply_bytes(
        &self,
        packed: &PackedBMatrix<i8>,
        scales: &[f32],
        input: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let rows = input.len() / self.input;
        let Scratch {
            bytes,
            steps,
            zeros,
            sums,
        } = scratch;
        bytes.resize(input.len(), 0);
        steps.resize(rows, 0.0);
        // rten-gemm 0.27 uses the first rows' zero points for all rows, so all must be equal.
        zeros.resize(rows, ZERO);
        sums.resize(out.len(), 0);
        (input.par_chunks(ROWS_OF_A_TASK * self.input))
            .zip(bytes.par_chunks_mut(ROWS_OF_A_TASK * self.input))
            .zip(steps.par_chunks_mut(ROWS_OF_A_TASK))
            .for_each(|((input, bytes), steps)| {
                let pairs = input
                    .chunks_exact(self.input)
                    .zip(bytes.chunks_exact_mut(self.input));
                for ((row, bytes), step) in pairs.zip(steps) {
                    *step = quantise_unsigned(row, bytes);
                }
            });
        let options = GemmOptions {
            a_quant: Some(QuantParams { zero_point: zeros }),
            ..GemmOptions::default()
        };
        GemmExecutor::<u8, i8, i32>::new()
            .gemm(
                sums,
                GemmInputA::Unpacked(matrix(rows, self.input, bytes)),
                GemmInputB::Packed(packed),
                options,
            )
            .expect("the shapes fit");
        (sums.par_chunks(ROWS_OF_A_TASK * self.output))
            .zip(out.par_chunks_mut(ROWS_OF_A_TASK * self.output))
            .zip(steps.par_chunks(ROWS_OF_A_TASK))
            .for_each(|((sums, out), steps)| {
                let pairs = sums
                    .chunks_exact(self.output)
                    .zip(out.chunks_exact_mut(self.output));
                for ((sums, out), step) in pairs.zip(steps) {
                    scale_sums(sums, *step, scales, &self.bias, out);
                }
            });
    }
}

impl Weights {
    /// Packs rows of `width` numbers.
    fn floats(weights: &[f32], width: usize) -> Self {
        let output = weights.len() / width;
        let transposed = strided([width, output], [1, width], weights);
        Self::Float(GemmExecutor::<f32>::new().prepack_b(transposed))
    }

    /// The largest magnitude of an 8-bit weight. Where sums of two products saturate at 16 bits, weights have one bit
    /// less.
    fn most() -> f32 {
        if GemmExecutor::<u8, i8, i32>::new().may_saturate() {
            63.0
        } else {
            127.0
        }
    }

    /// Packs rows of 8-bit numbers.
    fn bytes(rows: QuantisedRows) -> Self {
        let (width, output) = (rows.width, rows.scales.len());
        let transposed = strided([width, output], [1, width], &rows.bytes);
        Self::Byte {
            packed: GemmExecutor::<u8, i8, i32>::new().prepack_b(transposed),
            scales: rows.scales,
        }
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
