//! Products of rows with panels.
//!
//! A panel is a part of a matrix: [`PANEL`] of its columns. Some numbers of each column lie side by side, as many as fit
//! into 32 bits, then the next ones of each column: so an instruction multiplies them with the same numbers of a row, and
//! adds them up for many columns. All products of up to [`ROWS`] rows with a panel are summed in registers.
//!
//! Sums of whole numbers are exact: for the same numbers, they are the same on all processors.

#[cfg(target_arch = "x86_64")]
use super::x86::Level;
use super::{for_each_processor, mul_add};

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Columns of a panel.
pub const PANEL: usize = 64;
/// Rows that are multiplied together.
pub const ROWS: usize = 6;

/// Multiplies rows of 16-bit numbers with a panel of pairs: row `r` of the products begins at `sums[r × stride]`.
pub(super) fn multiply_pairs<const R: usize>(
    rows: [&[i16]; R],
    panel: &[i16],
    sums: &mut [i32],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        x86::multiply_pairs(level, rows, panel, sums, stride);
        return;
    }
    #[cfg(target_arch = "aarch64")]
    neon::multiply_pairs(rows, panel, sums, stride);
    #[cfg(not(target_arch = "aarch64"))]
    multiply_plain::<2, R, _, _>(rows, panel, sums, stride);
}

/// The largest magnitude of the numbers in panels of [`multiply_panel`]: sums of two products must fit into the bits that
/// this processor sums them in.
pub fn largest_weight() -> f32 {
    #[cfg(target_arch = "x86_64")]
    if Level::best().is_some_and(Level::saturates) {
        return 63.0;
    }
    127.0
}

/// Multiplies rows of unsigned 8-bit numbers with a panel of four signed ones: row `r` of the products begins at
/// `sums[r × stride]`.
fn multiply_fours<const R: usize>(rows: [&[u8]; R], panel: &[i8], sums: &mut [i32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        x86::multiply_fours(level, rows, panel, sums, stride);
        return;
    }
    #[cfg(target_arch = "aarch64")]
    neon::multiply_fours(rows, panel, sums, stride);
    #[cfg(not(target_arch = "aarch64"))]
    multiply_plain::<4, R, _, _>(rows, panel, sums, stride);
}

/// `N` numbers of each column lie side by side.
#[cfg(any(test, not(target_arch = "aarch64")))]
fn multiply_plain<const N: usize, const R: usize, A, B>(
    rows: [&[A]; R],
    panel: &[B],
    sums: &mut [i32],
    stride: usize,
) where
    A: Copy + Into<i32>,
    B: Copy + Into<i32>,
{
    for (number, row) in rows.iter().enumerate() {
        let mut totals = [0_i32; PANEL];
        let parts = row.as_chunks::<N>().0.iter();
        for (part, columns) in parts.zip(panel.chunks_exact(N * PANEL)) {
            for (total, column) in totals.iter_mut().zip(columns.as_chunks::<N>().0) {
                for place in 0..N {
                    *total += part[place].into() * column[place].into();
                }
            }
        }
        sums[number * stride..][..PANEL].copy_from_slice(&totals);
    }
}

/// Multiplies rows of unsigned 8-bit numbers with a panel of signed ones, and gives the products their values:
/// `out[r × stride + c] = (Σ rows[r, k] panel[k, c] − offsets[c]) × steps[r] × scales[c] + bias[c]`, for as many rows as
/// there are steps.
pub fn multiply_panel(
    rows: [&[u8]; ROWS],
    panel: &[i8],
    steps: &[f32],
    (offsets, scales): (&[i32], &[f32]),
    bias: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [0; ROWS * PANEL];
    multiply_fours(rows, panel, &mut sums, PANEL);
    scale_products(&sums, steps, offsets, scales, bias, out, stride);
}

#[inline(always)]
fn scale_products_plain<const FUSES: bool>(
    sums: &[i32],
    steps: &[f32],
    offsets: &[i32],
    scales: &[f32],
    bias: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    for (row, (sums, step)) in sums.chunks_exact(PANEL).zip(steps).enumerate() {
        let out = &mut out[row * stride..][..bias.len()];
        let columns = sums.iter().zip(offsets).zip(scales).zip(bias);
        for (out, (((sum, offset), scale), bias)) in out.iter_mut().zip(columns) {
            *out = mul_add::<FUSES>((sum - offset) as f32, step * scale, *bias);
        }
    }
}

for_each_processor! {
    /// Gives sums of products their values.
    scale_products(
        sums: &[i32],
        steps: &[f32],
        offsets: &[i32],
        scales: &[f32],
        bias: &[f32],
        out: &mut [f32],
        stride: usize,
    ) = scale_products_plain
}

/// Multiplies rows of 32-bit numbers with a panel, in which one number of each column lies side by side: row `r` of the
/// products begins at `sums[r × stride]`.
fn multiply_floats<const R: usize>(
    rows: [&[f32]; R],
    panel: &[f32],
    sums: &mut [f32],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        x86::multiply_floats(level, rows, panel, sums, stride);
        return;
    }
    #[cfg(target_arch = "aarch64")]
    neon::multiply_floats(rows, panel, sums, stride);
    #[cfg(not(target_arch = "aarch64"))]
    multiply_floats_plain(rows, panel, sums, stride);
}

#[cfg(any(test, not(target_arch = "aarch64")))]
fn multiply_floats_plain<const R: usize>(
    rows: [&[f32]; R],
    panel: &[f32],
    sums: &mut [f32],
    stride: usize,
) {
    for (number, row) in rows.iter().enumerate() {
        let mut totals = [0.0_f32; PANEL];
        for (value, columns) in row.iter().zip(panel.as_chunks::<PANEL>().0) {
            for (total, column) in totals.iter_mut().zip(columns) {
                *total = mul_add::<{ cfg!(target_arch = "aarch64") }>(*value, *column, *total);
            }
        }
        sums[number * stride..][..PANEL].copy_from_slice(&totals);
    }
}

/// Multiplies up to [`ROWS`] rows of 32-bit numbers with a panel, in which one number of each column lies side by side:
/// `out[r × stride + c] = Σ rows[r, k] panel[k, c] + bias[c]`, for as many columns as there are biases.
pub fn multiply_float_panel(
    rows: &[&[f32]],
    panel: &[f32],
    bias: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [0.0; ROWS * PANEL];
    if let [row] = rows {
        multiply_floats([*row], panel, &mut sums, PANEL);
    } else {
        let all = std::array::from_fn::<_, ROWS, _>(|row| rows[row.min(rows.len() - 1)]);
        multiply_floats(all, panel, &mut sums, PANEL);
    }
    for (row, sums) in sums.chunks_exact(PANEL).take(rows.len()).enumerate() {
        let columns = sums.iter().zip(bias);
        for (out, (sum, bias)) in out[row * stride..].iter_mut().zip(columns) {
            *out = sum + bias;
        }
    }
}
