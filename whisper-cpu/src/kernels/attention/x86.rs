//! Products of one position with many, with the vector instructions of x86-64.

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_cvtph_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use half::f16;

use super::{add_weighted, product};
use crate::kernels::x86::Level;

/// Values that are added at a time, so that the sums are read and written less often.
const ROWS: usize = 4;

/// Numbers of keys and values.
pub trait Number: super::Plain {
    /// The products of each head of `query` with that of each key, with an instruction set that the processor has.
    fn score(level: Level, query: &[f32], keys: &[Self], head: usize, scores: &mut [f32]);

    /// Adds the weighted values of each head to `out`, with an instruction set that the processor has.
    fn mix(level: Level, scores: &[f32], values: &[Self], head: usize, out: &mut [f32]);
}

#[target_feature(enable = "avx2,fma")]
fn sum_of_lanes(lanes: __m256) -> f32 {
    let mut numbers = [0.0_f32; 8];
    // SAFETY: the array has 8 numbers.
    unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), lanes) };
    numbers.iter().sum()
}

/// Functions for one instruction set and one type of numbers. `load` reads a chunk of them.
macro_rules! versions {
    (
        $score:ident, $mix:ident, $features:literal, $lanes:literal, $number:ty,
        $load:expr, $sum:expr, $zero:ident, $one:ident, $read:ident, $write:ident, $fused:ident
    ) => {
        #[target_feature(enable = $features)]
        fn $score(query: &[f32], keys: &[$number], head: usize, scores: &mut [f32]) {
            let load = $load;
            let sum_of = $sum;
            let count = keys.len() / query.len();
            for (place, key) in keys.chunks_exact(query.len()).enumerate() {
                let heads = query.chunks_exact(head).zip(key.chunks_exact(head));
                for (number, (query, key)) in heads.enumerate() {
                    let mut sums = $zero();
                    let ((query, query_rest), (key, key_rest)) =
                        (query.as_chunks::<$lanes>(), key.as_chunks::<$lanes>());
                    for (query, key) in query.iter().zip(key) {
                        // SAFETY: the chunk has as many numbers as are read.
                        let query = unsafe { $read(query.as_ptr()) };
                        sums = $fused(query, load(key), sums);
                    }
                    scores[number * count + place] = sum_of(sums) + product(query_rest, key_rest);
                }
            }
        }

        #[target_feature(enable = $features)]
        fn $mix(scores: &[f32], values: &[$number], head: usize, out: &mut [f32]) {
            let load = $load;
            let width = out.len();
            let count = values.len() / width;
            let whole = count / ROWS * ROWS;
            for place in (0..whole).step_by(ROWS) {
                for (number, out) in out.chunks_exact_mut(head).enumerate() {
                    let weights: [f32; ROWS] =
                        std::array::from_fn(|row| scores[number * count + place + row]);
                    let rows: [&[$number]; ROWS] = std::array::from_fn(|row| {
                        &values[(place + row) * width + number * head..][..head]
                    });
                    let row_chunks = rows.map(|row| row.as_chunks::<$lanes>());
                    let (out_chunks, out_rest) = out.as_chunks_mut::<$lanes>();
                    for (column, out) in out_chunks.iter_mut().enumerate() {
                        // SAFETY: the chunk has as many numbers as are read.
                        let mut sums = unsafe { $read(out.as_ptr()) };
                        for (weight, (row, _)) in weights.iter().zip(row_chunks) {
                            sums = $fused($one(*weight), load(&row[column]), sums);
                        }
                        // SAFETY: the chunk has as many numbers as are written.
                        unsafe { $write(out.as_mut_ptr(), sums) };
                    }
                    for (weight, (_, row)) in weights.iter().zip(row_chunks) {
                        add_weighted(*weight, row, out_rest);
                    }
                }
            }
            for (place, value) in values.chunks_exact(width).enumerate().skip(whole) {
                let heads = out.chunks_exact_mut(head).zip(value.chunks_exact(head));
                for (number, (out, value)) in heads.enumerate() {
                    add_weighted(scores[number * count + place], value, out);
                }
            }
        }
    };
}

