//! Conversion of a CTranslate2 Whisper folder to a ggml file.
//!
//! CTranslate2 stacks query, key and value into one matrix; ggml wants them apart. Numbers arrive as
//! floats of three kinds or as integers with a scale per row, and leave as 16-bit (or 32-bit) floats.
//! Everything streams through one buffer of about a mebibyte of elements, whatever the model's size.

use std::io::{Read, Seek, Write};
use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::ct2::{Ct2Index, Stored, Variable};
use super::error::{FormatError, ModelError};
use super::ggml::{ElementType, write_header, write_preamble, write_tensor_header};
use super::layout::{AUDIO_CONTEXT, Dimensions, HEAD_WIDTH, Role, TensorSpec, tensors};
use super::reader::BoundedReader;
use super::{mel, sniff, vocabulary};

/// Elements converted at a time (or one row, if a row is longer).
const CHUNK_ELEMENTS: u64 = 256 * 1024;
/// Vocabulary sizes that whisper.cpp can place its special tokens in.
const VOCABULARIES: std::ops::RangeInclusive<u32> = 51_864..=51_866;

/// A CTranslate2 folder that was opened, indexed and found complete.
pub(crate) struct Ct2Model {
    reader: BoundedReader<std::fs::File>,
    index: Ct2Index,
    /// Dimensions taken from the variables' shapes.
    pub(crate) dimensions: Dimensions,
    tokens: Vec<Vec<u8>>,
}

impl Ct2Model {
    /// Opens a folder and checks everything but the numbers themselves.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        if !sniff::is_ctranslate2_folder(folder) {
            return Err(sniff::not_a_model_folder(folder));
        }
        let path = folder.join("model.bin");
        let parsed = BoundedReader::open(&path).and_then(|mut reader| {
            let index = Ct2Index::read(&mut reader)?;
            let dimensions = read_dimensions(&mut reader, &index)?;
            Ok((reader, index, dimensions))
        });
        let (reader, index, dimensions) = parsed.map_err(ModelError::corrupt(path))?;
        let tokens = vocabulary::read(folder, dimensions.text_tokens())?;
        Ok(Self {
            reader,
            index,
            dimensions,
            tokens,
        })
    }

    /// Writes the whole model with weights as 16-bit or 32-bit floats.
    pub(crate) fn write(
        &mut self,
        out: &mut impl Write,
        weights: ElementType,
    ) -> Result<(), FormatError> {
        let bands = self.dimensions.n_mels;
        write_header(out, &self.dimensions, weights)?;
        write_preamble(out, bands, &mel::filter_bank(bands as usize), &self.tokens)?;
        for spec in tensors(&self.dimensions) {
            let element = weights.for_role(spec.role);
            write_tensor_header(out, &spec, element)?;
            let part = Part::of(&spec.name)?;
            copy_tensor(&mut self.reader, &self.index, &spec, &part, element, out)?;
        }
        Ok(())
    }

    /// Whether the folder holds 32-bit floats, so that a float32 import gains precision.
    pub(crate) fn is_float32(&self) -> bool {
        self.index
            .get("encoder/layer_0/ffn/linear_0/weight")
            .is_some_and(|variable| variable.stored == Stored::F32)
    }
}

fn read_dimensions<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
) -> Result<Dimensions, FormatError> {
    let size = |name: &str, axis: usize| -> Result<u32, FormatError> {
        let shape = &index.require(name)?.shape;
        let value = shape.get(axis).copied().unwrap_or(0);
        u32::try_from(value).map_err(|_| FormatError::Invalid(format!("{name} is too large")))
    };
    let state = size("encoder/conv1/weight", 0)?;
    let dimensions = Dimensions {
        n_vocab: size("decoder/embeddings/weight", 0)?,
        n_audio_ctx: size("encoder/position_encodings/encodings", 0)?,
        n_audio_state: state,
        n_audio_head: heads(reader, index, "encoder", state)?,
        n_audio_layer: index.layers("encoder"),
        n_text_ctx: size("decoder/position_encodings/encodings", 0)?,
        n_text_state: size("decoder/embeddings/weight", 1)?,
        n_text_head: heads(reader, index, "decoder", state)?,
        n_text_layer: index.layers("decoder"),
        n_mels: size("encoder/conv1/weight", 1)?,
    };
    dimensions.check()?;
    if !VOCABULARIES.contains(&dimensions.n_vocab) {
        return Err(FormatError::Invalid(format!(
            "its vocabulary of {} tokens is not one of Whisper's",
            dimensions.n_vocab
        )));
    }
    if dimensions.n_audio_ctx != AUDIO_CONTEXT {
        return Err(FormatError::Invalid(format!(
            "its encoder has {} positions, Whisper's have {AUDIO_CONTEXT}",
            dimensions.n_audio_ctx
        )));
    }
    Ok(dimensions)
}

