//! Products of rows with panels, with the vector instructions of x86-64.

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _mm256_add_epi32, _mm256_dpbusd_avx_epi32,
    _mm256_dpwssd_avx_epi32, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

use super::PANEL;
use crate::kernels::x86::Level;

/// Multiplies rows with a panel of pairs; see the function of this name in the module above. The processor must have
/// the level's instructions.
#[inline]
pub(super) fn multiply_pairs<const R: usize>(
    level: Level,
    rows: [&[i16]; R],
    panel: &[i16],
    sums: &mut [i32],
    stride: usize,
) {
    // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
    unsafe {
        match level {
            Level::Avx2 => pairs_avx2(rows, panel, sums, stride),
            Level::AvxVnni => pairs_avx_vnni(rows, panel, sums, stride),
            Level::Avx512 => pairs_avx512(rows, panel, sums, stride),
            Level::Vnni => pairs_vnni(rows, panel, sums, stride),
        }
    }
}

/// Multiplies rows with a panel of fours; see the function of this name in the module above. The processor must have
/// the level's instructions.
#[inline]
pub(super) fn multiply_fours<const R: usize>(
    level: Level,
    rows: [&[u8]; R],
    panel: &[i8],
    sums: &mut [i32],
    stride: usize,
) {
    // SAFETY: as above.
    unsafe {
        match level {
            Level::Avx2 => fours_avx2(rows, panel, sums, stride),
            Level::Avx512 => fours_avx512(rows, panel, sums, stride),
            Level::AvxVnni => fours_avx_vnni(rows, panel, sums, stride),
            Level::Vnni => fours_vnni(rows, panel, sums, stride),
        }
    }
}

/// Multiplies rows of 32-bit numbers with a panel; see the function of this name in the module above. The processor must
/// have the level's instructions.
#[inline]
pub(super) fn multiply_floats<const R: usize>(
    level: Level,
    rows: [&[f32]; R],
    panel: &[f32],
    sums: &mut [f32],
    stride: usize,
) {
    // SAFETY: as above.
    unsafe {
        match level {
            Level::Avx2 | Level::AvxVnni => floats_avx2(rows, panel, sums, stride),
            Level::Avx512 | Level::Vnni => floats_avx512(rows, panel, sums, stride),
        }
    }
}

/// Two numbers of 16 bits in one of 32.
#[inline(always)]
fn pair(numbers: [i16; 2]) -> i32 {
    (i32::from(numbers[1]) << 16) | i32::from(numbers[0].cast_unsigned())
}

