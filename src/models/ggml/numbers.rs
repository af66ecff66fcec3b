//! Conversion between numbers and little-endian bytes, in bulk.
//!
//! The functions work on preallocated slices, since they process every weight of a model.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Reads 32-bit floats.
pub(crate) fn f32_from_bytes(bytes: &[u8]) -> Vec<f32> {
    map(bytes, f32::from_le_bytes)
}

/// Reads 16-bit floats.
pub(crate) fn f32_from_f16_bytes(bytes: &[u8]) -> Vec<f32> {
    let halves = map(bytes, f16::from_le_bytes);
    let mut values = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut values);
    values
}

/// Reads 16-bit floats with the exponent of 32-bit ones.
pub(crate) fn f32_from_bf16_bytes(bytes: &[u8]) -> Vec<f32> {
    map(bytes, |pair| {
        f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)
    })
}

/// Reads 16-bit integers.
pub(crate) fn f32_from_i16_bytes(bytes: &[u8]) -> Vec<f32> {
    map(bytes, |pair| f32::from(i16::from_le_bytes(pair)))
}

/// Reads 8-bit integers.
pub(crate) fn f32_from_i8_bytes(bytes: &[u8]) -> Vec<f32> {
    map(bytes, |[byte]: [u8; 1]| f32::from(byte.cast_signed()))
}

/// Writes 32-bit floats.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 4];
    for (slot, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *slot = value.to_le_bytes();
    }
    bytes
}

/// Rounds to 16-bit floats (to nearest, ties to even) and writes those.
pub(crate) fn f16_bytes(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    let mut bytes = vec![0; values.len() * 2];
    for (slot, half) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(&halves) {
        *slot = half.to_le_bytes();
    }
    bytes
}

/// Callers pass whole rows; bytes of an incomplete last number are ignored.
fn map<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let chunks = bytes.as_chunks::<N>().0;
    let mut values = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        values.push(read(*chunk));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_that_are_halves_already_stay_what_they_are() {
        let bits = [0x00, 0x3c, 0x01, 0x00, 0xff, 0xfb, 0x00, 0x80];
        assert_eq!(f16_bytes(&f32_from_f16_bytes(&bits)), bits);
    }

    #[test]
    fn every_kind_of_number_is_read_as_what_it_means() {
        assert_eq!(f32_from_bytes(&f32_bytes(&[1.5, -2.0e-8])), [1.5, -2.0e-8]);
        assert_eq!(f32_from_bf16_bytes(&[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(f32_from_i16_bytes(&[0xff, 0xff, 0x00, 0x01]), [-1.0, 256.0]);
        assert_eq!(f32_from_i8_bytes(&[0x80, 0x7f]), [-128.0, 127.0]);
    }
}
