//! The encoder: two convolutions over the spectrogram, then layers of attention and feed-forward networks.

use rayon::prelude::*;

use crate::file::{Dimensions, FileError, ModelFile};
use crate::kernels::{Head, add, attend_heads, gelu, layer_norm};
use crate::linear::{Linear, Precision, Scratch, positions_of_a_task};
use crate::mel::Spectrogram;
use crate::tail::{Rows, Tail};

/// Samples of a position, and of a step of the time stamps: 20 ms.
pub const SAMPLES: usize = 320;
/// Taps of a convolution.
const TAPS: usize = 3;

/// Weights and offsets of a layer norm.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    pub(crate) fn read(file: &ModelFile, name: &str, width: usize) -> Result<Self, FileError> {
        Ok(Self {
            weight: file.tensor(&format!("{name}.weight"), &[width])?,
            bias: file.tensor(&format!("{name}.bias"), &[width])?,
        })
    }

    pub(crate) fn apply(&self, input: &[f32]) -> Vec<f32> {
        let mut output = Vec::new();
        self.apply_to(input, &mut output);
        output
    }

    /// As [`Self::apply`], into memory that was used before.
    fn apply_to(&self, input: &[f32], output: &mut Vec<f32>) {
        output.resize(input.len(), 0.0);
        layer_norm(input, &self.weight, &self.bias, output);
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    feed_forward_norm: Norm,
    expand: Linear,
    contract: Linear,
}

/// The encoder's weights.
#[derive(Debug)]
pub struct Encoder {
    dimensions: Dimensions,
    first: Linear,
    second: Linear,
    /// The sinusoids that tell positions apart.
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

/// A convolution as a product: the inputs of an output are the taps one after the other.
fn read_convolution(
    file: &ModelFile,
    name: &str,
    output: usize,
    input: usize,
) -> Result<Linear, FileError> {
    let stored = file.tensor(&format!("{name}.weight"), &[output, input, TAPS])?;
    let bias = file.tensor(&format!("{name}.bias"), &[output])?;
    let mut weights = vec![0.0; stored.len()];
    for row in 0..output {
        for channel in 0..input {
            for tap in 0..TAPS {
                weights[(row * TAPS + tap) * input + channel] =
                    stored[(row * input + channel) * TAPS + tap];
            }
        }
    }
    // Convolutions are a few percent of the work, and the most sensitive part.
    Ok(Linear::new(
        &weights,
        Some(bias),
        input * TAPS,
        Precision::Float,
    ))
}

/// The inputs of a convolution at every `stride`-th row: the row before it, itself, and the row after it.
fn neighbours(rows: &[f32], width: usize, stride: usize) -> Vec<f32> {
    let count = rows.len() / width;
    let mut gathered = Vec::with_capacity(rows.len() / stride * TAPS);
    for centre in (0..count).step_by(stride) {
        for tap in 0..TAPS {
            match (centre + tap).checked_sub(1).filter(|row| *row < count) {
                Some(row) => gathered.extend_from_slice(&rows[row * width..(row + 1) * width]),
                None => gathered.resize(gathered.len() + width, 0.0),
            }
        }
    }
    gathered
}

impl Encoder {
    pub(crate) fn read(file: &ModelFile, precision: Precision) -> Result<Self, FileError> {
        let dimensions = file.dimensions;
        let width = dimensions.state;
        let layers = (0..dimensions.audio_layers)
            .into_par_iter()
            .map(|number| Layer::read(file, number, width, precision))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            dimensions,
            first: read_convolution(file, "encoder.conv1", width, dimensions.mels)?,
            second: read_convolution(file, "encoder.conv2", width, width)?,
            positions: file.tensor(
                "encoder.positional_embedding",
                &[dimensions.audio_positions, width],
            )?,
            layers,
            norm: Norm::read(file, "encoder.ln_post", width)?,
        })
    }

    /// Encodes the first `positions` positions of a window: two frames of the spectrogram each. Frames beyond the
    /// spectrogram have the value `silence`. A `tail` stands for the positions after them. `keep` gets the keys and
    /// values of each layer, and says whether to go on; `None` if it said no.
    pub fn encode(
        &self,
        spectrogram: &Spectrogram,
        silence: f32,
        positions: usize,
        tail: Option<&Tail>,
        keep: &mut dyn FnMut(&[f32], &[f32]) -> bool,
    ) -> Option<Vec<f32>> {
        let positions = positions.min(self.dimensions.audio_positions);
        let bands = self.dimensions.mels;
        // One frame more than the positions need, so that the last one has its neighbour.
        let frames = (2 * positions + 1).min(2 * self.dimensions.audio_positions);
        let mut mel = spectrogram.values.clone();
        mel.resize(frames * bands, silence);
        let mut state = self.first.apply(&neighbours(&mel, bands, 1));
        gelu(&mut state);
        let width = self.dimensions.state;
        state = self.second.apply(&neighbours(&state, width, 2));
        state.truncate(positions * width);
        gelu(&mut state);
        add(&mut state, &self.positions[..positions * width]);
        let mut buffers = Buffers::default();
        for (number, layer) in self.layers.iter().enumerate() {
            let tail = tail.map(|tail| (tail, &tail.encoder[number]));
            layer.apply(&mut state, self.dimensions, tail, &mut buffers, keep)?;
        }
        Some(self.norm.apply(&state))
    }
}