/// A function for one instruction set. It computes `VECTORS` vectors of `LANES` columns at a time, as many as the
/// registers hold. `N` numbers of each column lie side by side.
macro_rules! version {
    (
        $name:ident, $features:literal, ($row:ty, $number:ty, $n:literal, $together:expr, $sum:ty),
        ($vector:ty, $lanes:literal, $vectors:literal),
        $zero:ident, $one:ident, $load:ident, $store:ident, $add_products:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<const R: usize>(
            rows: [&[$row]; R],
            panel: &[$number],
            sums: &mut [$sum],
            stride: usize,
        ) {
            const COLUMNS: usize = $lanes * $vectors;
            let (together, add_products) = ($together, $add_products);
            let parts = panel.len() / ($n * PANEL);
            let rows = rows.map(|row| &row.as_chunks::<$n>().0[..parts]);
            for first in (0..PANEL).step_by(COLUMNS) {
                let mut totals: [[$vector; $vectors]; R] = [[$zero(); $vectors]; R];
                for (place, columns) in panel.chunks_exact($n * PANEL).enumerate() {
                    let columns = &columns[$n * first..$n * (first + COLUMNS)];
                    let mut values = [$zero(); $vectors];
                    let chunks = columns.as_chunks::<{ $n * $lanes }>().0;
                    for (value, chunk) in values.iter_mut().zip(chunks) {
                        // SAFETY: the chunk is a vector long.
                        *value = unsafe { $load(chunk.as_ptr().cast()) };
                    }
                    for (totals, row) in totals.iter_mut().zip(rows) {
                        let row = $one(together(row[place]));
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
    pairs_avx2,
    "avx2",
    (i16, i16, 2, pair, i32),
    (__m256i, 8, 2),
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| _mm256_add_epi32(total, _mm256_madd_epi16(row, value))
);
version!(
    pairs_avx_vnni,
    "avx2,avxvnni",
    (i16, i16, 2, pair, i32),
    (__m256i, 8, 2),
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| _mm256_dpwssd_avx_epi32(total, row, value)
);
version!(
    pairs_avx512,
    "avx512f,avx512bw",
    (i16, i16, 2, pair, i32),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_add_epi32(total, _mm512_madd_epi16(row, value))
);
version!(
    pairs_vnni,
    "avx512f,avx512bw,avx512vnni",
    (i16, i16, 2, pair, i32),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_dpwssd_epi32(total, row, value)
);
// Pairs of products are summed in 16 bits first, which saturates; see `largest_weight`.
version!(
    fours_avx2,
    "avx2",
    (u8, i8, 4, i32::from_le_bytes, i32),
    (__m256i, 8, 2),
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| {
        let pairs = _mm256_maddubs_epi16(row, value);
        _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
);
version!(
    fours_avx512,
    "avx512f,avx512bw",
    (u8, i8, 4, i32::from_le_bytes, i32),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| {
        let pairs = _mm512_maddubs_epi16(row, value);
        _mm512_add_epi32(total, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
);
version!(
    fours_avx_vnni,
    "avx2,avxvnni",
    (u8, i8, 4, i32::from_le_bytes, i32),
    (__m256i, 8, 2),
    _mm256_setzero_si256,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    _mm256_storeu_si256,
    |total, row, value| _mm256_dpbusd_avx_epi32(total, row, value)
);
version!(
    fours_vnni,
    "avx512f,avx512bw,avx512vnni",
    (u8, i8, 4, i32::from_le_bytes, i32),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_dpbusd_epi32(total, row, value)
);

version!(
    floats_avx2,
    "avx2,fma",
    (f32, f32, 1, |[value]: [f32; 1]| value, f32),
    (__m256, 8, 2),
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    |total, row, value| _mm256_fmadd_ps(row, value, total)
);
version!(
    floats_avx512,
    "avx512f,avx512bw",
    (f32, f32, 1, |[value]: [f32; 1]| value, f32),
    (__m512, 16, 4),
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    |total, row, value| _mm512_fmadd_ps(row, value, total)
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::panels::{multiply_floats_plain, multiply_plain};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The largest numbers as well.
        #[test]
        fn every_level_gives_the_exact_sums_of_pairs(
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
            multiply_plain::<2, 6, _, _>(rows, &panel, &mut expected, stride);
            for level in Level::all() {
                let mut found = vec![0; 6 * stride];
                multiply_pairs(level, rows, &panel, &mut found, stride);
                prop_assert_eq!(&found, &expected, "{:?}", level);
                let mut one = vec![0; PANEL];
                multiply_pairs(level, [rows[0]], &panel, &mut one, stride);
                prop_assert_eq!(&one[..], &expected[..PANEL], "{:?}", level);
            }
        }

        #[test]
        fn every_level_gives_the_sums_of_floats(
            (rows, panel) in (1_usize..100).prop_flat_map(|width| (
                prop::collection::vec(prop::collection::vec(-2.0_f32..2.0, width), 6),
                prop::collection::vec(-2.0_f32..2.0, width * PANEL),
            )),
        ) {
            let stride = PANEL + 5;
            let rows: [&[f32]; 6] = std::array::from_fn(|row| &rows[row][..]);
            let mut expected = vec![0.0; 6 * stride];
            multiply_floats_plain(rows, &panel, &mut expected, stride);
            for level in Level::all() {
                let mut found = vec![0.0; 6 * stride];
                multiply_floats(level, rows, &panel, &mut found, stride);
                for (found, expected) in found.iter().zip(&expected) {
                    prop_assert!((found - expected).abs() < 1e-3, "{:?}: {} {}", level, found, expected);
                }
            }
        }

        /// The largest numbers as well.
        #[test]
        fn every_level_gives_the_exact_sums_of_fours(
            (rows, panel) in (1_usize..200).prop_flat_map(|fours| (
                prop::collection::vec(prop::collection::vec(any::<u8>(), 4 * fours), 6),
                prop::collection::vec(-127_i8..=127, 4 * fours * PANEL),
            )),
            extreme in any::<bool>(),
        ) {
            let all = if extreme { vec![-127; panel.len()] } else { panel };
            let rows = if extreme { rows.iter().map(|row| vec![255; row.len()]).collect() } else { rows };
            let stride = PANEL + 5;
            let rows: [&[u8]; 6] = std::array::from_fn(|row| &rows[row][..]);
            for level in Level::all() {
                let most = if level.saturates() { 63 } else { 127 };
                let panel: Vec<i8> = all.iter().map(|weight| *weight.min(&most).max(&-most)).collect();
                let mut expected = vec![0; 6 * stride];
                multiply_plain::<4, 6, _, _>(rows, &panel, &mut expected, stride);
                let mut found = vec![0; 6 * stride];
                multiply_fours(level, rows, &panel, &mut found, stride);
                prop_assert_eq!(&found, &expected, "{:?}", level);
            }
        }
    }
}
