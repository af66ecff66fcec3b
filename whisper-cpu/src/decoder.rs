//! The decoder: the next token's scores, from the audio and the tokens before it.
//!
//! A step reads all weights once, so memory limits it; several sequences share the reading. Sequences of one step may
//! belong to different audio.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::encoder::Norm;
use crate::file::{Dimensions, FileError, ModelFile};
use crate::kernels::{
    COLUMNS, Layout, Number, QuantisedRow, add, attend, dot_columns, dot_floats, dot_rows, gelu,
    quantise_row,
};
use crate::linear::{Linear, Precision, QuantisedRows, read_bias};
use crate::tail::{Rows, Tail};
use crate::vocabulary::Token;

/// Rows of a matrix that one thread multiplies at a time.
const ROWS_OF_A_TASK: usize = 2048;

/// A matrix for products with few vectors.
#[derive(Debug)]
enum Weights {
    Float(Vec<f32>),
    Byte { bytes: Vec<i8>, scales: Vec<f32> },
}

#[derive(Debug)]
struct Matrix {
    width: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

/// The largest magnitude of an 8-bit weight.
const MOST: f32 = 127.0;

impl Matrix {
    fn read(
        file: &ModelFile,
        name: &str,
        (output, input): (usize, usize),
        has_bias: bool,
        precision: Precision,
    ) -> Result<Self, FileError> {
        let weights = format!("{name}.weight");
        let weights = match precision {
            Precision::Float => Weights::Float(file.tensor(&weights, &[output, input])?),
            Precision::Byte => {
                let rows = QuantisedRows::read(file, &weights, (output, input), MOST)?;
                Weights::Byte {
                    bytes: rows.bytes,
                    scales: rows.scales,
                }
            }
        };
        Ok(Self {
            width: input,
            weights,
            bias: read_bias(file, name, output, has_bias)?,
        })
    }

    fn height(&self) -> usize {
        match &self.weights {
            Weights::Float(weights) => weights.len() / self.width,
            Weights::Byte { scales, .. } => scales.len(),
        }
    }

    /// One row in 32-bit numbers.
    fn row(&self, number: usize) -> Vec<f32> {
        let range = number * self.width..(number + 1) * self.width;
        match &self.weights {
            Weights::Float(weights) => weights[range].to_vec(),
            Weights::Byte { bytes, scales } => {
                let scale = scales[number];
                bytes[range]
                    .iter()
                    .map(|byte| f32::from(*byte) * scale)
                    .collect()
            }
        }
    }

    /// Multiplies with each row of `input`; the result has as many rows.
    fn apply(&self, input: &[f32]) -> Vec<f32> {
        let (width, height) = (self.width, self.height());
        let mut out = vec![0.0; input.len() / width * height];
        match &self.weights {
            Weights::Float(weights) => {
                for (input, out) in input.chunks_exact(width).zip(out.chunks_exact_mut(height)) {
                    let parts = weights.par_chunks(ROWS_OF_A_TASK * width);
                    parts
                        .zip(out.par_chunks_mut(ROWS_OF_A_TASK))
                        .for_each(|(weights, out)| dot_floats(weights, input, out));
                }
            }
            Weights::Byte { bytes, scales } => {
                let columns: Vec<QuantisedRow> = (input.chunks_exact(width))
                    .map(|row| {
                        let mut column = QuantisedRow::default();
                        quantise_row(row, &mut column);
                        column
                    })
                    .collect();
                for (columns, out) in columns
                    .chunks(COLUMNS)
                    .zip(out.chunks_mut(COLUMNS * height))
                {
                    multiply(bytes, scales, columns, out);
                }
            }
        }
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(height).for_each(|out| add(out, bias));
        }
        out
    }
}

