//! The loops that take the time.
//!
//! Most are written once, in plain Rust, in a shape that the compiler turns into vector instructions, and compiled for
//! several instruction sets; the choice is made at run time. So the plain version, which runs on any processor, is the
//! definition of what the others compute. They may differ in the last bits, where products and sums fuse. The innermost
//! products ([`multiply_panel`] and its like, [`dot_rows`]) name their instructions, and have a plain version too.

// A function is compiled for an instruction set only where it is inlined into one that asks for it.
#![allow(clippy::inline_always)]

mod attention;
mod elementwise;
mod panels;
mod products;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attention::{Head, attend, attend_heads};
pub use elementwise::{add, gelu, layer_norm, log_sum_exp, maximum, powers, scale, sigmoid, tanh};
pub use panels::{PANEL, ROWS, largest_weight, multiply_float_panel, multiply_panel};
pub use products::{
    COLUMNS, QuantisedRow, ZERO, dot_columns, dot_floats, dot_rows, quantise_row, quantise_signed,
    quantise_unsigned,
};

/// Compiles a function for several instruction sets, and calls the best one that the processor has. The function's
/// parameter says whether [`mul_add`] is one instruction.
macro_rules! for_each_processor {
    ($(#[$meta:meta])* $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? = $plain:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name($($argument: $kind),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($argument: $kind),*) $(-> $result)? {
                    $plain::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments)]
                fn middle($($argument: $kind),*) $(-> $result)? {
                    $plain::<true>($($argument),*)
                }
                let fuses = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                let is_wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq");
                if fuses && is_wide {
                    // SAFETY: the processor has these instructions, as was just checked.
                    return unsafe { wide($($argument),*) };
                }
                if fuses {
                    // SAFETY: the processor has these instructions, as was just checked.
                    return unsafe { middle($($argument),*) };
                }
            }
            $plain::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
use for_each_processor;

/// `a × b + c`, rounded once if that is one instruction.
#[inline(always)]
fn mul_add<const FUSES: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSES { a.mul_add(b, c) } else { a * b + c }
}
