//! Products of rows with panels of 16-bit numbers, with the vector instructions of x86-64.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_dpwssd_avx_epi32, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm512_add_epi32, _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_madd_epi16,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
};

use super::head::PANEL;
use crate::kernels::x86::Level;

/// Multiplies rows with a panel: row `r` of the products begins at `sums[r × stride]`. The processor must have the
/// level's instructions.
#[inline]
pub(super) fn multiply<const R: usize>(
    level: Level,
    rows: [&[i16]; R],
    panel: &[i16],
    sums: &mut [i32],
    stride: usize,
) {
    // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
    unsafe {
        match level {
            Level::Avx2 => avx2(rows, panel, sums, stride),
            Level::AvxVnni => avx_vnni(rows, panel, sums, stride),
            Level::Avx512 => avx512(rows, panel, sums, stride),
            Level::Vnni => vnni(rows, panel, sums, stride),
        }
    }
}

/// Two numbers of 16 bits in one of 32.
#[inline(always)]
fn both(pair: [i16; 2]) -> i32 {
    (i32::from(pair[1]) << 16) | i32::from(pair[0].cast_unsigned())
}

/// A function for one instruction set. It computes `VECTORS` vectors of `LANES` columns at a time, as many as the
/// registers hold.
macro_rules! version {
    (
        $name:ident, $features:literal, $vector:ty, $lanes:literal, $vectors:literal,
        $zero:ident, $one:ident, $load:ident, $store:ident, $add_products:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<const R: usize>(
            rows: [&[i16]; R],
            panel: &[i16],
            sums: &mut [i32],
            stride: usize,
        ) {
            const COLUMNS: usize = $lanes * $vectors;
            let add_products = $add_products;
            let pairs = panel.len() / (2 * PANEL);
            let rows = rows.map(|row| &row.as_chunks::<2>().0[..pairs]);
            for first in (0..PANEL).step_by(COLUMNS) {
                let mut totals: [[$vector; $vectors]; R] = [[$zero(); $vectors]; R];
                for (place, columns) in panel.chunks_exact(2 * PANEL).enumerate() {
                    let columns = &columns[2 * first..2 * (first + COLUMNS)];
                    let mut values = [$zero(); $vectors];
                    for (value, columns) in values
                        .iter_mut()
                        .zip(columns.as_chunks::<{ 2 * $lanes }>().0)
                    {
                        // SAFETY: the chunk is a vector long.
                        *value = unsafe { $load(columns.as_ptr().cast()) };
                    }
                    for (totals, row) in totals.iter_mut().zip(rows) {
                        let row = $one(both(row[place]));
                        for (total, value) in totals.iter_mut().zip(values) {
                            *total = add_products(*total, row, value);
                        }
                    }
                }
                for (number, totals) in totals.iter().enumerate() {
                    let sums = &mut sums[number * stride + first..][..COLUMNS];
                    for (sums, total) in sums.as_chunks_mut::<$lanes>().0.iter_mut().zip(totals) {
                        // SAFETY: the chunk is a vector long.
                        unsafe { $store(sums.as_mut_ptr().cast(), *total) };
                    }
                }
            }
        }
    };
}

version!(
    avx2,
    "avx2",
    __m256i,
    8,
    2,
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| _mm256_add_epi32(total, _mm256_madd_epi16(row, value))
);
version!(
    avx_vnni,
    "avx2,avxvnni",
    __m256i,
    8,
    2,
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| _mm256_dpwssd_avx_epi32(total, row, value)
);
version!(
    avx512,
    "avx512f,avx512bw",
    __m512i,
    16,
    4,
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_add_epi32(total, _mm512_madd_epi16(row, value))
);
version!(
    vnni,
    "avx512f,avx512bw,avx512vnni",
    __m512i,
    16,
    4,
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_dpwssd_epi32(total, row, value)
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::attention::head::multiply_plain;

    proptest! {
        /// The largest numbers as well: their sums must not overflow.
        #[test]
        fn every_level_gives_the_exact_sums(
            (rows, panel) in (1_usize..60).prop_flat_map(|pairs| (
                prop::collection::vec(prop::collection::vec(-2047_i16..=2047, 2 * pairs), 6),
                prop::collection::vec(-2047_i16..=2047, 2 * pairs * PANEL),
            )),
            extreme in any::<bool>(),
        ) {
            let panel = if extreme { vec![-2047; panel.len()] } else { panel };
            let stride = PANEL + 5;
            let rows: [&[i16]; 6] = std::array::from_fn(|row| &rows[row][..]);
            let mut expected = vec![0; 6 * stride];
            multiply_plain(rows, &panel, &mut expected, stride);
            for level in Level::all() {
                let mut found = vec![0; 6 * stride];
                multiply(level, rows, &panel, &mut found, stride);
                prop_assert_eq!(&found, &expected, "{:?}", level);
                let mut one = vec![0; PANEL];
                multiply(level, [rows[0]], &panel, &mut one, stride);
                prop_assert_eq!(&one[..], &expected[..PANEL], "{:?}", level);
            }
        }
    }
}
