//! Where whisper.cpp's own ways are slow on a CPU, ours stand in for them: the linker sends its calls
//! here (`--wrap` in `build.rs`), on Linux.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod matrix_product;
#[cfg(target_os = "linux")]
pub mod threads;
