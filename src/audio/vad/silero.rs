//! The network of Silero VAD (16 kHz) in plain Rust.
//!
//! It reads the published weights from a safetensors file. A frame of 32 ms, with the last 4 ms of the
//! previous one, goes through a short-time Fourier transform, four small convolutions and a recurrent cell,
//! which give the probability of speech. Layers, order and padding are those of the published model.

use std::f64::consts::TAU;
use std::path::Path;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;
use whisper_cpu::kernels::{add, sigmoid, tanh};
use whisper_cpu::linear::{Linear, Precision, Scratch};

/// Samples of a frame at 16 kHz: 32 ms.
pub const FRAME: usize = 512;
/// Samples of the previous frame that precede a frame.
const CONTEXT: usize = 64;
/// Samples of a window of the Fourier transform, and from one window to the next.
const WINDOW: usize = 256;
const HOP: usize = 128;
/// Windows in a frame.
const WINDOWS: usize = 4;
/// Frequencies per window.
const BINS: usize = WINDOW / 2 + 1;
/// Width of the recurrent cell.
const HIDDEN: usize = 128;
/// Width of every convolution.
const KERNEL: usize = 3;

/// Why weights cannot be loaded.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
    /// It is not a safetensors file.
    #[error("is not a safetensors file")]
    Format(#[from] safetensors::SafeTensorError),
    /// It is a safetensors file of another model.
    #[error("does not hold the 16 kHz network of Silero VAD: {0}")]
    Content(String),
}

/// The Fourier transform of windows with Hann's weights.
struct Fourier {
    hann: [f32; WINDOW],
    transform: Arc<dyn RealToComplex<f32>>,
}

impl std::fmt::Debug for Fourier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fourier")
    }
}

impl Fourier {
    /// The published network stores the transform as a matrix: the real parts of all frequencies, then the imaginary
    /// ones. The fast transform takes its place.
    fn of(matrix: &[f32]) -> Result<Self, WeightsError> {
        let turn: [f64; WINDOW] =
            std::array::from_fn(|place| (TAU * place as f64 / WINDOW as f64).cos());
        let hann = turn.map(|cosine| 0.5 - 0.5 * cosine);
        let value = |row: usize, place: usize| {
            // −sin x = cos (x + a quarter)
            let quarter = if row < BINS { 0 } else { WINDOW / 4 };
            hann[place] * turn[(row % BINS * place + quarter) % WINDOW]
        };
        let mut rows = matrix.chunks_exact(WINDOW).enumerate();
        let is_transform = rows.all(|(row, found)| {
            let mut found = found.iter().enumerate();
            found.all(|(place, found)| (f64::from(*found) - value(row, place)).abs() < 1e-6)
        });
        if !is_transform {
            let message = "stft_conv.weight is not a Fourier transform";
            return Err(WeightsError::Content(message.to_owned()));
        }
        Ok(Self {
            hann: hann.map(|weight| weight as f32),
            transform: RealFftPlanner::new().plan_fft_forward(WINDOW),
        })
    }

    /// The magnitude of each frequency of each window. The windows are overwritten.
    fn magnitudes(&self, windows: &mut [f32]) -> Vec<f32> {
        let mut magnitudes = vec![0.0; windows.len() / WINDOW * BINS];
        let mut spectrum = [Complex::ZERO; BINS];
        let mut scratch = self.transform.make_scratch_vec();
        let results = magnitudes.chunks_exact_mut(BINS);
        for (window, magnitudes) in windows.chunks_exact_mut(WINDOW).zip(results) {
            for (sample, weight) in window.iter_mut().zip(&self.hann) {
                *sample *= weight;
            }
            let done = (self.transform).process_with_scratch(window, &mut spectrum, &mut scratch);
            debug_assert!(done.is_ok(), "only wrong lengths are an error");
            for (magnitude, value) in magnitudes.iter_mut().zip(&spectrum) {
                *magnitude = value.norm_sqr().sqrt();
            }
        }
        magnitudes
    }
}

