//! Products of rows with panels, with the vector instructions of 64-bit ARM processors. All of them have NEON; those for
//! dot products of 8-bit numbers came later.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x4_t, int16x8_t, int32x4_t, vcreate_u8, vdup_n_f32, vdupq_n_f32,
    vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, veorq_s8, vfmaq_n_f32, vget_low_u16, vld1q_f32, vld1q_s8,
    vld2q_s16, vld4_s8, vmovl_s8, vmovl_u8, vreinterpret_s16_f32, vreinterpret_s16_u16, vst1q_f32,
    vst1q_s32,
};
use std::arch::{asm, is_aarch64_feature_detected};

use super::PANEL;

/// Columns that are loaded together.
const BLOCK: usize = 8;

/// Multiplies rows with a panel of pairs; see the function of this name in the module above.
#[inline]
pub(super) fn multiply_pairs<const R: usize>(
    rows: [&[i16]; R],
    panel: &[i16],
    sums: &mut [i32],
    stride: usize,
) {
    // SAFETY: all these processors have NEON.
    unsafe {
        if R == 1 {
            pairs::<R, 8>(rows, panel, sums, stride);
        } else {
            pairs::<R, 2>(rows, panel, sums, stride);
        }
    }
}

/// Multiplies rows with a panel of fours; see the function of this name in the module above.
#[inline]
pub(super) fn multiply_fours<const R: usize>(
    rows: [&[u8]; R],
    panel: &[i8],
    sums: &mut [i32],
    stride: usize,
) {
    if is_aarch64_feature_detected!("dotprod") {
        // SAFETY: the processor has these instructions, as was just checked.
        unsafe { fours_by_dots(rows, panel, sums, stride) };
    } else {
        // SAFETY: all these processors have NEON.
        unsafe { fours::<R, 1>(rows, panel, sums, stride) };
    }
}

/// Multiplies rows of 32-bit numbers with a panel; see the function of this name in the module above.
#[inline]
pub(super) fn multiply_floats<const R: usize>(
    rows: [&[f32]; R],
    panel: &[f32],
    sums: &mut [f32],
    stride: usize,
) {
    // SAFETY: all these processors have NEON.
    unsafe {
        if R == 1 {
            floats::<R, 8>(rows, panel, sums, stride);
        } else {
            floats::<R, 2>(rows, panel, sums, stride);
        }
    }
}

/// A function for one instruction set. It computes `BLOCKS` blocks of columns at a time, as many as the registers hold
/// for the number of rows. `N` numbers of each column lie side by side.
///
/// `load` loads a block, `together` prepares the numbers of a row, and `add_products` adds their products to the sums of
/// a block.
macro_rules! version {
    (
        $name:ident, $features:literal, ($row:ty, $number:ty, $n:literal, $sum:ty),
        ($zero:expr, $store:ident), ($none:expr, $load:expr), $together:expr, $add_products:expr
    ) => {
        #[target_feature(enable = $features)]
        fn $name<const R: usize, const BLOCKS: usize>(
            rows: [&[$row]; R],
            panel: &[$number],
            sums: &mut [$sum],
            stride: usize,
        ) {
            let (load, together, add_products) = ($load, $together, $add_products);
            let parts = panel.len() / ($n * PANEL);
            // A loop, because `map` would hide from the compiler that all have this many parts.
            let mut rows_of_parts: [&[[$row; $n]]; R] = [&[]; R];
            for (of_parts, row) in rows_of_parts.iter_mut().zip(rows) {
                *of_parts = &row.as_chunks::<$n>().0[..parts];
            }
            for first in (0..PANEL).step_by(BLOCKS * BLOCK) {
                let mut totals = [[[$zero; 2]; BLOCKS]; R];
                for (place, columns) in panel.chunks_exact($n * PANEL).enumerate() {
                    let columns = &columns[$n * first..$n * (first + BLOCKS * BLOCK)];
                    let mut values = [$none; BLOCKS];
                    let blocks = columns.as_chunks::<{ $n * BLOCK }>().0;
                    for (values, block) in values.iter_mut().zip(blocks) {
                        *values = load(block);
                    }
                    for (totals, row) in totals.iter_mut().zip(rows_of_parts) {
                        let row = together(row[place]);
                        for (totals, values) in totals.iter_mut().zip(values) {
                            add_products(totals, row, values);
                        }
                    }
                }
                for (number, totals) in totals.iter().enumerate() {
                    let sums = &mut sums[number * stride + first..][..BLOCKS * BLOCK];
                    let sums = sums.as_chunks_mut::<{ BLOCK / 2 }>().0;
                    for (sums, total) in sums.iter_mut().zip(totals.as_flattened()) {
                        // SAFETY: the chunk is a vector long.
                        unsafe { $store(sums.as_mut_ptr(), *total) };
                    }
                }
            }
        }
    };
}

