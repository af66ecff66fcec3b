//! The decoder: the next token's scores, from the audio and the tokens before it.
//!
//! A step reads all weights once, so memory limits it; several sequences share the reading. Sequences of one step may
//! belong to different audio.

use std::sync::Arc;

use rayon::prelude::*;

use crate::encoder::Norm;
use crate::file::{Dimensions, FileError, ModelFile};
use crate::kernels::{
    COLUMNS, Head, QuantisedRow, add, attend, attend_heads, dot_columns, dot_floats, dot_rows,
    gelu, quantise_row,
};
use crate::linear::{Linear, Precision, QuantisedRows, read_bias};
use crate::prepared::{ByteMatrix, Bytes};
use crate::tail::{Rows, Tail};
use crate::vocabulary::Token;

/// Rows of a matrix that one thread multiplies at a time.
const ROWS_OF_A_TASK: usize = 2048;
/// Weights that stay in a core's cache while they are multiplied with many vectors, in bytes.
const CACHED_WEIGHTS: usize = 128 << 10;

/// A matrix for products with few vectors.
#[derive(Debug)]
enum Weights {
    Float(Vec<f32>),
    Byte(ByteMatrix),
}

/// The largest magnitude of an 8-bit weight.
const MOST: f32 = 127.0;

#[derive(Debug)]
struct Matrix {
    width: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

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
                let matrix = file.prepared(&weights, [output * input, output, 0], || {
                    let rows = QuantisedRows::read(file, &weights, (output, input), MOST)?;
                    Ok(ByteMatrix {
                        bytes: Bytes::Own(rows.bytes.into()),
                        scales: rows.scales.into(),
                        offsets: [].into(),
                    })
                })?;
                Weights::Byte(matrix)
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
            Weights::Byte(matrix) => matrix.scales.len(),
        }
    }

    /// One row in 32-bit numbers.
    fn row(&self, number: usize) -> Vec<f32> {
        let range = number * self.width..(number + 1) * self.width;
        match &self.weights {
            Weights::Float(weights) => weights[range].to_vec(),
            Weights::Byte(matrix) => {
                let scale = matrix.scales[number];
                matrix.bytes[range]
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
            Weights::Byte(matrix) => {
                let columns: Vec<QuantisedRow> = (input.chunks_exact(width))
                    .map(|row| {
                        let mut column = QuantisedRow::default();
                        quantise_row(row, &mut column);
                        column
                    })
                    .collect();
                multiply(&matrix.bytes, &matrix.scales, &columns, &mut out);
            }
        }
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(height).for_each(|out| add(out, bias));
        }
        out
    }
}