versions!(
    score_floats_avx2,
    mix_floats_avx2,
    "avx2,fma,f16c",
    8,
    f32,
    // SAFETY: the chunk has as many numbers as are read.
    |chunk: &[f32; 8]| unsafe { _mm256_loadu_ps(chunk.as_ptr()) },
    |sums| sum_of_lanes(sums),
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps
);
versions!(
    score_floats_avx512,
    mix_floats_avx512,
    "avx512f",
    16,
    f32,
    // SAFETY: the chunk has as many numbers as are read.
    |chunk: &[f32; 16]| unsafe { _mm512_loadu_ps(chunk.as_ptr()) },
    |sums| _mm512_reduce_add_ps(sums),
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps
);
versions!(
    score_halves_avx2,
    mix_halves_avx2,
    "avx2,fma,f16c",
    8,
    f16,
    // SAFETY: the chunk has as many numbers as are read.
    |chunk: &[f16; 8]| _mm256_cvtph_ps(unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) }),
    |sums| sum_of_lanes(sums),
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps
);
versions!(
    score_halves_avx512,
    mix_halves_avx512,
    "avx512f",
    16,
    f16,
    // SAFETY: the chunk has as many numbers as are read.
    |chunk: &[f16; 16]| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) }),
    |sums| _mm512_reduce_add_ps(sums),
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps
);

impl Number for f32 {
    fn score(level: Level, query: &[f32], keys: &[Self], head: usize, scores: &mut [f32]) {
        // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
        unsafe {
            match level {
                Level::Avx2 => score_floats_avx2(query, keys, head, scores),
                Level::Avx512 | Level::Vnni => score_floats_avx512(query, keys, head, scores),
            }
        }
    }

    fn mix(level: Level, scores: &[f32], values: &[Self], head: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe {
            match level {
                Level::Avx2 => mix_floats_avx2(scores, values, head, out),
                Level::Avx512 | Level::Vnni => mix_floats_avx512(scores, values, head, out),
            }
        }
    }
}

impl Number for f16 {
    fn score(level: Level, query: &[f32], keys: &[Self], head: usize, scores: &mut [f32]) {
        // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
        unsafe {
            match level {
                Level::Avx2 => score_halves_avx2(query, keys, head, scores),
                Level::Avx512 | Level::Vnni => score_halves_avx512(query, keys, head, scores),
            }
        }
    }

    fn mix(level: Level, scores: &[f32], values: &[Self], head: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe {
            match level {
                Level::Avx2 => mix_halves_avx2(scores, values, head, out),
                Level::Avx512 | Level::Vnni => mix_halves_avx512(scores, values, head, out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::attention::{mix_plain, score_plain};

    fn assert_alike<T: Number>(query: &[f32], rows: &[T], weights: &[f32], head: usize) {
        let count = rows.len() / query.len();
        let heads = query.len() / head;
        let (mut scores, mut mixed) = (vec![0.0; heads * count], vec![1.0; query.len()]);
        score_plain(query, rows, head, &mut scores);
        mix_plain(weights, rows, head, &mut mixed);
        for level in Level::all() {
            let (mut found, mut sums) = (vec![0.0; heads * count], vec![1.0; query.len()]);
            T::score(level, query, rows, head, &mut found);
            T::mix(level, weights, rows, head, &mut sums);
            for (found, expected) in found.iter().zip(&scores).chain(sums.iter().zip(&mixed)) {
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{level:?}: {found} {expected}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn every_level_gives_the_sums_of_the_plain_version(
            heads in 1_usize..4,
            head in prop::sample::select(vec![8_usize, 24, 64]),
            count in 1_usize..30,
            seed in 0_u64..1000,
        ) {
            let mut state = seed;
            let mut random = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
            };
            let width = heads * head;
            let query: Vec<f32> = (0..width).map(&mut random).collect();
            let rows: Vec<f32> = (0..count * width).map(&mut random).collect();
            let weights: Vec<f32> = (0..heads * count).map(&mut random).collect();
            let halves: Vec<f16> = rows.iter().map(|value| f16::from_f32(*value)).collect();
            assert_alike(&query, &rows, &weights, head);
            assert_alike(&query, &halves, &weights, head);
        }
    }
}
