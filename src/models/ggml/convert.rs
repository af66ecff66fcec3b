//! Rewrites a ggml file with another number format for its weights.
//!
//! The rules are those of whisper.cpp's quantisation tool: weight matrices take the new type; convolution
//! kernels stay 16-bit floats (32-bit only when everything is); biases, norms and positional embeddings stay
//! 32-bit floats. Only float files are converted: quantising twice would add up the errors.

use std::io::{Read, Seek, Write};

use super::numbers;
use super::quantise;
use super::{ElementType, GgmlFile, StoredTensor, write_header, write_tensor_header};
use crate::models::error::FormatError;
use crate::models::reader::BoundedReader;

/// Elements in memory at a time, besides one row: 16 MB as floats.
const CHUNK_ELEMENTS: u64 = 4 * 1024 * 1024;

/// Why `file` cannot get weights of type `to`; `None` if it can.
pub(crate) fn obstacle(file: &GgmlFile, to: ElementType) -> Option<String> {
    if file.is_quantised() {
        return Some(format!(
            "its weights are quantised already ({}); convert the float16 model instead",
            file.weights_name()
        ));
    }
    let odd = file.tensors.iter().find(|tensor| {
        to.for_role(tensor.spec.role)
            .bytes_of(&tensor.spec.shape)
            .is_err()
    })?;
    Some(format!(
        "the rows of {} do not divide into blocks of {}",
        odd.spec.name, to.block
    ))
}

/// Writes `file`, read through `reader`, with weights of type `to`. Call [`obstacle`] first.
pub(crate) fn convert<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    file: &GgmlFile,
    to: ElementType,
    out: &mut impl Write,
) -> Result<(), FormatError> {
    write_header(out, &file.dimensions, to)?;
    let (start, length) = file.preamble;
    reader.seek_to(start)?;
    out.write_all(&reader.bytes(length)?)?;
    for tensor in &file.tensors {
        let target = to.for_role(tensor.spec.role);
        write_tensor_header(out, &tensor.spec, target)?;
        copy_data(reader, tensor, target, out)?;
    }
    Ok(())
}

fn copy_data<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    tensor: &StoredTensor,
    target: ElementType,
    out: &mut impl Write,
) -> Result<(), FormatError> {
    let width = tensor.spec.shape.last().copied().unwrap_or(1);
    let rows = tensor.spec.shape.iter().rev().skip(1).product::<u64>();
    let row_bytes = width * tensor.element.block_bytes;
    let step = (CHUNK_ELEMENTS / width).max(1);
    reader.seek_to(tensor.offset)?;
    let mut left = rows;
    while left > 0 {
        let count = step.min(left);
        let bytes = reader.bytes(count * row_bytes)?;
        if tensor.element == target {
            out.write_all(&bytes)?;
        } else {
            let values = floats(&bytes, tensor.element);
            out.write_all(&quantise::encode(&values, width as usize, target))?;
        }
        left -= count;
    }
    Ok(())
}

/// Decodes float data, which must not be quantised.
fn floats(bytes: &[u8], element: ElementType) -> Vec<f32> {
    if element == ElementType::F32 {
        return numbers::f32_from_bytes(bytes);
    }
    numbers::f32_from_f16_bytes(bytes)
}
