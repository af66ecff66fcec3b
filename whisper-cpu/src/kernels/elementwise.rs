//! GELU, softmax, layer norm and addition.

use super::{for_each_processor, mul_add};

/// Numbers that a loop handles side by side. The compiler splits them into registers.
pub(super) const LANES: usize = 16;
/// OpenAI's epsilon of layer norms.
const EPSILON: f32 = 1e-5;

/// `e^x` within 2 units in the last place of 32 bits, for `x` from −87 to 88; smaller ones give about 1e-38.
///
/// `x = n ln 2 + r`: `2^n` goes into the exponent's bits, `e^r` is a polynomial (Cephes' `expf`).
#[inline(always)]
fn exp<const FUSES: bool>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that n × the first one is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding this number rounds to a whole one.
    const ROUND: f32 = 12_582_912.0;
    // Not `clamp`, whose treatment of NaN takes more instructions.
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let rounded = mul_add::<FUSES>(x, LOG2_E, ROUND);
    let whole = rounded - ROUND;
    let r = mul_add::<FUSES>(whole, -LN2_HIGH, x);
    let r = mul_add::<FUSES>(whole, -LN2_LOW, r);
    let p = mul_add::<FUSES>(1.987_569_2e-4, r, 1.398_199_9e-3);
    let p = mul_add::<FUSES>(p, r, 8.333_452e-3);
    let p = mul_add::<FUSES>(p, r, 4.166_579_6e-2);
    let p = mul_add::<FUSES>(p, r, 1.666_666_5e-1);
    let p = mul_add::<FUSES>(p, r, 0.5);
    // The lowest bits of the rounded number are those of the whole one.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    mul_add::<FUSES>(p, r * r, r + 1.0) * power
}

/// Where [`normal`] is 0 or 1 in 32 bits, almost.
const NORMAL_END: f32 = 5.0;
/// Fitted to (Φ(x) − ½) / x for `x` from −5 to 5, as powers of `2 (x / 5)² − 1`, so that the largest error of `x Φ(x)` is
/// as small as possible.
const NORMAL: [f32; 13] = [
    0.141_363_78,
    -0.070_296_675,
    0.051_521_46,
    -0.040_432_4,
    0.031_425_614,
    -0.023_340_143,
    0.016_501_27,
    -0.010_964_999,
    0.006_156_692,
    -0.002_923_897_2,
    0.002_010_762_2,
    -0.001_511_353_1,
    0.000_489_846_7,
];

/// The normal distribution Φ(x) within 3e-7.
#[inline(always)]
fn normal<const FUSES: bool>(x: f32) -> f32 {
    let x = if x > -NORMAL_END { x } else { -NORMAL_END };
    let x = if x < NORMAL_END { x } else { NORMAL_END };
    let place = mul_add::<FUSES>(x * (2.0 / (NORMAL_END * NORMAL_END)), x, -1.0);
    let mut p = NORMAL[12];
    for factor in NORMAL[..12].iter().rev() {
        p = mul_add::<FUSES>(p, place, *factor);
    }
    mul_add::<FUSES>(x, p, 0.5)
}

#[inline(always)]
fn gelu_plain<const FUSES: bool>(values: &mut [f32]) {
    for value in values {
        *value *= normal::<FUSES>(*value);
    }
}

for_each_processor! {
    /// Replaces each value by `x Φ(x)`, where Φ is the normal distribution.
    gelu(values: &mut [f32]) = gelu_plain
}

/// The sum of all values, in [`LANES`] partial sums.
#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += term(*value);
        }
    }
    let rest: f32 = rest.iter().map(|value| term(*value)).sum();
    sum_of(sums) + rest
}