/// Multiplies 8-bit rows with at most [`COLUMNS`] vectors. `out` has a row for each of them.
fn multiply(bytes: &[i8], scales: &[f32], columns: &[QuantisedRow], out: &mut [f32]) {
    let (width, height) = (columns[0].values.len(), scales.len());
    let parts = bytes
        .par_chunks(ROWS_OF_A_TASK * width)
        .zip(scales.par_chunks(ROWS_OF_A_TASK));
    if let [column] = columns {
        parts
            .zip(out.par_chunks_mut(ROWS_OF_A_TASK))
            .for_each(|((bytes, scales), out)| dot_rows(bytes, scales, column, out));
        return;
    }
    // Reading the weights takes the time, so it costs little to multiply with a vector more than once.
    let all = std::array::from_fn(|column| &columns[column.min(columns.len() - 1)]);
    let mut by_row = vec![0.0; COLUMNS * height];
    parts
        .zip(by_row.par_chunks_mut(ROWS_OF_A_TASK * COLUMNS))
        .for_each(|((bytes, scales), out)| dot_columns(bytes, scales, &all, out));
    for (row, values) in by_row.chunks_exact(COLUMNS).enumerate() {
        for (column, value) in values[..columns.len()].iter().enumerate() {
            out[column * height + row] = *value;
        }
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    out: Matrix,
    cross_norm: Norm,
    cross_query: Matrix,
    cross_key: Linear,
    cross_value: Linear,
    cross_out: Matrix,
    feed_forward_norm: Norm,
    expand: Matrix,
    contract: Matrix,
}

/// Keys and values of one layer's attention to the audio, in 16 bits: reading them takes the time.
#[derive(Debug)]
struct HalfRows {
    keys: Vec<f16>,
    values: Vec<f16>,
}

/// What the decoder sees of encoded audio.
#[derive(Debug)]
pub struct Audio {
    layers: Vec<HalfRows>,
    /// Number of encoder positions that were computed.
    pub positions: usize,
    /// Length of the audio, in time stamps of 20 ms.
    pub length: Token,
    /// What is added to the scores of the positions after them.
    bias: f32,
}

impl Audio {
    /// Whether a tail stands for the rest of the window.
    pub fn has_tail(&self) -> bool {
        self.bias > 0.0
    }
}

/// A sequence of tokens over some audio.
#[derive(Clone, Debug)]
pub struct Sequence {
    audio: Arc<Audio>,
    layers: Vec<Rows>,
    length: usize,
    observed: Vec<Observed>,
}

/// The attention of one head to the audio: a row for each token, a weight for each computed position.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The decoder's layer.
    pub layer: usize,
    /// The head within the layer.
    pub head: usize,
    /// The weights, row by row.
    pub weights: Vec<f32>,
}

impl Sequence {
    /// An empty sequence. The attention of these layers' heads is recorded.
    pub fn new(audio: Arc<Audio>, heads: &[(usize, usize)]) -> Self {
        let layers = vec![Rows::default(); audio.layers.len()];
        Self {
            audio,
            layers,
            length: 0,
            observed: heads
                .iter()
                .map(|(layer, head)| Observed {
                    layer: *layer,
                    head: *head,
                    weights: Vec::new(),
                })
                .collect(),
        }
    }

    /// The recorded attention so far.
    pub fn observed(&self) -> &[Observed] {
        &self.observed
    }

    /// Number of tokens so far.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// The decoder's weights.
#[derive(Debug)]
pub struct Decoder {
    dimensions: Dimensions,
    tokens: Matrix,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

impl Decoder {
    pub(crate) fn read(file: &ModelFile, precision: Precision) -> Result<Self, FileError> {
        let dimensions = file.dimensions;
        let width = dimensions.state;
        let read_layers = || {
            (0..dimensions.text_layers)
                .into_par_iter()
                .map(|number| Layer::read(file, number, width, precision))
                .collect::<Result<_, _>>()
        };
        let read_tokens = || {
            let shape = (dimensions.vocabulary, width);
            Matrix::read(file, "decoder.token_embedding", shape, false, precision)
        };
        let (layers, tokens) = rayon::join(read_layers, read_tokens);
        Ok(Self {
            dimensions,
            tokens: tokens?,
            positions: file.tensor(
                "decoder.positional_embedding",
                &[dimensions.text_positions, width],
            )?,
            layers: layers?,
            norm: Norm::read(file, "decoder.ln", width)?,
        })
    }

