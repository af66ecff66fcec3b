//! The network of Silero VAD (16 kHz) in plain Rust.
//!
//! It reads the published weights from a safetensors file. A frame of 32 ms, with the last 4 ms of the
//! previous one, goes through a short-time Fourier transform, four small convolutions and a recurrent cell,
//! which give the probability of speech. Layers, order and padding are those of the published model.

use std::path::Path;

use matrixmultiply::sgemm;
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;

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

/// A row-major matrix of weights, and a bias per row.
#[derive(Debug)]
struct Layer {
    rows: usize,
    columns: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Layer {
    /// Multiplies with a column-major matrix of `count` columns. The result is column-major too.
    fn apply(&self, columns: &[f32], count: usize) -> Vec<f32> {
        debug_assert_eq!(columns.len(), self.columns * count);
        let mut out: Vec<f32> = self.bias.repeat(count);
        let (rows, inner) = (self.rows, self.columns);
        // SAFETY: the three matrices have `rows × inner`, `inner × count` and `rows × count` values
        // with these strides: `weights` by construction, `columns` as asserted above, `out` by the
        // length of `bias`, which is `rows`.
        unsafe {
            sgemm(
                rows,
                inner,
                count,
                1.0,
                self.weights.as_ptr(),
                inner as isize,
                1,
                columns.as_ptr(),
                1,
                inner as isize,
                1.0,
                out.as_mut_ptr(),
                1,
                rows as isize,
            );
        }
        out
    }
}

/// The network's weights. Shared by all streams.
#[derive(Debug)]
pub struct Weights {
    fourier: Layer,
    convolutions: [(Layer, usize); 4],
    input: Layer,
    recurrent: Layer,
    output: Layer,
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
        let layer =
            |name: &str, bias: Option<&str>, rows, columns| -> Result<Layer, WeightsError> {
                Ok(Layer {
                    rows,
                    columns,
                    weights: values(&tensors, name, rows * columns)?,
                    bias: match bias {
                        Some(bias) => values(&tensors, bias, rows)?,
                        None => vec![0.0; rows],
                    },
                })
            };
        let convolution = |number: usize, output, input, stride| {
            let (weight, bias) = (format!("conv{number}.weight"), format!("conv{number}.bias"));
            layer(&weight, Some(&bias), output, input * KERNEL).map(|layer| (layer, stride))
        };
        Ok(Self {
            fourier: layer("stft_conv.weight", None, 2 * BINS, WINDOW)?,
            convolutions: [
                convolution(1, 128, BINS, 1)?,
                convolution(2, 64, 128, 2)?,
                convolution(3, 64, 64, 2)?,
                convolution(4, HIDDEN, 64, 1)?,
            ],
            input: layer(
                "lstm_cell.weight_ih",
                Some("lstm_cell.bias_ih"),
                4 * HIDDEN,
                HIDDEN,
            )?,
            recurrent: layer(
                "lstm_cell.weight_hh",
                Some("lstm_cell.bias_hh"),
                4 * HIDDEN,
                HIDDEN,
            )?,
            output: layer("final_conv.weight", Some("final_conv.bias"), 1, HIDDEN)?,
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
        let mut features = magnitudes(&self.fourier, &windows(memory, samples), frames);
        let mut length = WINDOWS;
        for (layer, stride) in &self.convolutions {
            let (gathered, shorter) = gather(&features, frames, length, *stride);
            features = layer.apply(&gathered, frames * shorter);
            for value in &mut features {
                *value = value.max(0.0);
            }
            length = shorter;
        }
        let inputs = self.input.apply(&features, frames);
        (inputs.chunks_exact(4 * HIDDEN))
            .map(|input| self.step(memory, input))
            .collect()
    }

    /// One step of the recurrent cell: input, forget, cell and output gates, in that order.
    fn step(&self, memory: &mut Memory, input: &[f32]) -> f32 {
        let recurrent = self.recurrent.apply(&memory.hidden, 1);
        let gate = |gate: usize, unit: usize| {
            let place = gate * HIDDEN + unit;
            input[place] + recurrent[place]
        };
        for unit in 0..HIDDEN {
            let kept = sigmoid(gate(1, unit)) * memory.cell[unit];
            memory.cell[unit] = kept + sigmoid(gate(0, unit)) * gate(2, unit).tanh();
            memory.hidden[unit] = sigmoid(gate(3, unit)) * memory.cell[unit].tanh();
        }
        let active: Vec<f32> = memory.hidden.iter().map(|value| value.max(0.0)).collect();
        sigmoid(self.output.apply(&active, 1)[0])
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

/// The magnitude of each frequency of each window.
fn magnitudes(fourier: &Layer, windows: &[f32], frames: usize) -> Vec<f32> {
    let spectrum = fourier.apply(windows, frames * WINDOWS);
    let of_window = |both: &[f32]| {
        let (real, imaginary) = both.split_at(BINS);
        let pairs = real.iter().zip(imaginary);
        pairs.map(|(re, im)| re.hypot(*im)).collect::<Vec<f32>>()
    };
    spectrum
        .chunks_exact(2 * BINS)
        .flat_map(of_window)
        .collect()
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
                let from = (frame * length + from) * channels;
                for channel in 0..channels {
                    gathered[to + channel * KERNEL + tap] = columns[from + channel];
                }
            }
        }
    }
    (gathered, shorter)
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}
