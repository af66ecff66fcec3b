//! Products of rows with panels.
//!
//! A panel is a part of a matrix: [`PANEL`] of its columns. Some numbers of each column lie side by side, as many as fit
//! into 32 bits, then the next ones of each column: so an instruction multiplies them with the same numbers of a row, and
//! adds them up for many columns. All products of up to [`ROWS`] rows with a panel are summed in registers.
//!
//! The sums are exact, so they are the same on all processors.

#[cfg(target_arch = "x86_64")]
use super::x86::Level;
use super::{for_each_processor, mul_add};

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
    multiply_plain::<2, R, _, _>(rows, panel, sums, stride);
}

/// Multiplies rows of unsigned 8-bit numbers with a panel of four signed ones: row `r` of the products begins at
/// `sums[r × stride]`.
fn multiply_fours<const R: usize>(rows: [&[u8]; R], panel: &[i8], sums: &mut [i32], stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(level) = Level::best() {
        x86::multiply_fours(level, rows, panel, sums, stride);
        return;
    }
    multiply_plain::<4, R, _, _>(rows, panel, sums, stride);
}

/// `N` numbers of each column lie side by side.
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