/// Multiplies 8-bit rows with vectors. `out` has a row for each of them.
fn multiply(bytes: &[i8], scales: &[f32], columns: &[QuantisedRow], out: &mut [f32]) {
    let (width, height) = (columns[0].values.len(), scales.len());
    if let [column] = columns {
        (bytes.par_chunks(ROWS_OF_A_TASK * width))
            .zip(scales.par_chunks(ROWS_OF_A_TASK))
            .zip(out.par_chunks_mut(ROWS_OF_A_TASK))
            .for_each(|((bytes, scales), out)| dot_rows(bytes, scales, column, out));
        return;
    }
    // Reading the weights takes the time, so it costs little to multiply with a vector more than once. Rows that stay in
    // the cache are multiplied with all vectors before the next ones are read.
    let rows = if columns.len() > COLUMNS {
        CACHED_WEIGHTS.div_ceil(width)
    } else {
        ROWS_OF_A_TASK
    };
    let groups: Vec<[&QuantisedRow; COLUMNS]> = (columns.chunks(COLUMNS))
        .map(|group| std::array::from_fn(|column| &group[column.min(group.len() - 1)]))
        .collect();
    let mut by_row = vec![0.0; groups.len() * COLUMNS * height];
    (bytes.par_chunks(rows * width))
        .zip(scales.par_chunks(rows))
        .zip(by_row.par_chunks_mut(groups.len() * COLUMNS * rows))
        .for_each(|((bytes, scales), out)| {
            let outs = out.chunks_exact_mut(COLUMNS * scales.len());
            for (group, out) in groups.iter().zip(outs) {
                dot_columns(bytes, scales, group, out);
            }
        });
    let blocks = by_row.chunks(groups.len() * COLUMNS * rows);
    for (block, values) in blocks.enumerate() {
        let rows_of_block = values.len() / (groups.len() * COLUMNS);
        for (column, out) in out.chunks_exact_mut(height).enumerate() {
            let group = &values[column / COLUMNS * COLUMNS * rows_of_block..];
            let out = &mut out[block * rows..][..rows_of_block];
            for (row, out) in out.iter_mut().enumerate() {
                *out = group[row * COLUMNS + column % COLUMNS];
            }
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

/// What the decoder sees of encoded audio.
#[derive(Debug)]
pub struct Audio {
    /// The keys and values of each layer's heads.
    layers: Vec<Vec<Head>>,
    /// Number of encoder positions that were computed.
    pub positions: usize,
    /// Length of the audio, in time stamps of 20 ms.
    pub length: Token,
    has_tail: bool,
}

impl Audio {
    /// Whether a tail stands for the rest of the window.
    pub fn has_tail(&self) -> bool {
        self.has_tail
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
        let positions = encoded.len() / self.dimensions.state;
        let mut layers = self.keys_and_values(encoded);
        if let Some(tail) = tail {
            for (layer, rows) in layers.iter_mut().zip(&tail.decoder) {
                tail.append(rows, &mut layer.keys, &mut layer.values);
            }
        }
        let bias = tail.map_or(0.0, Tail::bias);
        let shape = (self.dimensions.state, self.dimensions.head());
        let heads = layers
            .iter()
            .map(|layer| Head::pack_all(&layer.keys, &layer.values, shape, positions, bias));
        Audio {
            layers: heads.collect(),
            positions,
            length,
            has_tail: tail.is_some(),
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
            let seen = ..(place + 1) * width;
            let (keys, values) = (&cache.keys[seen], &cache.values[seen]);
            attend(query, keys, values, dimensions.head(), &mut scores, mixed);
        }
        add(state, &self.out.apply(&mixed));

        let query = self.cross_query.apply(&self.cross_norm.apply(state));
        attend_to_audio(&query, sequences, rows, number, &mut mixed);
        add(state, &self.cross_out.apply(&mixed));

        let mut hidden = self.expand.apply(&self.feed_forward_norm.apply(state));
        gelu(&mut hidden);
        add(state, &self.contract.apply(&hidden));
    }
}

/// Attention of new tokens to their audio. Rows of the same audio are computed together.
fn attend_to_audio(
    query: &[f32],
    sequences: &mut [(&mut Sequence, &[Token])],
    rows: &[(usize, usize)],
    layer: usize,
    mixed: &mut [f32],
) {
    let width = query.len() / rows.len();
    let audio_of = |row: &(usize, usize)| &sequences[row.0].0.audio;
    let groups: Vec<&[(usize, usize)]> = rows
        .chunk_by(|a, b| Arc::ptr_eq(audio_of(a), audio_of(b)))
        .collect();
    let mut first = 0;
    for group in groups {
        let range = first * width..(first + group.len()) * width;
        first += group.len();
        let audio = Arc::clone(&sequences[group[0].0].0.audio);
        let observed = group.iter().flat_map(|(of, _)| &sequences[*of].0.observed);
        let mut wanted: Vec<usize> = (observed.filter(|of| of.layer == layer))
            .map(|of| of.head)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let heads = &audio.layers[layer];
        let weights = attend_heads(heads, &query[range.clone()], &wanted, &mut mixed[range]);
        for (head, weights) in wanted.iter().zip(&weights) {
            for (row, (of, _)) in group.iter().enumerate() {
                let count = weights.len() / group.len();
                let own = &weights[row * count..][..audio.positions];
                let observed = &mut sequences[*of].0.observed;
                let of_head = observed.iter_mut();
                for of in of_head.filter(|of| (of.layer, of.head) == (layer, *head)) {
                    of.weights.extend_from_slice(own);
                }
            }
        }
    }
}