impl Layer {
    fn read(
        file: &ModelFile,
        number: usize,
        width: usize,
        precision: Precision,
    ) -> Result<Self, FileError> {
        let name = |part: &str| format!("encoder.blocks.{number}.{part}");
        let square = (width, width);
        Ok(Self {
            attention_norm: Norm::read(file, &name("attn_ln"), width)?,
            query: Linear::read(file, &name("attn.query"), square, true, precision)?,
            key: Linear::read(file, &name("attn.key"), square, false, precision)?,
            value: Linear::read(file, &name("attn.value"), square, true, precision)?,
            out: Linear::read(file, &name("attn.out"), square, true, precision)?,
            feed_forward_norm: Norm::read(file, &name("mlp_ln"), width)?,
            expand: Linear::read(file, &name("mlp.0"), (4 * width, width), true, precision)?,
            contract: Linear::read(file, &name("mlp.2"), (width, 4 * width), true, precision)?,
        })
    }

    fn apply(
        &self,
        state: &mut [f32],
        dimensions: Dimensions,
        tail: Option<(&Tail, &Rows)>,
        buffers: &mut Buffers,
        keep: &mut dyn FnMut(&[f32], &[f32]) -> bool,
    ) -> Option<()> {
        let Buffers {
            query,
            key,
            value,
            mixed,
        } = buffers;
        for rows in [&mut *query, key, value, mixed] {
            rows.resize(state.len(), 0.0);
        }
        let each = positions_of_a_task(state.len() / dimensions.state) * dimensions.state;
        (state.par_chunks(each).zip(query.par_chunks_mut(each)))
            .zip(key.par_chunks_mut(each).zip(value.par_chunks_mut(each)))
            .for_each_init(TaskBuffers::default, |buffers, rows| {
                let ((state, query), (key, value)) = rows;
                let TaskBuffers {
                    normed, scratch, ..
                } = buffers;
                self.attention_norm.apply_to(state, normed);
                self.query.apply_to(normed, scratch, query);
                self.key.apply_to(normed, scratch, key);
                self.value.apply_to(normed, scratch, value);
            });
        if !keep(key, value) {
            return None;
        }
        let mut bias = 0.0;
        if let Some((tail, rows)) = tail {
            tail.append(rows, key, value);
            bias = tail.bias();
        }
        attention(query, key, value, bias, dimensions, mixed);
        (state.par_chunks_mut(each).zip(mixed.par_chunks(each))).for_each_init(
            TaskBuffers::default,
            |buffers, (state, mixed)| {
                self.feed_forward(state, mixed, buffers);
            },
        );
        Some(())
    }

    /// What follows attention, for some positions: its results are added to their state, then those of two products with
    /// an activation between them.
    fn feed_forward(&self, state: &mut [f32], mixed: &[f32], buffers: &mut TaskBuffers) {
        let TaskBuffers {
            normed,
            projected,
            hidden,
            scratch,
        } = buffers;
        projected.resize(state.len(), 0.0);
        self.out.apply_to(mixed, scratch, projected);
        add(state, projected);
        self.feed_forward_norm.apply_to(state, normed);
        hidden.resize(state.len() / self.out.output() * self.expand.output(), 0.0);
        self.expand.apply_to(normed, scratch, hidden);
        gelu(hidden);
        self.contract.apply_to(hidden, scratch, projected);
        add(state, projected);
    }
}

/// Memory that all layers use, one after the other.
#[derive(Default)]
struct Buffers {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
}

/// Memory of one thread.
#[derive(Default)]
struct TaskBuffers {
    normed: Vec<f32>,
    projected: Vec<f32>,
    hidden: Vec<f32>,
    scratch: Scratch,
}

/// Attention of every position to all positions. There may be more keys than queries: `bias` is added to the scores of
/// those.
fn attention(
    query: &[f32],
    key: &[f32],
    value: &[f32],
    bias: f32,
    dimensions: Dimensions,
    mixed: &mut [f32],
) {
    let own = query.len() / dimensions.state;
    let heads = Head::pack_all(key, value, (dimensions.state, dimensions.head()), own, bias);
    attend_heads(&heads, query, &[], mixed);
}