/// The sum of all lanes, halves first, as vector instructions do it.
#[inline(always)]
pub(super) fn sum_of(lanes: [f32; LANES]) -> f32 {
    let mut sums = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[inline(always)]
fn largest<const FUSES: bool>(values: &[f32]) -> f32 {
    // More lanes than in one register, because each comparison takes several cycles.
    let mut most = [f32::NEG_INFINITY; 4 * LANES];
    let (whole, rest) = values.as_chunks::<{ 4 * LANES }>();
    for chunk in whole {
        for (most, value) in most.iter_mut().zip(chunk) {
            *most = if *value > *most { *value } else { *most };
        }
    }
    let all = most.iter().chain(rest).copied();
    all.fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
pub(super) fn powers_plain<const FUSES: bool>(values: &mut [f32]) -> f32 {
    let most = largest::<FUSES>(values);
    let mut sums = [0.0_f32; LANES];
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = exp::<FUSES>(*value - most);
            *sum += *value;
        }
    }
    let mut total = sum_of(sums);
    for value in rest {
        *value = exp::<FUSES>(*value - most);
        total += *value;
    }
    total
}

for_each_processor! {
    /// Replaces each value by `e^(value − m)`, where `m` is the largest one. Returns the sum of the results: divided by
    /// it, they are the softmax of the values.
    powers(values: &mut [f32]) -> f32 = powers_plain
}

#[inline(always)]
pub(super) fn scale_plain<const FUSES: bool>(values: &mut [f32], factor: f32) {
    for value in values {
        *value *= factor;
    }
}

for_each_processor! {
    /// Multiplies each value with a factor.
    scale(values: &mut [f32], factor: f32) = scale_plain
}

#[inline(always)]
fn log_sum_exp_plain<const FUSES: bool>(values: &[f32]) -> f32 {
    let most = largest::<FUSES>(values);
    if most == f32::NEG_INFINITY {
        return most;
    }
    most + sum(values, |value| exp::<FUSES>(value - most)).ln()
}

for_each_processor! {
    /// `ln Σ e^value`; −∞ if all values are.
    log_sum_exp(values: &[f32]) -> f32 = log_sum_exp_plain
}

for_each_processor! {
    /// The largest value; −∞ if there is none.
    maximum(values: &[f32]) -> f32 = largest
}

#[inline(always)]
fn layer_norm_plain<const FUSES: bool>(
    input: &[f32],
    weight: &[f32],
    bias: &[f32],
    output: &mut [f32],
) {
    let width = weight.len();
    for (row, out) in input
        .chunks_exact(width)
        .zip(output.chunks_exact_mut(width))
    {
        let mean = sum(row, |value| value) / width as f32;
        let variance = sum(row, |value| (value - mean) * (value - mean)) / width as f32;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        for place in 0..width {
            let normed = (row[place] - mean) * scale;
            out[place] = mul_add::<FUSES>(normed, weight[place], bias[place]);
        }
    }
}

for_each_processor! {
    /// Normalises each row of `input` to mean 0 and variance 1, then scales and moves it.
    layer_norm(input: &[f32], weight: &[f32], bias: &[f32], output: &mut [f32]) = layer_norm_plain
}

#[inline(always)]
fn add_plain<const FUSES: bool>(to: &mut [f32], more: &[f32]) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += more;
    }
}

for_each_processor! {
    /// Adds one row of numbers to another.
    add(to: &mut [f32], more: &[f32]) = add_plain
}

#[inline(always)]
fn sigmoid_plain<const FUSES: bool>(values: &mut [f32]) {
    for value in values {
        *value = 1.0 / (1.0 + exp::<FUSES>(-*value));
    }
}

for_each_processor! {
    /// Replaces each value by `1 / (1 + e^−value)`.
    sigmoid(values: &mut [f32]) = sigmoid_plain
}

#[inline(always)]
fn tanh_plain<const FUSES: bool>(values: &mut [f32]) {
    for value in values {
        *value = 1.0 - 2.0 / (1.0 + exp::<FUSES>(2.0 * *value));
    }
}