    /// Prepares encoded audio of this length, in time stamps: a row for each position. A `tail` stands for the positions after them.
    pub fn listen(&self, encoded: &[f32], length: Token, tail: Option<&Tail>) -> Audio {
        let mut layers = self.keys_and_values(encoded);
        if let Some(tail) = tail {
            for (layer, rows) in layers.iter_mut().zip(&tail.decoder) {
                tail.append(rows, &mut layer.keys, &mut layer.values);
            }
        }
        let halves = |values: Vec<f32>| {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(&values);
            halves
        };
        let layers = layers.into_iter().map(|layer| HalfRows {
            keys: halves(layer.keys),
            values: halves(layer.values),
        });
        Audio {
            layers: layers.collect(),
            positions: encoded.len() / self.dimensions.state,
            length,
            bias: tail.map_or(0.0, Tail::bias),
        }
    }

    pub(crate) fn keys_and_values(&self, encoded: &[f32]) -> Vec<Rows> {
        let layers = self.layers.iter().map(|layer| Rows {
            keys: layer.cross_key.apply(encoded),
            values: layer.cross_value.apply(encoded),
        });
        layers.collect()
    }

    /// Appends tokens to sequences and returns the scores of the token that follows each of them. No sequence may get
    /// longer than the decoder has positions.
    pub fn step(&self, sequences: &mut [(&mut Sequence, &[Token])]) -> Vec<Vec<f32>> {
        let last = sequences.iter().map(|(_, tokens)| tokens.len() - 1);
        let wanted: Vec<(usize, usize)> = last.enumerate().collect();
        self.append(sequences, &wanted)
    }

    /// Appends tokens to sequences. Returns the scores of the tokens that follow the `wanted` ones: each is the number
    /// of a sequence and the place of one of its new tokens.
    pub fn append(
        &self,
        sequences: &mut [(&mut Sequence, &[Token])],
        wanted: &[(usize, usize)],
    ) -> Vec<Vec<f32>> {
        let width = self.dimensions.state;
        let mut state = Vec::new();
        // The sequence of each row, and its place there.
        let mut rows = Vec::new();
        for (number, (sequence, tokens)) in sequences.iter().enumerate() {
            for (offset, token) in tokens.iter().enumerate() {
                let place = sequence.length + offset;
                let mut row = self.tokens.row(*token as usize);
                add(
                    &mut row,
                    &self.positions[place * width..(place + 1) * width],
                );
                state.extend(row);
                rows.push((number, place));
            }
        }
        for (number, layer) in self.layers.iter().enumerate() {
            layer.apply(&mut state, sequences, &rows, number, self.dimensions);
        }
        let mut first_rows = Vec::new();
        let mut first_row = 0;
        for (sequence, tokens) in sequences.iter_mut() {
            sequence.length += tokens.len();
            first_rows.push(first_row);
            first_row += tokens.len();
        }
        let mut chosen = Vec::new();
        for (number, place) in wanted {
            let row = first_rows[*number] + place;
            chosen.extend_from_slice(&state[row * width..(row + 1) * width]);
        }
        let scores = self.tokens.apply(&self.norm.apply(&chosen));
        scores
            .chunks_exact(self.dimensions.vocabulary)
            .map(<[f32]>::to_vec)
            .collect()
    }
}

impl Layer {
    fn read(
        file: &ModelFile,
        number: usize,
        width: usize,
        precision: Precision,
    ) -> Result<Self, FileError> {
        let name = |part: &str| format!("decoder.blocks.{number}.{part}");
        let square = (width, width);
        let matrix = |part: &str, shape, has_bias| {
            Matrix::read(file, &name(part), shape, has_bias, precision)
        };
        let (query, key, value, out) = (
            matrix("attn.query", square, true)?,
            matrix("attn.key", square, false)?,
            matrix("attn.value", square, true)?,
            matrix("attn.out", square, true)?,
        );
        let (cross_query, cross_out) = (
            matrix("cross_attn.query", square, true)?,
            matrix("cross_attn.out", square, true)?,
        );
        let (expand, contract) = (
            matrix("mlp.0", (4 * width, width), true)?,
            matrix("mlp.2", (width, 4 * width), true)?,
        );
        Ok(Self {
            attention_norm: Norm::read(file, &name("attn_ln"), width)?,
            query,
            key,
            value,
            out,
            cross_norm: Norm::read(file, &name("cross_attn_ln"), width)?,
            cross_query,
            cross_key: Linear::read(file, &name("cross_attn.key"), square, false, precision)?,
            cross_value: Linear::read(file, &name("cross_attn.value"), square, true, precision)?,
            cross_out,
            feed_forward_norm: Norm::read(file, &name("mlp_ln"), width)?,
            expand,
            contract,
        })
    }

