//! Matrix products with weights that are packed once.

use rten_gemm::{
    BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams,
};
use rten_tensor::{Matrix, NdTensorView};

use crate::kernels::{ZERO, quantise_unsigned};

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
    bias: Option<Vec<f32>>,
}

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
pub(crate) fn matrix<T>(rows: usize, columns: usize, values: &[T]) -> Matrix<'_, T> {
    NdTensorView::from_data([rows, columns], values)
}

/// A matrix whose neighbouring elements are `strides` apart.
pub(crate) fn strided<T>(shape: [usize; 2], strides: [usize; 2], values: &[T]) -> Matrix<'_, T> {
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
            Precision::Float => {
                let transposed = strided([input, output], [1, input], weights);
                Weights::Float(GemmExecutor::<f32>::new().prepack_b(transposed))
            }
            Precision::Byte => {
                let executor = GemmExecutor::<u8, i8, i32>::new();
                // Where sums of two products saturate at 16 bits, weights have one bit less.
                let most = if executor.may_saturate() { 63.0 } else { 127.0 };
                let (bytes, scales) = quantised_rows(weights, input, most);
                let transposed = strided([input, output], [1, input], &bytes);
                Weights::Byte {
                    packed: executor.prepack_b(transposed),
                    scales,
                }
            }
        };
        Self {
            input,
            output,
            weights,
            bias,
        }
    }

    /// Width of the result.
    pub fn output(&self) -> usize {
        self.output
    }

    /// Multiplies `input`, which has a row for each position. The result has one too.
    pub fn apply(&self, input: &[f32]) -> Vec<f32> {
        let rows = input.len() / self.input;
        let mut out = vec![0.0; rows * self.output];
        match &self.weights {
            Weights::Float(packed) => {
                let options = GemmOptions {
                    bias: self.bias.as_deref().map(BiasVector::Row),
                    ..GemmOptions::default()
                };
                GemmExecutor::<f32>::new()
                    .gemm(
                        &mut out,
                        GemmInputA::Unpacked(matrix(rows, self.input, input)),
                        GemmInputB::Packed(packed),
                        options,
                    )
                    .expect("the shapes fit");
            }
            Weights::Byte { packed, scales } => self.apply_bytes(packed, scales, input, &mut out),
        }
        out
    }

    fn apply_bytes(
        &self,
        packed: &PackedBMatrix<i8>,
        scales: &[f32],
        input: &[f32],
        out: &mut [f32],
    ) {
        let rows = input.len() / self.input;
        let mut bytes = vec![0_u8; input.len()];
        let mut steps = Vec::with_capacity(rows);
        // rten-gemm 0.27 uses the first rows' zero points for all rows, so all must be equal.
        let zeros = vec![ZERO; rows];
        let pairs = input
            .chunks_exact(self.input)
            .zip(bytes.chunks_exact_mut(self.input));
        for (row, bytes) in pairs {
            steps.push(quantise_unsigned(row, bytes));
        }
        let mut sums = vec![0_i32; out.len()];
        let options = GemmOptions {
            a_quant: Some(QuantParams { zero_point: &zeros }),
            ..GemmOptions::default()
        };
        GemmExecutor::<u8, i8, i32>::new()
            .gemm(
                &mut sums,
                GemmInputA::Unpacked(matrix(rows, self.input, &bytes)),
                GemmInputB::Packed(packed),
                options,
            )
            .expect("the shapes fit");
        let rows = sums
            .chunks_exact(self.output)
            .zip(out.chunks_exact_mut(self.output));
        for ((sums, out), step) in rows.zip(steps) {
            for place in 0..self.output {
                out[place] = sums[place] as f32 * (step * scales[place]);
            }
            if let Some(bias) = &self.bias {
                crate::kernels::add(out, bias);
            }
        }
    }
}

/// Rounds each row to whole numbers of at most this magnitude. Returns them and the value of a step for each row.
pub(crate) fn quantised_rows(weights: &[f32], width: usize, most: f32) -> (Vec<i8>, Vec<f32>) {
    let mut bytes = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len() / width);
    for row in weights.chunks_exact(width) {
        let largest = row
            .iter()
            .fold(0.0_f32, |most, weight| most.max(weight.abs()));
        let factor = if largest > 0.0 { most / largest } else { 0.0 };
        bytes.extend(row.iter().map(|weight| (weight * factor).round() as i8));
        scales.push(largest / most);
    }
    (bytes, scales)
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
