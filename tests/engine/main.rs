//! Worker processes, the engine in them, and the GPU probe.

mod native;
mod nvml_probe;
mod process;
mod segments;
mod vram;