    fn apply(
        &self,
        state: &mut [f32],
        sequences: &mut [(&mut Sequence, &[Token])],
        rows: &[(usize, usize)],
        number: usize,
        dimensions: Dimensions,
    ) {
        let width = dimensions.state;
        let normed = self.attention_norm.apply(state);
        let (query, key, value) = (
            self.query.apply(&normed),
            self.key.apply(&normed),
            self.value.apply(&normed),
        );
        let per_row = key.chunks_exact(width).zip(value.chunks_exact(width));
        for ((of, _), (key, value)) in rows.iter().zip(per_row) {
            let cache = &mut sequences[*of].0.layers[number];
            cache.keys.extend_from_slice(key);
            cache.values.extend_from_slice(value);
        }
        let mut mixed = vec![0.0; state.len()];
        let mut scores = Vec::new();
        let queries = query.chunks_exact(width).zip(mixed.chunks_exact_mut(width));
        for ((of, place), (query, mixed)) in rows.iter().zip(queries) {
            let cache = &sequences[*of].0.layers[number];
            // A token sees those before it and itself.
            let length = (place + 1) * width;
            let seen = Seen {
                keys: &cache.keys[..length],
                values: &cache.values[..length],
                own: place + 1,
                bias: 0.0,
            };
            heads(query, &seen, dimensions, &mut scores, mixed, &mut |_, _| {});
        }
        add(state, &self.out.apply(&mixed));

        let query = self.cross_query.apply(&self.cross_norm.apply(state));
        let queries = query.chunks_exact(width).zip(mixed.chunks_exact_mut(width));
        for ((of, _), (query, mixed)) in rows.iter().zip(queries) {
            let sequence = &mut *sequences[*of].0;
            let (audio, observed) = (&sequence.audio, &mut sequence.observed);
            let rows = &audio.layers[number];
            let seen = Seen {
                keys: &rows.keys,
                values: &rows.values,
                own: audio.positions,
                bias: audio.bias,
            };
            heads(
                query,
                &seen,
                dimensions,
                &mut scores,
                mixed,
                &mut |head, weights| {
                    let wanted = observed
                        .iter_mut()
                        .find(|of| (of.layer, of.head) == (number, head));
                    if let Some(of) = wanted {
                        of.weights.extend_from_slice(&weights[..seen.own]);
                    }
                },
            );
        }
        add(state, &self.cross_out.apply(&mixed));

        let mut hidden = self.expand.apply(&self.feed_forward_norm.apply(state));
        gelu(&mut hidden);
        add(state, &self.contract.apply(&hidden));
    }
}

/// What one position attends to.
struct Seen<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    /// Positions after these are those of the tail.
    own: usize,
    /// What is added to the scores of the tail's positions.
    bias: f32,
}

/// Attention of all heads of one position. `observe` gets the weights of each.
fn heads<T: Number>(
    query: &[f32],
    seen: &Seen<'_, T>,
    dimensions: Dimensions,
    scores: &mut Vec<f32>,
    mixed: &mut [f32],
    observe: &mut dyn FnMut(usize, &[f32]),
) {
    let layout = Layout {
        head: dimensions.head(),
        own: seen.own,
        bias: seen.bias,
    };
    attend(query, seen.keys, seen.values, layout, scores, mixed);
    let count = seen.keys.len() / dimensions.state;
    for (number, weights) in scores.chunks_exact(count).enumerate() {
        observe(number, weights);
    }
}