for_each_processor! {
    /// Replaces each value by its hyperbolic tangent, within 3e-7.
    tanh(values: &mut [f32]) = tanh_plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(found: f32, expected: f64, relative: f64, absolute: f64) -> bool {
        (f64::from(found) - expected).abs() <= absolute + relative * expected.abs()
    }

    /// Φ(x) in 64 bits, by the series of the error function or its continued fraction.
    fn exact_normal(x: f64) -> f64 {
        let z = x / std::f64::consts::SQRT_2;
        let a = z.abs();
        let erf = if a < 3.0 {
            let (mut term, mut total) = (a, a);
            for n in 1..200 {
                let n = f64::from(n);
                term *= -a * a / n;
                total += term / (2.0 * n + 1.0);
            }
            total * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let mut fraction = 0.0;
            for n in (1..100).rev() {
                fraction = f64::from(n) / 2.0 / (a + fraction);
            }
            1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + fraction))
        };
        f64::midpoint(1.0, erf.copysign(z))
    }

    proptest! {
        #[test]
        fn gelu_is_the_exact_one(values in prop::collection::vec(-30.0_f32..30.0, 1..70)) {
            let mut found = values.clone();
            gelu(&mut found);
            for (found, x) in found.iter().zip(values) {
                let x = f64::from(x);
                prop_assert!(near(*found, x * exact_normal(x), 1e-6, 2e-6 + 3e-7 * x.abs()), "{x}: {found}");
            }
        }

        #[test]
        fn sigmoid_and_hyperbolic_tangent_are_the_exact_ones(values in prop::collection::vec(-50.0_f32..50.0, 1..70)) {
            let (mut sigmoids, mut tangents) = (values.clone(), values.clone());
            sigmoid(&mut sigmoids);
            tanh(&mut tangents);
            for ((value, sigmoid), tangent) in values.iter().zip(sigmoids).zip(tangents) {
                let value = f64::from(*value);
                prop_assert!(near(sigmoid, 1.0 / (1.0 + (-value).exp()), 1e-6, 1e-30));
                prop_assert!(near(tangent, value.tanh(), 0.0, 3e-7), "{value}: {tangent}");
            }
        }

        #[test]
        fn softmax_sums_to_one_and_has_the_right_ratios(
            values in prop::collection::vec(-60.0_f32..60.0, 1..300),
        ) {
            let mut found = values.clone();
            let sum = powers(&mut found);
            scale(&mut found, 1.0 / sum);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let terms: Vec<f64> = values.iter().map(|v| f64::from(v - most).exp()).collect();
            let total: f64 = terms.iter().sum();
            for (found, term) in found.iter().zip(terms) {
                prop_assert!(near(*found, term / total, 1e-5, 1e-37));
            }
        }

        #[test]
        fn the_logarithm_of_the_sum_counts_all_values_that_are_not_forbidden(
            values in prop::collection::vec(prop_oneof![-60.0_f32..60.0, Just(f32::NEG_INFINITY)], 1..300),
        ) {
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            prop_assert_eq!(maximum(&values).to_bits(), most.to_bits());
            let total: f64 = values.iter().map(|value| f64::from(*value).exp()).sum();
            let found = log_sum_exp(&values);
            if most == f32::NEG_INFINITY {
                prop_assert_eq!(found.to_bits(), most.to_bits());
            } else {
                prop_assert!(near(found, total.ln(), 1e-6, 1e-5), "{found}");
            }
        }

        #[test]
        fn a_layer_norm_has_the_wanted_mean_and_variance(
            values in prop::collection::vec(-100.0_f32..100.0, 24..200),
            scale in 0.1_f32..3.0,
            offset in -2.0_f32..2.0,
        ) {
            let width = values.len();
            let mut found = vec![0.0; width];
            layer_norm(&values, &vec![scale; width], &vec![offset; width], &mut found);
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / width as f64;
            let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / width as f64;
            for (found, value) in found.iter().zip(&values) {
                let expected = (f64::from(*value) - mean) / (variance + 1e-5).sqrt() * f64::from(scale) + f64::from(offset);
                prop_assert!(near(*found, expected, 1e-4, 1e-3));
            }
        }

        /// The versions for newer processors against the plain one.
        #[test]
        fn every_instruction_set_computes_the_same(values in prop::collection::vec(-20.0_f32..20.0, 1..200)) {
            let (mut a, mut b) = (values.clone(), values.clone());
            prop_assert!(near(powers(&mut a), f64::from(powers_plain::<false>(&mut b)), 1e-5, 1e-6));
            let (mut c, mut d) = (values.clone(), values);
            gelu(&mut c);
            gelu_plain::<false>(&mut d);
            for (a, b) in [(a, b), (c, d)] {
                for (a, b) in a.iter().zip(b) {
                    prop_assert!(near(*a, f64::from(b), 1e-5, 1e-6));
                }
            }
        }
    }
}
