//! Conversion of a CTranslate2 Whisper folder to a ggml file.
//!
//! CTranslate2 stacks query, key and value into one matrix; ggml stores them separately. The input has floats
//! of three kinds or integers with a scale per row; the output has 16-bit (or 32-bit) floats. All data
//! streams through one buffer of about a million elements, whatever the model's size.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::index::{Ct2Index, Stored};
use super::rows::{copy_bytes, for_each_chunk, read_scales};
use super::vocabulary;
use crate::models::error::{FormatError, ModelError};
use crate::models::ggml::layout::{AUDIO_CONTEXT, Dimensions, HEAD_WIDTH, TensorSpec, tensors};
use crate::models::ggml::mel;
use crate::models::ggml::numbers::{f16_bytes, f32_bytes};
use crate::models::ggml::{ElementType, write_header, write_preamble, write_tensor_header};
use crate::models::reader::BoundedReader;
use crate::models::sniff;

/// Vocabulary sizes for which whisper.cpp has special tokens.
const VOCABULARIES: std::ops::RangeInclusive<u32> = 51_864..=51_866;

/// An opened, indexed and complete CTranslate2 folder.
pub(crate) struct Ct2Model<R> {
    reader: BoundedReader<R>,
    index: Ct2Index,
    /// Dimensions taken from the variables' shapes.
    pub(crate) dimensions: Dimensions,
    tokens: Vec<Vec<u8>>,
}

impl Ct2Model<File> {
    /// Opens a folder and checks everything but the numbers themselves.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        sniff::require_ctranslate2_folder(folder)?;
        let path = folder.join("model.bin");
        let mut model = BoundedReader::open(&path)
            .and_then(Self::read)
            .map_err(ModelError::corrupt(path))?;
        model.set_tokens(vocabulary::read(folder, model.dimensions.text_tokens())?);
        Ok(model)
    }
}

impl<R: Read + Seek> Ct2Model<R> {
    /// Reads the index and the dimensions, without the vocabulary.
    pub(crate) fn read(mut reader: BoundedReader<R>) -> Result<Self, FormatError> {
        let index = Ct2Index::read(&mut reader)?;
        let dimensions = read_dimensions(&mut reader, &index)?;
        Ok(Self {
            reader,
            index,
            dimensions,
            tokens: Vec::new(),
        })
    }

    /// Sets the vocabulary that is written.
    pub(crate) fn set_tokens(&mut self, tokens: Vec<Vec<u8>>) {
        self.tokens = tokens;
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

/// The source of a ggml tensor: a variable, or one of several blocks of rows stacked in it.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    variable: String,
    /// Index of the block.
    block: u64,
    /// Number of blocks.
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
    let rows = part.block * rows..(part.block + 1) * rows;
    if variable.stored == Stored::F16 && element == ElementType::F16 {
        return copy_bytes(reader, variable, rows, out);
    }
    for_each_chunk(reader, variable, &scales, rows, |values| {
        let bytes = if element == ElementType::F32 {
            f32_bytes(values)
        } else {
            f16_bytes(values)
        };
        out.write_all(&bytes)?;
        Ok(())
    })
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
            "{name} has a bias for keys, which Whisper does not have"
        )))
    })
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
}