/// Adds the products of a vector with one number of a row.
///
/// The compiler would take the intrinsics for these instructions apart: it widens the numbers first, for which there are
/// not enough registers.
#[inline]
#[target_feature(enable = "neon")]
fn add_lane<const LANE: usize>(
    [low, high]: &mut [int32x4_t; 2],
    row: int16x4_t,
    values: int16x8_t,
) {
    // SAFETY: they change nothing but the totals. All these processors have the instructions.
    unsafe {
        asm!(
            "smlal {low:v}.4s, {values:v}.4h, {row:v}.h[{lane}]",
            "smlal2 {high:v}.4s, {values:v}.8h, {row:v}.h[{lane}]",
            low = inout(vreg) *low,
            high = inout(vreg) *high,
            values = in(vreg) values,
            // The others cannot be read by lanes of 16 bits.
            row = in(vreg_low16) row,
            lane = const LANE,
            options(pure, nomem, nostack),
        );
    }
}

version!(
    floats,
    "neon",
    (f32, f32, 1, f32),
    (vdupq_n_f32(0.0), vst1q_f32),
    ([vdupq_n_f32(0.0); 2], |block: &[f32; BLOCK]| {
        // SAFETY: the block is two vectors long.
        unsafe { [vld1q_f32(block.as_ptr()), vld1q_f32(block.as_ptr().add(4))] }
    }),
    |[value]: [f32; 1]| value,
    |totals: &mut [float32x4_t; 2], row: f32, values: [float32x4_t; 2]| {
        for (total, values) in totals.iter_mut().zip(values) {
            *total = vfmaq_n_f32(*total, values, row);
        }
    }
);
// The first numbers of all columns of a block are separated from the second ones.
version!(
    pairs,
    "neon",
    (i16, i16, 2, i32),
    (vdupq_n_s32(0), vst1q_s32),
    ([vdupq_n_s16(0); 2], |block: &[i16; 2 * BLOCK]| {
        // SAFETY: the block is two vectors long.
        let values = unsafe { vld2q_s16(block.as_ptr()) };
        [values.0, values.1]
    }),
    |[first, second]: [i16; 2]| {
        let pair = (u32::from(second.cast_unsigned()) << 16) | u32::from(first.cast_unsigned());
        vreinterpret_s16_f32(vdup_n_f32(f32::from_bits(pair)))
    },
    |totals: &mut [int32x4_t; 2], row: int16x4_t, values: [int16x8_t; 2]| {
        add_lane::<0>(totals, row, values[0]);
        add_lane::<1>(totals, row, values[1]);
    }
);
version!(
    fours,
    "neon",
    (u8, i8, 4, i32),
    (vdupq_n_s32(0), vst1q_s32),
    ([vdupq_n_s16(0); 4], |block: &[i8; 4 * BLOCK]| {
        // SAFETY: the block is four half vectors long.
        let values = unsafe { vld4_s8(block.as_ptr()) };
        [
            vmovl_s8(values.0),
            vmovl_s8(values.1),
            vmovl_s8(values.2),
            vmovl_s8(values.3),
        ]
    }),
    |numbers| {
        let numbers = vcreate_u8(u64::from(u32::from_le_bytes(numbers)));
        vreinterpret_s16_u16(vget_low_u16(vmovl_u8(numbers)))
    },
    |totals: &mut [int32x4_t; 2], row: int16x4_t, values: [int16x8_t; 4]| {
        add_lane::<0>(totals, row, values[0]);
        add_lane::<1>(totals, row, values[1]);
        add_lane::<2>(totals, row, values[2]);
        add_lane::<3>(totals, row, values[3]);
    }
);
// Both factors of a dot product have a sign or none has. So 128 is added to the panel's numbers, by their highest bits.
version!(
    raised_fours,
    "neon,dotprod",
    (u8, i8, 4, i32),
    (vdupq_n_s32(0), vst1q_s32),
    ([vdupq_n_s8(0); 2], |block: &[i8; 4 * BLOCK]| {
        // SAFETY: the block is two vectors long.
        let values = unsafe { [vld1q_s8(block.as_ptr()), vld1q_s8(block.as_ptr().add(16))] };
        [
            veorq_s8(values[0], vdupq_n_s8(i8::MIN)),
            veorq_s8(values[1], vdupq_n_s8(i8::MIN)),
        ]
    }),
    // A float, because it is loaded into a vector register at once.
    |numbers| f32::from_bits(u32::from_le_bytes(numbers)),
    |totals: &mut [int32x4_t; 2], row: f32, values: [int8x16_t; 2]| {
        for (total, values) in totals.iter_mut().zip(values) {
            // SAFETY: it changes nothing but the total. The function is for processors that have the instruction.
            unsafe {
                asm!(
                    "udot {total:v}.4s, {values:v}.16b, {row:v}.4b[0]",
                    total = inout(vreg) *total,
                    values = in(vreg) values,
                    row = in(vreg) row,
                    options(pure, nomem, nostack),
                );
            }
        }
    }
);