/// Attention heads of a side: as stored (a 16-bit scalar), else by the width all Whisper models use.
fn heads<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
    side: &str,
    state: u32,
) -> Result<u32, FormatError> {
    match index.get(&format!("{side}/num_heads")) {
        Some(variable) if variable.stored == Stored::I16 && variable.shape.is_empty() => {
            reader.seek_to(variable.offset)?;
            Ok(u32::from(reader.u16()?))
        }
        _ => Ok(state / HEAD_WIDTH),
    }
}

/// Where a ggml tensor comes from: a variable, or one of several blocks of rows stacked in it.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    variable: String,
    /// Which block, counted from 0.
    block: u64,
    /// Of how many.
    blocks: u64,
}

impl Part {
    fn of(tensor: &str) -> Result<Self, FormatError> {
        let unknown = || FormatError::Invalid(format!("no variable is known for {tensor}"));
        let (side, rest) = tensor.split_once('.').ok_or_else(unknown)?;
        let (layer, rest) = match rest.strip_prefix("blocks.").and_then(|r| r.split_once('.')) {
            Some((layer, rest)) => (format!("layer_{layer}/"), rest),
            None => (String::new(), rest),
        };
        let (module, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
        let (source, block, blocks) = match module {
            "attn.query" => ("self_attention/linear_0", 0, 3),
            "attn.key" => ("self_attention/linear_0", 1, 3),
            "attn.value" => ("self_attention/linear_0", 2, 3),
            "attn.out" => ("self_attention/linear_1", 0, 1),
            "attn_ln" => ("self_attention/layer_norm", 0, 1),
            "cross_attn.query" => ("attention/linear_0", 0, 1),
            "cross_attn.key" => ("attention/linear_1", 0, 2),
            "cross_attn.value" => ("attention/linear_1", 1, 2),
            "cross_attn.out" => ("attention/linear_2", 0, 1),
            "cross_attn_ln" => ("attention/layer_norm", 0, 1),
            "mlp.0" => ("ffn/linear_0", 0, 1),
            "mlp.2" => ("ffn/linear_1", 0, 1),
            "mlp_ln" => ("ffn/layer_norm", 0, 1),
            "ln_post" | "ln" => ("layer_norm", 0, 1),
            "conv1" => ("conv1", 0, 1),
            "conv2" => ("conv2", 0, 1),
            "token_embedding" => ("embeddings", 0, 1),
            "positional_embedding" => ("position_encodings", 0, 1),
            _ => return Err(unknown()),
        };
        let leaf = match (source.rsplit('/').next(), kind) {
            (Some("layer_norm"), "weight") => "gamma",
            (Some("layer_norm"), "bias") => "beta",
            (_, "") => "encodings",
            (_, other) => other,
        };
        Ok(Self {
            variable: format!("{side}/{layer}{source}/{leaf}"),
            block,
            blocks,
        })
    }
}

fn copy_tensor<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
    spec: &TensorSpec,
    part: &Part,
    element: ElementType,
    out: &mut impl Write,
) -> Result<(), FormatError> {
    let variable = index.require(&part.variable)?;
    let rows = variable.rows() / part.blocks;
    // Conv biases have a trailing dimension of 1 in ggml only.
    let fits = variable.rows().is_multiple_of(part.blocks)
        && rows == spec.shape[0]
        && variable.row_elements() == spec.shape[1..].iter().product::<u64>();
    if !fits {
        return Err(FormatError::Invalid(format!(
            "{} has the shape {:?}, which does not give {} {:?}",
            part.variable, variable.shape, spec.name, spec.shape
        )));
    }
    let scales = read_scales(reader, index, &part.variable, variable)?;
    if spec.name.ends_with("attn.key.weight") {
        refuse_key_bias(reader, index, part, rows)?;
    }
    let from = part.block * rows;
    for_each_chunk(reader, variable, &scales, from..from + rows, |values| {
        let bytes = if element == ElementType::F32 {
            f32_bytes(values)
        } else {
            f16_bytes(values)
        };
        out.write_all(&bytes)?;
        Ok(())
    })?;
    debug_assert!(spec.role != Role::Float || element == ElementType::F32);
    Ok(())
}

/// Runs `sink` over the rows as 32-bit floats, a bounded number of elements at a time.
fn for_each_chunk<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    variable: &Variable,
    scales: &[f32],
    rows: std::ops::Range<u64>,
    mut sink: impl FnMut(&[f32]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let width = variable.row_elements().max(1);
    let step = (CHUNK_ELEMENTS / width).max(1);
    let row_bytes = width * variable.stored.bytes();
    reader.seek_to(variable.offset + rows.start * row_bytes)?;
    let mut row = rows.start;
    while row < rows.end {
        let count = step.min(rows.end - row);
        let bytes = reader.bytes(count * row_bytes)?;
        let mut values = decode(&bytes, variable.stored)?;
        for (offset, values) in values.chunks_mut(width as usize).enumerate() {
            // One scale for the whole variable, one per row, or none.
            let at = if scales.len() > 1 {
                row as usize + offset
            } else {
                0
            };
            if let Some(scale) = scales.get(at) {
                values.iter_mut().for_each(|value| *value /= scale);
            }
        }
        sink(&values)?;
        row += count;
    }
    Ok(())
}

