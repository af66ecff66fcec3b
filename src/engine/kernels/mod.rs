//! Where whisper.cpp's own ways are slow on a CPU, ours stand in for them: the linker sends its calls
//! here (`--wrap` in `build.rs`), on Linux.

#[cfg(fast_products)]
pub mod matrix_product;
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
