//! The numbers of a CTranslate2 variable, row by row, as 32-bit floats.
//!
//! Weights are floats of three kinds, or integers with one scale per row (weight = integer / scale). Only one
//! block of rows is in memory, whatever the variable's size.

use std::io::{Read, Seek, Write};
use std::ops::Range;

use super::index::{Ct2Index, Stored, Variable};
use crate::models::error::FormatError;
use crate::models::ggml::numbers;
use crate::models::reader::BoundedReader;

/// Elements converted at a time (or one row, if a row is longer).
const CHUNK_ELEMENTS: u64 = 256 * 1024;

/// Copies rows whose number format does not change: most of a float16 folder.
pub(crate) fn copy_bytes<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    variable: &Variable,
    rows: Range<u64>,
    out: &mut impl Write,
) -> Result<(), FormatError> {
    let row_bytes = variable.row_elements() * variable.stored.bytes();
    reader.seek_to(variable.offset + rows.start * row_bytes)?;
    let mut left = (rows.end - rows.start) * row_bytes;
    while left > 0 {
        let bytes = reader.bytes(left.min(CHUNK_ELEMENTS))?;
        out.write_all(&bytes)?;
        left -= bytes.len() as u64;
    }
    Ok(())
}

/// Runs `sink` over the rows as 32-bit floats, a bounded number of elements at a time.
pub(crate) fn for_each_chunk<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    variable: &Variable,
    scales: &[f32],
    rows: Range<u64>,
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
                for value in values {
                    *value /= scale;
                }
            }
        }
        sink(&values)?;
        row += count;
    }
    Ok(())
}

/// The scales of integer weights; empty for floats.
pub(crate) fn read_scales<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    index: &Ct2Index,
    name: &str,
    variable: &Variable,
) -> Result<Vec<f32>, FormatError> {
    if !matches!(variable.stored, Stored::I8 | Stored::I16) {
        return Ok(Vec::new());
    }
    // An alias has its scales beside the variable that it stands for.
    let scale_name = format!("{}_scale", index.stored_name(name));
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
        "{scale_name} contains a zero or a value that is not a number"
    )))
}

fn decode(bytes: &[u8], stored: Stored) -> Result<Vec<f32>, FormatError> {
    match stored {
        Stored::F32 => Ok(numbers::f32_from_bytes(bytes)),
        Stored::F16 => Ok(numbers::f32_from_f16_bytes(bytes)),
        Stored::Bf16 => Ok(numbers::f32_from_bf16_bytes(bytes)),
        Stored::I8 => Ok(numbers::f32_from_i8_bytes(bytes)),
        Stored::I16 => Ok(numbers::f32_from_i16_bytes(bytes)),
        Stored::I32 => Err(FormatError::invalid(
            "a weight is stored as 32-bit integers",
        )),
    }
}