/// The scales of integer weights; empty for floats.
fn read_scales<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
    name: &str,
    variable: &Variable,
) -> Result<Vec<f32>, FormatError> {
    if !matches!(variable.stored, Stored::I8 | Stored::I16) {
        return Ok(Vec::new());
    }
    let scale_name = format!("{name}_scale");
    let scale = index.require(&scale_name)?;
    let count = scale.rows() * scale.row_elements();
    if scale.stored != Stored::F32 || (count != 1 && count != variable.rows()) {
        return Err(FormatError::Invalid(format!(
            "{scale_name} does not fit its weights"
        )));
    }
    reader.seek_to(scale.offset)?;
    let scales = decode(&reader.bytes(count * 4)?, Stored::F32)?;
    if scales.iter().all(|scale| scale.is_normal()) {
        return Ok(scales);
    }
    Err(FormatError::Invalid(format!(
        "{scale_name} has a zero or no number in it"
    )))
}

/// whisper.cpp has no bias for keys; the stacked bias must be zero there.
fn refuse_key_bias<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
    part: &Part,
    rows: u64,
) -> Result<(), FormatError> {
    let name = part.variable.replace("/weight", "/bias");
    let bias = index.require(&name)?;
    if bias.shape != [rows * part.blocks] {
        return Err(FormatError::Invalid(format!(
            "{name} has the shape {:?}",
            bias.shape
        )));
    }
    let from = part.block * rows;
    for_each_chunk(reader, bias, &[], from..from + rows, |values| {
        if values.iter().all(|value| *value == 0.0) {
            return Ok(());
        }
        Err(FormatError::Invalid(format!(
            "{name} has a bias for keys, which Whisper has not"
        )))
    })
}

fn decode(bytes: &[u8], stored: Stored) -> Result<Vec<f32>, FormatError> {
    let halves = |bytes: &[u8]| -> Vec<u16> {
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u16::from_le_bytes(*pair))
            .collect()
    };
    Ok(match stored {
        Stored::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Stored::F16 => {
            let halves: Vec<f16> = halves(bytes).into_iter().map(f16::from_bits).collect();
            let mut values = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut values);
            values
        }
        Stored::Bf16 => halves(bytes)
            .into_iter()
            .map(|bits| f32::from_bits(u32::from(bits) << 16))
            .collect(),
        Stored::I8 => bytes
            .iter()
            .map(|byte| f32::from(byte.cast_signed()))
            .collect(),
        Stored::I16 => halves(bytes)
            .into_iter()
            .map(|h| f32::from(h.cast_signed()))
            .collect(),
        Stored::I32 => {
            return Err(FormatError::invalid(
                "a weight is stored as 32-bit integers",
            ));
        }
    })
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn f16_bytes(values: &[f32]) -> Vec<u8> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.iter().flat_map(|half| half.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_of_a_model_has_a_source() {
        let cases = [
            (
                "encoder.blocks.3.attn.key.weight",
                "encoder/layer_3/self_attention/linear_0/weight",
                1,
                3,
            ),
            (
                "decoder.blocks.0.cross_attn.value.bias",
                "decoder/layer_0/attention/linear_1/bias",
                1,
                2,
            ),
            (
                "decoder.blocks.11.mlp.2.weight",
                "decoder/layer_11/ffn/linear_1/weight",
                0,
                1,
            ),
            ("encoder.ln_post.weight", "encoder/layer_norm/gamma", 0, 1),
            ("decoder.ln.bias", "decoder/layer_norm/beta", 0, 1),
            ("encoder.conv1.bias", "encoder/conv1/bias", 0, 1),
            (
                "decoder.positional_embedding",
                "decoder/position_encodings/encodings",
                0,
                1,
            ),
            (
                "decoder.token_embedding.weight",
                "decoder/embeddings/weight",
                0,
                1,
            ),
        ];
        for (tensor, variable, block, blocks) in cases {
            let expected = Part {
                variable: variable.to_owned(),
                block,
                blocks,
            };
            assert_eq!(Part::of(tensor).unwrap(), expected, "{tensor}");
        }
        assert!(Part::of("nonsense").is_err());
    }

    #[test]
    fn halves_that_are_halves_already_stay_what_they_are() {
        let bits: Vec<u8> = [0x3c00u16, 0x0001, 0xfbff, 0x8000]
            .iter()
            .flat_map(|b| b.to_le_bytes())
            .collect();
        let values = decode(&bits, Stored::F16).unwrap();
        assert_eq!(f16_bytes(&values), bits);
    }
}
