//! Measures the time of each part of a chunk's work in one process: a fresh state, the spectrogram,
//! encoder passes of several window lengths, and decoder steps; and the share of the machine's peak that the
//! encoder reaches.
//!
//! ```text
//! cargo run --release --example measure_encoder -- --model ggml-base.bin [--threads 2]
//!     [--windows 384,512,1024,1500] [--peak-gflops 250]
//! ```
//!
//! Every figure is the median of `--repeat` runs. The number of the encoder's floating-point operations
//! follows from the shapes of its matrix products; a multiplication with addition counts as two.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
// Links the replacement of whisper.cpp's convolution.
use uttera_stt as _;
use uttera_stt::engine::ggml_hooks;
use whisper_rs::{
    FullParams, SamplingStrategy, WhisperContext, WhisperContextParameters, WhisperState,
};

#[derive(Parser)]
struct Cli {
    /// Path of a ggml file.
    #[arg(long)]
    model: PathBuf,
    /// Threads of one inference.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Comma-separated encoder windows, in frames of 20 ms.
    #[arg(long, value_delimiter = ',', default_value = "384,512,768,1024,1500")]
    windows: Vec<i32>,
    /// Number of runs for each figure.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// The machine's peak in GFLOP/s, to print the share that the encoder reaches.
    #[arg(long)]
    peak_gflops: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    let args = Cli::parse();
    whisper_rs::install_logging_hooks();
    ggml_hooks::check().map_err(anyhow::Error::msg)?;
    let mut parameters = WhisperContextParameters::default();
    parameters.use_gpu(false).flash_attn(false);
    let begin = Instant::now();
    let model = WhisperContext::new_with_params(&args.model, parameters)?;
    println!("load: {:.1} ms", begin.elapsed().as_secs_f64() * 1e3);
    println!("built for: {}", whisper_rs::print_system_info());
    let repeat = args.repeat;
    let fresh = median(repeat, || model.create_state().map(drop))?;
    println!("fresh state: {:.1} ms", fresh * 1e3);
    let mut state = model.create_state()?;
    let samples = noise(6.0);
    let spectrogram = median(repeat, || state.pcm_to_mel(&samples, args.threads))?;
    println!("spectrogram of 6 s: {:.1} ms", spectrogram * 1e3);
    for window in &args.windows {
        set_window(&mut state, *window, &samples);
        let seconds = median(repeat, || state.encode(0, args.threads))?;
        let gflops = encoder_operations(&model, *window) / seconds / 1e9;
        let share = args.peak_gflops.map_or_else(String::new, |peak| {
            format!(", {:.0} % of the peak", 100.0 * gflops / peak)
        });
        println!(
            "encoder, {window:4} frames: {:7.1} ms, {gflops:6.1} GFLOP/s{share}",
            seconds * 1e3
        );
        let tokens = [50_258; 1];
        let mut place = 4;
        state.decode(&[50_258, 50_259, 50_359, 50_363], 0, args.threads)?;
        let step = median(repeat * 4, || {
            place += 1;
            state.decode(&tokens, place, args.threads)
        })?;
        println!("  decoder step: {:.2} ms", step * 1e3);
    }
    Ok(())
}

fn median<T, E: std::error::Error + Send + Sync + 'static>(
    repeat: usize,
    mut run: impl FnMut() -> Result<T, E>,
) -> anyhow::Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..repeat {
        let begin = Instant::now();
        run()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds.get(repeat / 2).copied().context("no runs")
}

/// Audio with energy in every frequency band; its content does not affect the time.
fn noise(seconds: f64) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..(seconds * 16_000.0) as usize).map(|_| next()).collect()
}

/// Only a transcription sets the window, so this runs one that stops before the encoder.
fn set_window(state: &mut WhisperState, window: i32, samples: &[f32]) {
    unsafe extern "C" fn never(
        _context: *mut whisper_rs::whisper_rs_sys::whisper_context,
        _state: *mut whisper_rs::whisper_rs_sys::whisper_state,
        _user_data: *mut std::ffi::c_void,
    ) -> bool {
        false
    }
    let mut parameters = FullParams::new(SamplingStrategy::Greedy { best_of: 1 });
    parameters.set_language(Some("en"));
    parameters.set_audio_ctx(window);
    // SAFETY: the function ignores its arguments.
    unsafe { parameters.set_start_encoder_callback(Some(never)) };
    // whisper.cpp reports the stop as an error.
    let _ = state.full(parameters, samples);
}

/// Operations of the two convolutions, of the layers' matrix products, and of the keys and values for the
/// decoder.
fn encoder_operations(model: &WhisperContext, window: i32) -> f64 {
    let frames = f64::from(window);
    let width = f64::from(model.model_n_audio_state());
    let layers = f64::from(model.model_n_audio_layer());
    let mels = f64::from(model.model_n_mels());
    let decoder_layers = f64::from(model.model_n_text_layer());
    let convolutions = 2.0 * frames * 3.0 * mels * width + frames * 3.0 * width * width;
    // Query, key, value and output; two products of four times the width; attention.
    let layer = frames * (4.0 + 8.0) * width * width + 2.0 * frames * frames * width;
    let crossing = decoder_layers * frames * 2.0 * width * width;
    2.0 * (convolutions + layers * layer + crossing)
}
