//! The parsers on bytes in memory, for the fuzz target and the property tests.
//!
//! For any bytes, each function must return without a panic and use at most a small multiple of its input's
//! memory.

use std::io::{self, Cursor};

use super::compute::ComputeType;
use super::error::FormatError;
use super::ggml::{ElementType, GgmlFile};
use super::reader::BoundedReader;
use crate::models::ctranslate2::import::Ct2Model;
use crate::models::ctranslate2::vocabulary;
use crate::models::ggml::convert;

/// Reads the bytes as a CTranslate2 `model.bin` and converts what is accepted.
///
/// Returns the bytes of the ggml file, whose vocabulary is one token.
pub fn import(model: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut model = Ct2Model::read(BoundedReader::new(Cursor::new(model))?)?;
    model.set_tokens(vec![b"a".to_vec()]);
    let mut out = Vec::new();
    model.write(&mut out, ElementType::F16)?;
    Ok(out)
}

/// Reads the bytes as a ggml file and converts what is accepted to 8-bit weights.
pub fn convert(file: &[u8]) -> Result<(), FormatError> {
    let mut reader = BoundedReader::new(Cursor::new(file))?;
    let file = GgmlFile::read(&mut reader)?;
    let to = ElementType::of(ComputeType::Int8);
    match convert::obstacle(&file, to) {
        None => convert::convert(&mut reader, &file, to, &mut io::sink()),
        Some(reason) => Err(FormatError::Invalid(reason)),
    }
}

/// Reads the text as each of the three kinds of vocabulary, for `count` tokens.
pub fn vocabulary(text: &str, count: usize) -> Vec<Result<Vec<Vec<u8>>, FormatError>> {
    vocabulary::parse_as_each(text, count)
}
