//! Where whisper.cpp's own ways are slow on a CPU, ours stand in for them, and where it does not tell
//! what it knows, ours look: the linker sends its calls here (`--wrap` in `build.rs`), on Linux.

mod conv_float32;
#[cfg(fast_products)]
pub mod matrix_product;
#[cfg(target_os = "linux")]
pub mod observe;
#[cfg(target_os = "linux")]
pub mod reuse;
#[cfg(target_os = "linux")]
pub mod threads;

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