/// Multiplies rows with a panel of fours by dot products.
#[target_feature(enable = "neon,dotprod")]
fn fours_by_dots<const R: usize>(rows: [&[u8]; R], panel: &[i8], sums: &mut [i32], stride: usize) {
    raised_fours::<R, 2>(rows, panel, sums, stride);
    for (number, row) in rows.iter().enumerate() {
        let row = row[..panel.len() / PANEL].iter();
        let excess = 128 * row.map(|value| i32::from(*value)).sum::<i32>();
        for sum in &mut sums[number * stride..][..PANEL] {
            // Raised sums of very long rows may have overflowed.
            *sum = sum.wrapping_sub(excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::panels::{multiply_floats_plain, multiply_plain};

    /// A way to multiply six rows with a panel of fours.
    type Fours = unsafe fn([&[u8]; 6], &[i8], &mut [i32], usize);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// The largest numbers as well.
        #[test]
        fn the_sums_of_pairs_are_exact(
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
            let mut found = vec![0; 6 * stride];
            multiply_pairs(rows, &panel, &mut found, stride);
            prop_assert_eq!(&found, &expected);
            let mut one = vec![0; PANEL];
            multiply_pairs([rows[0]], &panel, &mut one, stride);
            prop_assert_eq!(&one[..], &expected[..PANEL]);
        }

        /// The products are added in the same order, each rounded once.
        #[test]
        fn the_sums_of_floats_are_the_same(
            (rows, panel) in (1_usize..100).prop_flat_map(|width| (
                prop::collection::vec(prop::collection::vec(-2.0_f32..2.0, width), 6),
                prop::collection::vec(-2.0_f32..2.0, width * PANEL),
            )),
        ) {
            let stride = PANEL + 5;
            let rows: [&[f32]; 6] = std::array::from_fn(|row| &rows[row][..]);
            let mut expected = vec![0.0; 6 * stride];
            multiply_floats_plain(rows, &panel, &mut expected, stride);
            let mut found = vec![0.0; 6 * stride];
            multiply_floats(rows, &panel, &mut found, stride);
            prop_assert_eq!(&found, &expected);
            let mut one = vec![0.0; PANEL];
            multiply_floats([rows[0]], &panel, &mut one, stride);
            prop_assert_eq!(&one[..], &expected[..PANEL]);
        }

        /// The largest numbers as well.
        #[test]
        fn the_sums_of_fours_are_exact(
            (rows, panel) in (1_usize..200).prop_flat_map(|fours| (
                prop::collection::vec(prop::collection::vec(any::<u8>(), 4 * fours), 6),
                prop::collection::vec(-127_i8..=127, 4 * fours * PANEL),
            )),
            extreme in prop::sample::select(vec![None, Some(-127), Some(127)]),
        ) {
            let (rows, panel) = match extreme {
                Some(most) => (vec![vec![255; rows[0].len()]; 6], vec![most; panel.len()]),
                None => (rows, panel),
            };
            let stride = PANEL + 5;
            let rows: [&[u8]; 6] = std::array::from_fn(|row| &rows[row][..]);
            let mut expected = vec![0; 6 * stride];
            multiply_plain::<4, 6, _, _>(rows, &panel, &mut expected, stride);
            let mut ways: Vec<(&str, Fours)> = vec![("widened", fours::<6, 1>)];
            if is_aarch64_feature_detected!("dotprod") {
                ways.push(("by dots", fours_by_dots::<6>));
            }
            for (name, way) in ways {
                let mut found = vec![0; 6 * stride];
                // SAFETY: the processor has these instructions, as was just checked.
                unsafe { way(rows, &panel, &mut found, stride) };
                prop_assert_eq!(&found, &expected, "{}", name);
            }
        }
    }
}
