//! The mean tail: what attention sees of the rest of the window, without computing it.
//!
//! Whisper was trained on windows of 30 s, most of them filled with silence after shorter audio. Attention uses that
//! rest: without it, texts repeat or never end. But the keys and values of a silent rest hardly depend on what was
//! said before it, only on the fact that something was said. So they are measured once for each model, as means over
//! full windows with some speech at their beginning, and take the place of the rest. The encoder then computes the
//! positions that hold audio, and a margin.
//!
//! Neighbouring positions of the rest are alike: one of [`STEP`] stands for all, with the logarithm of their number
//! added to its scores, which is what as many equal keys would add.

use crate::Model;
use crate::encoder::SAMPLES;
use crate::file::FileError;
use crate::mel::FULL_FRAMES;
use crate::prepared::Prepared;

/// Positions for which one position of the tail stands.
pub const STEP: usize = 8;
/// Positions after the audio that are computed as well.
pub const MARGIN: usize = 16;

/// The tail's name in a prepared file.
pub(crate) const BLOCK: &str = "tail";

/// Keys and values of one layer's attention, a row for each position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The keys.
    pub keys: Vec<f32>,
    /// The values.
    pub values: Vec<f32>,
}

/// The mean keys and values of a model's rest of the window: those of every [`STEP`]-th position.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    /// Of the encoder's layers.
    pub encoder: Vec<Rows>,
    /// Of the decoder's attention to the audio, layer by layer.
    pub decoder: Vec<Rows>,
    width: usize,
}

/// Number of positions to compute for this many samples, so that the tail can follow them.
pub fn positions(samples: usize) -> usize {
    let own = samples.div_ceil(SAMPLES) + MARGIN;
    own.next_multiple_of(STEP).min(FULL_FRAMES / 2)
}

impl Tail {
    /// Measures the tail from recordings of speech, 16 kHz ±1.0. A few seconds of a few voices suffice.
    pub fn measure(model: &Model, recordings: &[&[f32]]) -> Self {
        let width = model.dimensions.state;
        let all = model.dimensions.audio_positions;
        let rows = all.div_ceil(STEP);
        let empty = Rows {
            keys: vec![0.0; rows * width],
            values: vec![0.0; rows * width],
        };
        let mut tail = Self {
            encoder: vec![empty.clone(); model.dimensions.audio_layers],
            decoder: vec![empty; model.dimensions.text_layers],
            width,
        };
        let mut counts = vec![0_u32; rows];
        for recording in recordings {
            let first = recording.len().div_ceil(SAMPLES).div_ceil(STEP);
            let (encoder, decoder) = model.full_pass(recording);
            let layers = tail.encoder.iter_mut().chain(&mut tail.decoder);
            for (sum, rows) in layers.zip(encoder.iter().chain(&decoder)) {
                for row in first..counts.len() {
                    let (to, from) = (row * width, row * STEP * width);
                    crate::kernels::add(
                        &mut sum.keys[to..to + width],
                        &rows.keys[from..from + width],
                    );
                    crate::kernels::add(
                        &mut sum.values[to..to + width],
                        &rows.values[from..from + width],
                    );
                }
            }
            counts.iter_mut().skip(first).for_each(|count| *count += 1);
        }
        for layer in tail.encoder.iter_mut().chain(&mut tail.decoder) {
            for (row, count) in counts.iter().enumerate() {
                let range = row * width..(row + 1) * width;
                let factor = 1.0 / (*count).max(1) as f32;
                layer.keys[range.clone()]
                    .iter_mut()
                    .for_each(|key| *key *= factor);
                layer.values[range]
                    .iter_mut()
                    .for_each(|value| *value *= factor);
            }
        }
        tail
    }

    /// What is added to the scores of the tail's positions.
    pub fn bias(&self) -> f32 {
        (STEP as f32).ln()
    }

    /// Appends a layer's tail to the rows of the positions before it.
    pub(crate) fn append(&self, layer: &Rows, keys: &mut Vec<f32>, values: &mut Vec<f32>) {
        let own = keys.len() / self.width;
        let from = own.div_ceil(STEP) * self.width;
        keys.extend_from_slice(&layer.keys[from..]);
        values.extend_from_slice(&layer.values[from..]);
    }
}

/// All numbers in one row, for storage.
impl Tail {
    /// The keys and values of all layers, the encoder's first.
    pub(crate) fn values(&self) -> impl Iterator<Item = f32> {
        let layers = self.encoder.iter().chain(&self.decoder);
        layers
            .flat_map(|layer| layer.keys.iter().chain(&layer.values))
            .copied()
    }

    /// The tail in a prepared file.
    ///
    /// # Errors
    /// There is none for this model.
    pub fn of_prepared(model: &Model, prepared: &Prepared) -> Result<Self, FileError> {
        let tail = Self::from_values(model, &prepared.floats(BLOCK)?);
        tail.ok_or_else(|| FileError::Format("the prepared tail is another model's".to_owned()))
    }

    /// The tail from its [`Self::values`]; `None` if there are more or fewer than the model needs.
    fn from_values(model: &Model, values: &[f32]) -> Option<Self> {
        let width = model.dimensions.state;
        let each = model.dimensions.audio_positions.div_ceil(STEP) * width;
        let layers = model.dimensions.audio_layers + model.dimensions.text_layers;
        if values.len() != 2 * each * layers {
            return None;
        }
        let rows = values.chunks_exact(2 * each).map(|both| Rows {
            keys: both[..each].to_vec(),
            values: both[each..].to_vec(),
        });
        let mut encoder: Vec<Rows> = rows.collect();
        let decoder = encoder.split_off(model.dimensions.audio_layers);
        Some(Self {
            encoder,
            decoder,
            width,
        })
    }
}
