//! Products of rows with panels, with the vector instructions of x86-64.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16,
    _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32, _mm256_hadd_epi32, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_epi64x,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm512_add_epi32, _mm512_dpbusd_epi32,
    _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_storeu_si512,
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
            Level::Avx2 | Level::Avx512 => fours_avx2(rows, panel, sums, stride),
            Level::AvxVnni => fours_avx_vnni(rows, panel, sums, stride),
            Level::Vnni => fours_vnni(rows, panel, sums, stride),
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
        $name:ident, $features:literal, ($row:ty, $number:ty, $n:literal, $together:expr),
        ($vector:ty, $lanes:literal, $vectors:literal),
        $zero:ident, $one:ident, $load:ident, $store:ident, $add_products:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<const R: usize>(
            rows: [&[$row]; R],
            panel: &[$number],
            sums: &mut [i32],
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
    (i16, i16, 2, pair),
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
    (i16, i16, 2, pair),
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
    (i16, i16, 2, pair),
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
    (i16, i16, 2, pair),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_dpwssd_epi32(total, row, value)
);
version!(
    fours_avx_vnni,
    "avx2,avxvnni",
    (u8, i8, 4, i32::from_le_bytes),
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
    (u8, i8, 4, i32::from_le_bytes),
    (__m512i, 16, 4),
    _mm512_setzero_si512,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    _mm512_storeu_si512,
    |total, row, value| _mm512_dpbusd_epi32(total, row, value)
);

/// Fours of a row that are widened at a time.
const WIDENED: usize = 64;

/// Without an instruction for sums of four products, numbers are widened to 16 bits. The older one for two products of
/// 8-bit numbers saturates.
#[target_feature(enable = "avx2")]
fn fours_avx2<const R: usize>(rows: [&[u8]; R], panel: &[i8], sums: &mut [i32], stride: usize) {
    /// Columns of which a vector has four numbers.
    const LANES: usize = 4;
    const COLUMNS: usize = 2 * LANES;
    let parts = panel.len() / (4 * PANEL);
    let rows = rows.map(|row| &row.as_chunks::<4>().0[..parts]);
    for number in 0..R {
        sums[number * stride..][..PANEL].fill(0);
    }
    for begin in (0..parts).step_by(WIDENED) {
        let end = parts.min(begin + WIDENED);
        let wide: [[i64; WIDENED]; R] = rows.map(|row| {
            let mut wide = [0; WIDENED];
            for (wide, four) in wide.iter_mut().zip(&row[begin..end]) {
                let [a, b, c, d] = four.map(i64::from);
                *wide = a | b << 16 | c << 32 | d << 48;
            }
            wide
        });
        for first in (0..PANEL).step_by(COLUMNS) {
            let mut totals: [[__m256i; 2]; R] = [[_mm256_setzero_si256(); 2]; R];
            for place in begin..end {
                let columns = &panel[4 * (place * PANEL + first)..][..4 * COLUMNS];
                let chunks = columns.as_chunks::<16>().0;
                let mut values = [_mm256_setzero_si256(); 2];
                for (value, chunk) in values.iter_mut().zip(chunks) {
                    // SAFETY: the chunk has 16 bytes.
                    let bytes: __m128i = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
                    *value = _mm256_cvtepi8_epi16(bytes);
                }
                for (totals, wide) in totals.iter_mut().zip(&wide) {
                    let row = _mm256_set1_epi64x(wide[place - begin]);
                    for (total, value) in totals.iter_mut().zip(values) {
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(row, value));
                    }
                }
            }
            for (number, [low, high]) in totals.into_iter().enumerate() {
                // Each column has two neighbouring sums. Adding neighbours puts the halves of both vectors in turn.
                let added = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(low, high));
                let sums = &mut sums[number * stride + first..][..COLUMNS];
                // SAFETY: eight numbers are a vector.
                unsafe {
                    let before = _mm256_loadu_si256(sums.as_ptr().cast());
                    let all = _mm256_add_epi32(before, added);
                    _mm256_storeu_si256(sums.as_mut_ptr().cast(), all);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::panels::multiply_plain;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The largest numbers as well: their sums must not overflow.
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

        /// The largest numbers as well: pairs of their products do not fit into 16 bits.
        #[test]
        fn every_level_gives_the_exact_sums_of_fours(
            (rows, panel) in (1_usize..200).prop_flat_map(|fours| (
                prop::collection::vec(prop::collection::vec(any::<u8>(), 4 * fours), 6),
                prop::collection::vec(-127_i8..=127, 4 * fours * PANEL),
            )),
            extreme in any::<bool>(),
        ) {
            let panel = if extreme { vec![-127; panel.len()] } else { panel };
            let rows = if extreme { rows.iter().map(|row| vec![255; row.len()]).collect() } else { rows };
            let stride = PANEL + 5;
            let rows: [&[u8]; 6] = std::array::from_fn(|row| &rows[row][..]);
            let mut expected = vec![0; 6 * stride];
            multiply_plain::<4, 6, _, _>(rows, &panel, &mut expected, stride);
            for level in Level::all() {
                let mut found = vec![0; 6 * stride];
                multiply_fours(level, rows, &panel, &mut found, stride);
                prop_assert_eq!(&found, &expected, "{:?}", level);
            }
        }
    }
}
