//! Element types of ggml, and their conversion to 32-bit numbers.
//!
//! Quantised types store blocks of 32 elements with a scale, and some with an offset. Layouts are those of
//! `ggml-common.h`.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements of a quantised block.
const BLOCK: usize = 32;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// 4 bits and a scale.
    Q4_0,
    /// 4 bits, a scale and an offset.
    Q4_1,
    /// 5 bits and a scale.
    Q5_0,
    /// 5 bits, a scale and an offset.
    Q5_1,
    /// 8 bits and a scale.
    Q8_0,
}

impl ElementType {
    /// The type with ggml's number, if this crate reads it.
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            _ => return None,
        })
    }

    /// Elements and bytes of a block.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 => (1, 2),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q5_1 => (BLOCK, 24),
            Self::Q8_0 => (BLOCK, 34),
        }
    }

    /// Bytes of this many elements; `None` if they are not whole blocks, or too many.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        (count.is_multiple_of(elements))
            .then(|| (count / elements).checked_mul(bytes))
            .flatten()
    }

    /// Converts whole blocks and appends their elements to `values`.
    pub fn decode(self, data: &[u8], values: &mut Vec<f32>) {
        if self == Self::F16 {
            let halves: Vec<f16> = (data.as_chunks::<2>().0.iter())
                .map(|bytes| f16::from_le_bytes(*bytes))
                .collect();
            let before = values.len();
            values.resize(before + halves.len(), 0.0);
            halves.convert_to_f32_slice(&mut values[before..]);
            return;
        }
        let (elements, bytes) = self.block();
        values.reserve(data.len() / bytes * elements);
        for block in data.chunks_exact(bytes) {
            self.decode_block(block, values);
        }
    }

    fn decode_block(self, block: &[u8], values: &mut Vec<f32>) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        match self {
            Self::F32 => values.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
            Self::F16 => values.push(half(0)),
            Self::Q8_0 => {
                let scale = half(0);
                values.extend(
                    block[2..]
                        .iter()
                        .map(|q| scale * f32::from(q.cast_signed())),
                );
            }
            Self::Q4_0 => {
                let scale = half(0);
                values.extend(fours(&block[2..]).map(|q| scale * (f32::from(q) - 8.0)));
            }
            Self::Q4_1 => {
                let (scale, offset) = (half(0), half(2));
                values.extend(fours(&block[4..]).map(|q| scale * f32::from(q) + offset));
            }
            Self::Q5_0 => {
                let (scale, high) = (half(0), &block[2..6]);
                let fives = fours(&block[6..]).zip(fifth_bits(high));
                values.extend(fives.map(|(q, bit)| scale * (f32::from(q | bit) - 16.0)));
            }
            Self::Q5_1 => {
                let (scale, offset, high) = (half(0), half(2), &block[4..8]);
                let fives = fours(&block[8..]).zip(fifth_bits(high));
                values.extend(fives.map(|(q, bit)| scale * f32::from(q | bit) + offset));
            }
        }
    }
}

/// The low halves of all bytes, then the high ones.
fn fours(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let low = bytes.iter().map(|byte| byte & 0x0f);
    low.chain(bytes.iter().map(|byte| byte >> 4))
}

/// One bit for each element, in the place of its fifth bit.
fn fifth_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (0..BLOCK).map(move |place| ((bits >> place & 1) << 4) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(head: &[f32], rest: &[u8]) -> Vec<u8> {
        let halves = head
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes());
        halves.chain(rest.iter().copied()).collect()
    }

    fn decoded(kind: ElementType, data: &[u8]) -> Vec<f32> {
        let mut values = Vec::new();
        kind.decode(data, &mut values);
        values
    }

    #[test]
    fn halves_are_converted_in_order() {
        let data: Vec<u8> = (-20..20)
            .flat_map(|n| f16::from_f32(n as f32 / 4.0).to_le_bytes())
            .collect();
        let expected: Vec<f32> = (-20..20).map(|n| n as f32 / 4.0).collect();
        assert_eq!(decoded(ElementType::F16, &data), expected);
    }

    #[test]
    fn blocks_of_each_type_have_the_values_that_ggml_gives_them() {
        let ascending: Vec<u8> = (0..32).collect();
        let q8 = decoded(ElementType::Q8_0, &block(&[0.5], &ascending));
        assert_eq!((q8[0], q8[31]), (0.0, 15.5));
        // The low half of byte n is element n, the high half element n + 16.
        let fours: Vec<u8> = (0..16).map(|n| n | (15 - n) << 4).collect();
        let q4 = decoded(ElementType::Q4_0, &block(&[2.0], &fours));
        assert_eq!((q4[0], q4[15], q4[16], q4[31]), (-16.0, 14.0, 14.0, -16.0));
        let q4 = decoded(ElementType::Q4_1, &block(&[2.0, 1.0], &fours));
        assert_eq!((q4[0], q4[15], q4[16]), (1.0, 31.0, 31.0));
        // The fifth bits of elements 0 and 31.
        let bits = 0x8000_0001_u32.to_le_bytes();
        let fives = [&bits[..], &fours].concat();
        let q5 = decoded(ElementType::Q5_0, &block(&[1.0], &fives));
        assert_eq!((q5[0], q5[1], q5[31]), (0.0, -15.0, 0.0));
        let q5 = decoded(ElementType::Q5_1, &block(&[1.0, 0.5], &fives));
        assert_eq!((q5[0], q5[1], q5[31]), (16.5, 1.5, 16.5));
    }

    #[test]
    fn only_whole_blocks_have_a_size() {
        assert_eq!(ElementType::F16.bytes(3), Some(6));
        assert_eq!(ElementType::Q5_1.bytes(64), Some(48));
        assert_eq!(ElementType::Q5_1.bytes(33), None);
        assert_eq!(ElementType::F32.bytes(usize::MAX), None);
    }
}
