//! Worker processes, the engine in them, and the GPU probe.

mod nvml_probe;
mod process;
mod segments;
mod vram;
