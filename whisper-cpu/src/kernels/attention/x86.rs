//! Products of one position with many, with the vector instructions of x86-64.

use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use crate::kernels::x86::Level;

/// Values that are added at a time, so that the sums are read and written less often.
const ROWS: usize = 4;

/// As [`super::score`]. The processor must have the level's instructions.
pub(super) fn score(level: Level, query: &[f32], keys: &[f32], head: usize, scores: &mut [f32]) {
    // SAFETY: only `Level::best` and the tests make levels, after they have asked the processor.
    unsafe {
        match level {
            Level::Avx2 => score_avx2(query, keys, head, scores),
            Level::Avx512 | Level::Vnni => score_avx512(query, keys, head, scores),
        }
    }
}

/// As [`super::mix`]. The processor must have the level's instructions.
pub(super) fn mix(level: Level, scores: &[f32], values: &[f32], head: usize, out: &mut [f32]) {
    // SAFETY: as above.
    unsafe {
        match level {
            Level::Avx2 => mix_avx2(scores, values, head, out),
            Level::Avx512 | Level::Vnni => mix_avx512(scores, values, head, out),
        }
    }
}

/// Adds the values from the position `first` on.
fn mix_rest(scores: &[f32], values: &[f32], head: usize, out: &mut [f32], first: usize) {
    let count = values.len() / out.len();
    for (place, value) in values.chunks_exact(out.len()).enumerate().skip(first) {
        let heads = out.chunks_exact_mut(head).zip(value.chunks_exact(head));
        for (number, (out, value)) in heads.enumerate() {
            let weight = scores[number * count + place];
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight * value;
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn sum_of_lanes(lanes: __m256) -> f32 {
    let mut numbers = [0.0_f32; 8];
    // SAFETY: the array has 8 numbers.
    unsafe { _mm256_storeu_ps(numbers.as_mut_ptr(), lanes) };
    numbers.iter().sum()
}

#[target_feature(enable = "avx2,fma")]
fn score_avx2(query: &[f32], keys: &[f32], head: usize, scores: &mut [f32]) {
    const N: usize = 8;
    let count = keys.len() / query.len();
    for (place, key) in keys.chunks_exact(query.len()).enumerate() {
        let heads = query.chunks_exact(head).zip(key.chunks_exact(head));
        for (number, (query, key)) in heads.enumerate() {
            let mut sums = _mm256_setzero_ps();
            let ((query, query_rest), (key, key_rest)) =
                (query.as_chunks::<N>(), key.as_chunks::<N>());
            for (query, key) in query.iter().zip(key) {
                // SAFETY: each chunk has 8 numbers.
                let (query, key) = unsafe {
                    (
                        _mm256_loadu_ps(query.as_ptr()),
                        _mm256_loadu_ps(key.as_ptr()),
                    )
                };
                sums = _mm256_fmadd_ps(query, key, sums);
            }
            let rest = query_rest.iter().zip(key_rest);
            let rest: f32 = rest.map(|(query, key)| query * key).sum();
            scores[number * count + place] = sum_of_lanes(sums) + rest;
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn mix_avx2(scores: &[f32], values: &[f32], head: usize, out: &mut [f32]) {
    const N: usize = 8;
    let width = out.len();
    let count = values.len() / width;
    let whole = count / ROWS * ROWS;
    for place in (0..whole).step_by(ROWS) {
        for (number, out) in out.chunks_exact_mut(head).enumerate() {
            let weights: [f32; ROWS] =
                std::array::from_fn(|row| scores[number * count + place + row]);
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|row| &values[(place + row) * width + number * head..][..head]);
            let row_chunks = rows.map(|row| row.as_chunks::<N>());
            let (out_chunks, out_rest) = out.as_chunks_mut::<N>();
            for (column, out) in out_chunks.iter_mut().enumerate() {
                // SAFETY: each chunk has 8 numbers.
                let mut sums = unsafe { _mm256_loadu_ps(out.as_ptr()) };
                for (weight, (row, _)) in weights.iter().zip(row_chunks) {
                    // SAFETY: as above.
                    let row = unsafe { _mm256_loadu_ps(row[column].as_ptr()) };
                    sums = _mm256_fmadd_ps(_mm256_set1_ps(*weight), row, sums);
                }
                // SAFETY: as above.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sums) };
            }
            for (weight, (_, row)) in weights.iter().zip(row_chunks) {
                for (out, value) in out_rest.iter_mut().zip(row) {
                    *out += weight * value;
                }
            }
        }
    }
    mix_rest(scores, values, head, out, whole);
}

#[target_feature(enable = "avx512f")]
fn score_avx512(query: &[f32], keys: &[f32], head: usize, scores: &mut [f32]) {
    const N: usize = 16;
    let count = keys.len() / query.len();
    for (place, key) in keys.chunks_exact(query.len()).enumerate() {
        let heads = query.chunks_exact(head).zip(key.chunks_exact(head));
        for (number, (query, key)) in heads.enumerate() {
            let mut sums = _mm512_setzero_ps();
            let ((query, query_rest), (key, key_rest)) =
                (query.as_chunks::<N>(), key.as_chunks::<N>());
            for (query, key) in query.iter().zip(key) {
                // SAFETY: each chunk has 16 numbers.
                let (query, key) = unsafe {
                    (
                        _mm512_loadu_ps(query.as_ptr()),
                        _mm512_loadu_ps(key.as_ptr()),
                    )
                };
                sums = _mm512_fmadd_ps(query, key, sums);
            }
            let rest = query_rest.iter().zip(key_rest);
            let rest: f32 = rest.map(|(query, key)| query * key).sum();
            scores[number * count + place] = _mm512_reduce_add_ps(sums) + rest;
        }
    }
}

#[target_feature(enable = "avx512f")]
fn mix_avx512(scores: &[f32], values: &[f32], head: usize, out: &mut [f32]) {
    const N: usize = 16;
    let width = out.len();
    let count = values.len() / width;
    let whole = count / ROWS * ROWS;
    for place in (0..whole).step_by(ROWS) {
        for (number, out) in out.chunks_exact_mut(head).enumerate() {
            let weights: [f32; ROWS] =
                std::array::from_fn(|row| scores[number * count + place + row]);
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|row| &values[(place + row) * width + number * head..][..head]);
            let row_chunks = rows.map(|row| row.as_chunks::<N>());
            let (out_chunks, out_rest) = out.as_chunks_mut::<N>();
            for (column, out) in out_chunks.iter_mut().enumerate() {
                // SAFETY: each chunk has 16 numbers.
                let mut sums = unsafe { _mm512_loadu_ps(out.as_ptr()) };
                for (weight, (row, _)) in weights.iter().zip(row_chunks) {
                    // SAFETY: as above.
                    let row = unsafe { _mm512_loadu_ps(row[column].as_ptr()) };
                    sums = _mm512_fmadd_ps(_mm512_set1_ps(*weight), row, sums);
                }
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
            }
            for (weight, (_, row)) in weights.iter().zip(row_chunks) {
                for (out, value) in out_rest.iter_mut().zip(row) {
                    *out += weight * value;
                }
            }
        }
    }
    mix_rest(scores, values, head, out, whole);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            let (mut scores, mut mixed) = (vec![0.0; heads * count], vec![1.0; width]);
            crate::kernels::attention::score_plain(&query, &rows, head, &mut scores);
            crate::kernels::attention::mix_plain(&weights, &rows, head, &mut mixed);
            for level in Level::all() {
                let (mut found, mut sums) = (vec![0.0; heads * count], vec![1.0; width]);
                score(level, &query, &rows, head, &mut found);
                mix(level, &weights, &rows, head, &mut sums);
                for (found, expected) in found.iter().zip(&scores).chain(sums.iter().zip(&mixed)) {
                    prop_assert!((found - expected).abs() < 1e-4, "{:?}: {} {}", level, found, expected);
                }
            }
        }
    }
}
