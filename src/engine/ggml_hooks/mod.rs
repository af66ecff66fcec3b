//! Replacements for ggml functions, hooked in by the linker (`--wrap` in `build.rs`), on Linux.
//!
//! | module | hooks | purpose |
//! |---|---|---|
//! | `conv_float32` | `ggml_conv_1d_ph` | models with 32-bit weights |
//! | `matrix_product` | `llamafile_sgemm` | faster products of matrices; `layout` checks the struct that it reads |
//! | `threads` | `ggml_graph_plan` | fewer threads for short operations |
//! | `reuse` | `ggml_graph_compute` | skips graphs whose result is there already |
//! | `observe` | `ggml_backend_sched_graph_compute` | reads attention weights and logits |
//!
//! They depend on internals of whisper.cpp, so `Cargo.toml` pins `whisper-rs` exactly, `build.rs` checks the version of
//! whisper.cpp, and [`check`] the layout of the one private struct.

mod conv_float32;
#[cfg(fast_products)]
mod layout;
#[cfg(fast_products)]
pub mod matrix_product;
#[cfg(target_os = "linux")]
pub mod observe;
#[cfg(target_os = "linux")]
pub mod reuse;
#[cfg(target_os = "linux")]
pub mod threads;

/// Verifies that the hooks fit the ggml that they are linked with. Models must not be used before.
///
/// # Errors
/// They do not; one line for people.
pub fn check() -> Result<(), String> {
    #[cfg(fast_products)]
    layout::check()?;
    Ok(())
}

/// Elsewhere, everything is computed.
#[cfg(not(target_os = "linux"))]
pub mod reuse {
    /// Nothing can be passed over.
    pub const AVAILABLE: bool = false;

    /// Nothing is known of what `work` computes.
    pub fn counted<R>(work: impl FnOnce() -> R) -> (R, u32) {
        (work(), 0)
    }

    /// Nothing is passed over.
    pub fn skip(_graphs: u32) {}
}

/// Elsewhere, nothing is seen.
#[cfg(not(target_os = "linux"))]
pub mod observe {
    use std::sync::atomic::AtomicBool;

    /// Nothing can be seen.
    pub const AVAILABLE: bool = false;

    /// A head of the decoder's attention to the audio.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Head {
        /// Layer of the decoder.
        pub layer: usize,
        /// Head in it.
        pub head: usize,
    }

    /// What some heads attended to.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Attention {
        /// Tokens that went in.
        pub tokens: usize,
        /// Frames of 20 ms.
        pub frames: usize,
        /// None.
        pub heads: Vec<Vec<f32>>,
    }

    /// Nothing is kept.
    pub fn want_logits(_token: i32) {}

    /// Nothing is there.
    pub fn logits() -> Option<Vec<f32>> {
        None
    }

    /// Nothing is seen.
    pub fn attention<R>(
        _heads: &[Head],
        _abort: &AtomicBool,
        work: impl FnOnce() -> R,
    ) -> (R, Attention) {
        (work(), Attention::default())
    }
}