/// The network's weights. Shared by all streams.
#[derive(Debug)]
pub struct Weights {
    fourier: Fourier,
    /// With the distance of their positions.
    convolutions: [(Linear, usize); 4],
    input: Linear,
    recurrent: Linear,
    output: Linear,
}

impl Weights {
    /// Reads the published file `silero_vad_16k.safetensors`.
    ///
    /// # Errors
    /// The file cannot be read, or is not the published one.
    pub fn load(path: &Path) -> Result<Self, WeightsError> {
        Self::from_bytes(&std::fs::read(path)?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, WeightsError> {
        let tensors = SafeTensors::deserialize(bytes)?;
        let bias = |name: &str, rows| values(&tensors, name, rows).map(Some);
        let layer =
            |weights: &[f32], bias, columns| Linear::new(weights, bias, columns, Precision::Float);
        let dense = |name: &str, bias, rows: usize, columns: usize| {
            Ok::<_, WeightsError>(layer(
                &values(&tensors, name, rows * columns)?,
                bias,
                columns,
            ))
        };
        let convolution = |number: usize, output, input: usize, stride| {
            let stored = values(
                &tensors,
                &format!("conv{number}.weight"),
                output * input * KERNEL,
            )?;
            // The channels of a position lie side by side, as in the inputs.
            let mut weights = Vec::with_capacity(stored.len());
            for row in stored.chunks_exact(input * KERNEL) {
                for tap in 0..KERNEL {
                    weights.extend(row.iter().skip(tap).step_by(KERNEL));
                }
            }
            let bias = bias(&format!("conv{number}.bias"), output)?;
            Ok::<_, WeightsError>((layer(&weights, bias, input * KERNEL), stride))
        };
        Ok(Self {
            fourier: Fourier::of(&values(&tensors, "stft_conv.weight", 2 * BINS * WINDOW)?)?,
            convolutions: [
                convolution(1, 128, BINS, 1)?,
                convolution(2, 64, 128, 2)?,
                convolution(3, 64, 64, 2)?,
                convolution(4, HIDDEN, 64, 1)?,
            ],
            input: dense(
                "lstm_cell.weight_ih",
                bias("lstm_cell.bias_ih", 4 * HIDDEN)?,
                4 * HIDDEN,
                HIDDEN,
            )?,
            recurrent: dense(
                "lstm_cell.weight_hh",
                bias("lstm_cell.bias_hh", 4 * HIDDEN)?,
                4 * HIDDEN,
                HIDDEN,
            )?,
            output: dense("final_conv.weight", bias("final_conv.bias", 1)?, 1, HIDDEN)?,
        })
    }
}

/// A tensor's values, if it has this many.
fn values(tensors: &SafeTensors<'_>, name: &str, count: usize) -> Result<Vec<f32>, WeightsError> {
    let tensor = tensors
        .tensor(name)
        .map_err(|_missing| WeightsError::Content(format!("{name} is missing")))?;
    let whole = tensor.data().chunks_exact(4);
    if tensor.dtype() != Dtype::F32 || whole.len() != count {
        let shape = tensor.shape();
        return Err(WeightsError::Content(format!(
            "{name} has the shape {shape:?}"
        )));
    }
    Ok(whole
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect())
}

/// The network's state for one stream.
#[derive(Clone, Debug)]
pub struct Memory {
    context: [f32; CONTEXT],
    hidden: Vec<f32>,
    cell: Vec<f32>,
}

impl Default for Memory {
    /// The state at the start of a stream.
    fn default() -> Self {
        Self {
            context: [0.0; CONTEXT],
            hidden: vec![0.0; HIDDEN],
            cell: vec![0.0; HIDDEN],
        }
    }
}

impl Weights {
    /// The probability of speech in each frame of `samples`, which are ±1.0 and whole frames.
    pub fn probabilities(&self, memory: &mut Memory, samples: &[f32]) -> Vec<f32> {
        let frames = samples.len() / FRAME;
        let mut scratch = Scratch::default();
        let mut apply = |layer: &Linear, rows: &[f32], count: usize| {
            let mut out = vec![0.0; count * layer.output()];
            layer.apply_to(rows, &mut scratch, &mut out);
            out
        };
        let mut features = self.fourier.magnitudes(&mut windows(memory, samples));
        let mut length = WINDOWS;
        for (layer, stride) in &self.convolutions {
            let (gathered, shorter) = gather(&features, frames, length, *stride);
            features = apply(layer, &gathered, frames * shorter);
            for value in &mut features {
                *value = value.max(0.0);
            }
            length = shorter;
        }
        let inputs = apply(&self.input, &features, frames);
        (inputs.chunks_exact(4 * HIDDEN))
            .map(|input| self.step(memory, input, &mut scratch))
            .collect()
    }

    /// One step of the recurrent cell: input, forget, cell and output gates, in that order.
    fn step(&self, memory: &mut Memory, input: &[f32], scratch: &mut Scratch) -> f32 {
        let Memory { hidden, cell, .. } = memory;
        let mut gates = [[0.0; HIDDEN]; 4];
        self.recurrent
            .apply_to(hidden, scratch, gates.as_flattened_mut());
        add(gates.as_flattened_mut(), input);
        let [input, forget, new, output] = &mut gates;
        for gate in [&mut *input, forget, output] {
            sigmoid(gate);
        }
        tanh(new);
        for unit in 0..HIDDEN {
            cell[unit] = forget[unit] * cell[unit] + input[unit] * new[unit];
        }
        hidden.copy_from_slice(cell);
        tanh(hidden);
        for (hidden, output) in hidden.iter_mut().zip(output) {
            *hidden *= *output;
        }
        let active = hidden.iter().map(|value| value.max(0.0));
        let mut probability = [0.0];
        (self.output).apply_to(&active.collect::<Vec<f32>>(), scratch, &mut probability);
        sigmoid(&mut probability);
        probability[0]
    }
}

/// All windows of all frames in order. The end of a frame is mirrored for its last window.
fn windows(memory: &mut Memory, samples: &[f32]) -> Vec<f32> {
    let mut columns = Vec::with_capacity(samples.len() / FRAME * WINDOWS * WINDOW);
    let mut padded = vec![0.0; CONTEXT + FRAME + CONTEXT];
    for frame in samples.chunks_exact(FRAME) {
        let end = CONTEXT + FRAME;
        padded[..CONTEXT].copy_from_slice(&memory.context);
        padded[CONTEXT..end].copy_from_slice(frame);
        for offset in 0..CONTEXT {
            padded[end + offset] = padded[end - 2 - offset];
        }
        for window in 0..WINDOWS {
            columns.extend_from_slice(&padded[window * HOP..window * HOP + WINDOW]);
        }
        memory.context.copy_from_slice(&frame[FRAME - CONTEXT..]);
    }
    columns
}

/// The inputs of a convolution at each position: the channels of its neighbours, and zeros beyond the frame.
/// `columns` has `length` columns per frame. Returns the new columns, and their number per frame.
fn gather(columns: &[f32], frames: usize, length: usize, stride: usize) -> (Vec<f32>, usize) {
    let channels = columns.len() / (frames * length).max(1);
    let shorter = (length - 1) / stride + 1;
    let mut gathered = vec![0.0; frames * shorter * channels * KERNEL];
    for frame in 0..frames {
        for place in 0..shorter {
            let to = (frame * shorter + place) * channels * KERNEL;
            for tap in 0..KERNEL {
                // The kernel's middle is at the position itself.
                let Some(from) = (place * stride + tap)
                    .checked_sub(1)
                    .filter(|from| *from < length)
                else {
                    continue;
                };
                let from = &columns[(frame * length + from) * channels..][..channels];
                gathered[to + tap * channels..][..channels].copy_from_slice(from);
            }
        }
    }
    (gathered, shorter)
}
