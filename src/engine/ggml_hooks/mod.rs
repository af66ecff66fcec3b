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
/// They do not fit; the message is one line.
pub fn check() -> Result<(), String> {
    #[cfg(fast_products)]
    layout::check()?;
    Ok(())
}

/// On other platforms, every graph is computed.
#[cfg(not(target_os = "linux"))]
pub mod reuse {
    /// Graphs cannot be skipped.
    pub const AVAILABLE: bool = false;

    /// Runs `work` and counts no graphs.
    pub fn counted<R>(work: impl FnOnce() -> R) -> (R, u32) {
        (work(), 0)
    }

    /// Does nothing.
    pub fn skip(_graphs: u32) {}
}

/// On other platforms, nothing is recorded.
#[cfg(not(target_os = "linux"))]
pub mod observe {
    use std::sync::atomic::AtomicBool;

    /// Graphs cannot be observed.
    pub const AVAILABLE: bool = false;

    /// A head of the decoder's attention to the audio.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Head {
        /// Layer of the decoder.
        pub layer: usize,
        /// Head in it.
        pub head: usize,
    }

    /// Attention weights of some heads.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Attention {
        /// Number of input tokens.
        pub tokens: usize,
        /// Number of frames of 20 ms.
        pub frames: usize,
        /// Always empty.
        pub heads: Vec<Vec<f32>>,
    }

    /// Does nothing.
    pub fn want_logits(_token: i32) {}

    /// Always `None`.
    pub fn logits() -> Option<Vec<f32>> {
        None
    }

    /// Runs `work` and records nothing.
    pub fn attention<R>(
        _heads: &[Head],
        _abort: &AtomicBool,
        work: impl FnOnce() -> R,
    ) -> (R, Attention) {
        (work(), Attention::default())
    }
}
