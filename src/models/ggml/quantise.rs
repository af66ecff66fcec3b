//! Quantises blocks of weights with ggml's functions.

use std::num::NonZero;
use std::thread;

use whisper_rs::whisper_rs_sys as ggml;

use super::ElementType;
use super::numbers::{f16_bytes, f32_bytes};

/// Encodes whole rows of `width` values each in the wanted type.
///
/// # Panics
///
/// If the values are not whole rows, or the rows not whole blocks. Reading the tensor table checks both.
pub(crate) fn encode(values: &[f32], width: usize, element: ElementType) -> Vec<u8> {
    if element == ElementType::F32 {
        return f32_bytes(values);
    }
    if element == ElementType::F16 {
        return f16_bytes(values);
    }
    assert_eq!(values.len() % width, 0, "values are whole rows");
    assert_eq!(width as u64 % element.block, 0, "rows are whole blocks");
    let rows = values.len() / width;
    let row_bytes = width / element.block as usize * element.block_bytes as usize;
    let mut encoded = vec![0u8; rows * row_bytes];
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let rows_per_thread = rows.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts = values
            .chunks(rows_per_thread * width)
            .zip(encoded.chunks_mut(rows_per_thread * row_bytes));
        for (source, target) in parts {
            scope.spawn(move || quantise_rows(source, width, element, target));
        }
    });
    encoded
}

fn quantise_rows(source: &[f32], width: usize, element: ElementType, target: &mut [u8]) {
    let rows = source.len() / width;
    // SAFETY: `source` holds `rows * width` floats and `target` the bytes ggml needs for them (the
    // caller sizes it by the same block sizes); no importance matrix is needed for the types that
    // ComputeType offers; ggml's tables are initialised behind its own lock.
    let written = unsafe {
        ggml::ggml_quantize_chunk(
            element.id as ggml::ggml_type,
            source.as_ptr(),
            target.as_mut_ptr().cast(),
            0,
            rows as i64,
            width as i64,
            std::ptr::null(),
        )
    };
    debug_assert_eq!(written, target.len());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ComputeType;

    #[test]
    fn eight_bit_blocks_hold_a_scale_and_the_rounded_weights() {
        // Definition of q8_0: scale = largest magnitude / 127 as f16, then 32 signed bytes.
        let values: Vec<f32> = (0..64).map(|i| (i % 32) as f32 - 16.0).collect();
        let encoded = encode(&values, 32, ElementType::of(ComputeType::Int8));
        assert_eq!(encoded.len(), 2 * 34);
        let scale = half::f16::from_le_bytes([encoded[0], encoded[1]]).to_f32();
        assert!((scale - 16.0 / 127.0).abs() < 1e-4, "{scale}");
        for (value, byte) in values.iter().zip(&encoded[2..34]) {
            assert!(
                (f32::from(byte.cast_signed()) * scale - value).abs() <= scale,
                "{value}"
            );
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let values: Vec<f32> = (0..64 * 96)
            .map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)
            .collect();
        for compute in [
            ComputeType::Int8,
            ComputeType::Q5_0,
            ComputeType::Q5_1,
            ComputeType::Q4_1,
        ] {
            let element = ElementType::of(compute);
            let whole = encode(&values, 64, element);
            let rows: Vec<u8> = values
                .chunks(64)
                .flat_map(|row| encode(row, 64, element))
                .collect();
            assert_eq!(whole, rows, "{compute}");
        }
    }
}
