//! Sums of products of 8-bit weights and 16-bit activations with the vector instructions of x86-64.
//!
//! The compiler finds the instruction that multiplies and adds pairs only in simple loops; a tile of several rows and
//! columns, which reads each number once for all its products, needs it by name.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_dpwssd_avx_epi32,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_setzero_si256, _mm256_storeu_si256,
    _mm512_add_epi32, _mm512_cvtepi8_epi16, _mm512_dpwssd_epi32, _mm512_loadu_si512,
    _mm512_madd_epi16, _mm512_reduce_add_epi32, _mm512_setzero_si512,
};

use super::dot;
use crate::kernels::x86::Level;

/// The sums of products of each row with each column; all have the same length. The processor must have the level's
/// instructions.
#[inline]
pub(super) fn tile<const R: usize, const C: usize>(
    level: Level,
    rows: [&[i8]; R],
    columns: [&[i16]; C],
) -> [[i32; C]; R] {
    // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
    unsafe {
        match level {
            Level::Avx2 => avx2(rows, columns),
            Level::AvxVnni => avx_vnni(rows, columns),
            Level::Avx512 => avx512(rows, columns),
            Level::Vnni => vnni(rows, columns),
        }
    }
}

/// The products of what is left after chunks of `N`.
fn add_rest<const N: usize, const R: usize, const C: usize>(
    sums: &mut [[i32; C]; R],
    rows: [&[i8]; R],
    columns: [&[i16]; C],
) {
    let rest = rows[0].len() / N * N;
    if rest == rows[0].len() {
        return;
    }
    for (sums, row) in sums.iter_mut().zip(rows) {
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum += dot(&row[rest..], &column[rest..]);
        }
    }
}

#[target_feature(enable = "avx2")]
fn sum_of_lanes(lanes: __m256i) -> i32 {
    let mut numbers = [0_i32; 8];
    // SAFETY: the array has 32 bytes.
    unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), lanes) };
    numbers.iter().sum()
}

/// A function for one instruction set: `load_row` widens a chunk of a row, `load_column` reads one of a column, and
/// `add_products` adds the products of pairs.
macro_rules! version {
    (
        $name:ident, $features:literal, $lanes:literal, $zero:ident,
        $load_row:expr, $load_column:expr, $add_products:expr, $sum_of:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<const R: usize, const C: usize>(
            rows: [&[i8]; R],
            columns: [&[i16]; C],
        ) -> [[i32; C]; R] {
            let (load_row, load_column) = ($load_row, $load_column);
            let (add_products, sum_of) = ($add_products, $sum_of);
            let whole = rows[0].len() / $lanes;
            let row_chunks = rows.map(|row| &row.as_chunks::<$lanes>().0[..whole]);
            let column_chunks = columns.map(|column| &column.as_chunks::<$lanes>().0[..whole]);
            let mut totals = [[$zero(); C]; R];
            for place in 0..whole {
                for (totals, row) in totals.iter_mut().zip(row_chunks) {
                    let row = load_row(&row[place]);
                    for (total, column) in totals.iter_mut().zip(column_chunks) {
                        *total = add_products(*total, row, load_column(&column[place]));
                    }
                }
            }
            // Loops, because the compiler does not always inline functions that are given to `map`.
            let mut sums = [[0; C]; R];
            for (sums, totals) in sums.iter_mut().zip(totals) {
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *sum = sum_of(total);
                }
            }
            add_rest::<$lanes, R, C>(&mut sums, rows, columns);
            sums
        }
    };
}

version!(
    avx2,
    "avx2",
    16,
    _mm256_setzero_si256,
    // SAFETY: a chunk has 16 bytes.
    |chunk: &[i8; 16]| _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }),
    // SAFETY: a chunk has 32 bytes.
    |chunk: &[i16; 16]| unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
    |total, row, column| _mm256_add_epi32(total, _mm256_madd_epi16(row, column)),
    |total| sum_of_lanes(total)
);
version!(
    avx_vnni,
    "avx2,avxvnni",
    16,
    _mm256_setzero_si256,
    // SAFETY: a chunk has 16 bytes.
    |chunk: &[i8; 16]| _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }),
    // SAFETY: a chunk has 32 bytes.
    |chunk: &[i16; 16]| unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) },
    |total, row, column| _mm256_dpwssd_avx_epi32(total, row, column),
    |total| sum_of_lanes(total)
);
version!(
    avx512,
    "avx512f,avx512bw",
    32,
    _mm512_setzero_si512,
    // SAFETY: a chunk has 32 bytes.
    |chunk: &[i8; 32]| _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) }),
    // SAFETY: a chunk has 64 bytes.
    |chunk: &[i16; 32]| unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) },
    |total, row, column| _mm512_add_epi32(total, _mm512_madd_epi16(row, column)),
    |total| _mm512_reduce_add_epi32(total)
);
version!(
    vnni,
    "avx512f,avx512bw,avx512vnni",
    32,
    _mm512_setzero_si512,
    // SAFETY: a chunk has 32 bytes.
    |chunk: &[i8; 32]| _mm512_cvtepi8_epi16(unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) }),
    // SAFETY: a chunk has 64 bytes.
    |chunk: &[i16; 32]| unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) },
    |total, row, column| _mm512_dpwssd_epi32(total, row, column),
    |total| _mm512_reduce_add_epi32(total)
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The largest products of 8 and 12 bits as well.
        #[test]
        fn every_level_gives_the_exact_sums(
            (rows, columns) in (1_usize..300).prop_flat_map(|width| (
                prop::collection::vec(prop::collection::vec(-127_i8..=127, width), 2),
                prop::collection::vec(prop::collection::vec(-2047_i16..=2047, width), 3),
            )),
            extreme in any::<bool>(),
        ) {
            let columns: Vec<Vec<i16>> = if extreme {
                columns.iter().map(|column| vec![2047; column.len()]).collect()
            } else {
                columns
            };
            let row = |number: usize| &rows[number][..];
            let column = |number: usize| &columns[number][..];
            for level in Level::all() {
                let found = tile(level, [row(0), row(1)], [column(0), column(1), column(2)]);
                for (number, sums) in found.iter().enumerate() {
                    for (other, sum) in sums.iter().enumerate() {
                        prop_assert_eq!(*sum, dot(row(number), column(other)), "{:?}", level);
                    }
                }
            }
        }
    }
}
