//! Reads ggml Whisper files, as whisper.cpp's tools write them.
//!
//! Layout, little-endian: the magic number `ggml`, eleven dimensions, the mel filter bank, the vocabulary, then
//! tensors up to the end of the file. Every number is checked before it is used: a damaged or hostile file is an
//! error, never a panic or an allocation that the file's size does not justify.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::blocks::ElementType;
use crate::linear::Precision;
use crate::prepared::{ByteMatrix, Prepared};

/// `ggml` as a little-endian number.
const MAGIC: u32 = 0x6767_6d6c;
/// Length of the longest accepted token text, in bytes. Real ones end at 128.
const LONGEST_TOKEN: u32 = 4096;
/// Length of the longest accepted tensor name, in bytes.
const LONGEST_NAME: u32 = 256;
/// Limits of all dimensions: twice those of the largest published model.
const MOST_STATE: u32 = 2560;
const MOST_HEAD: u32 = 512;
const MOST_LAYERS: u32 = 64;
const MOST_VOCABULARY: u32 = 110_000;

/// Why a file is not a usable model.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file cannot be read, or ends early.
    #[error("cannot read the model file")]
    Read(#[from] std::io::Error),
    /// The file is not a Whisper model in ggml's format.
    #[error("not a Whisper model in ggml's format: {0}")]
    Format(String),
}

fn format_error(message: impl Into<String>) -> FileError {
    FileError::Format(message.into())
}

/// Dimensions of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Number of tokens.
    pub vocabulary: usize,
    /// Encoder positions of 20 ms in a window: 1500.
    pub audio_positions: usize,
    /// Width of the encoder's and the decoder's state.
    pub state: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// Encoder layers.
    pub audio_layers: usize,
    /// Decoder positions: 448.
    pub text_positions: usize,
    /// Decoder layers.
    pub text_layers: usize,
    /// Mel bands: 80, or 128 for large-v3 and turbo.
    pub mels: usize,
}

impl Dimensions {
    /// Width of one attention head.
    pub fn head(&self) -> usize {
        self.state / self.heads
    }
}

/// Where a tensor's data lies in the file.
#[derive(Clone, Debug)]
struct Entry {
    kind: ElementType,
    /// Lengths of the dimensions, the slowest first.
    shape: Vec<usize>,
    offset: u64,
}

/// An open model file: dimensions, filter bank and vocabulary are read, tensors on demand.
#[derive(Debug)]
pub struct ModelFile {
    /// The dimensions.
    pub dimensions: Dimensions,
    /// The mel filter bank: `mels` rows of 201 weights.
    pub filters: Vec<f32>,
    /// The texts of the tokens of text. The special tokens follow them without a text.
    pub texts: Vec<Vec<u8>>,
    file: Mutex<File>,
    entries: HashMap<String, Entry>,
    prepared: Option<Prepared>,
    /// Matrices that were not prepared.
    made: Mutex<Vec<(String, ByteMatrix)>>,
}

/// Rows of a tensor that are converted at a time: whole blocks of every element type.
const ROWS_AT_ONCE: usize = 256;

/// Frequency bins of the filter bank.
pub const BINS: usize = 201;

impl ModelFile {
    /// Opens a file and reads all but the tensors' data.
    ///
    /// # Errors
    /// The file cannot be read or is not a Whisper model.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        if number(&mut file)? != MAGIC {
            return Err(format_error("the magic number is missing"));
        }
        let mut header = [0; 11];
        for value in &mut header {
            *value = number(&mut file)?;
        }
        let dimensions = dimensions(&header)?;
        let filters = filters(&mut file, dimensions.mels)?;
        let texts = texts(&mut file, dimensions.vocabulary)?;
        let entries = entries(&mut file, length)?;
        Ok(Self {
            dimensions,
            filters,
            texts,
            file: Mutex::new(file.into_inner()),
            entries,
            prepared: None,
            made: Mutex::default(),
        })
    }

    /// Takes 8-bit matrices from a prepared file.
    pub(crate) fn use_prepared(&mut self, prepared: Prepared) {
        self.prepared = Some(prepared);
    }

    /// A matrix with this many 8-bit numbers, scales and offsets: from the prepared file, or made.
    pub(crate) fn prepared(
        &self,
        name: &str,
        lengths: [usize; 3],
        make: impl FnOnce() -> Result<ByteMatrix, FileError>,
    ) -> Result<ByteMatrix, FileError> {
        if let Some(prepared) = &self.prepared {
            return prepared.matrix(name, lengths);
        }
        let matrix = make()?;
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((name.to_owned(), matrix.clone()));
        Ok(matrix)
    }

    /// All matrices that were made.
    pub(crate) fn into_made(self) -> Vec<(String, ByteMatrix)> {
        self.made
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The precision that fits the file's weights.
    pub fn precision(&self) -> Precision {
        let weights = self.entries.get("decoder.token_embedding.weight");
        match weights.map(|entry| entry.kind) {
            Some(ElementType::F32) => Precision::Float,
            _ => Precision::Byte,
        }
    }

    /// Reads a tensor, converted to 32-bit numbers: its elements row by row.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or cannot be read.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, FileError> {
        let mut values = Vec::with_capacity(shape.iter().product());
        self.each_rows(name, shape, |rows| values.extend_from_slice(rows))?;
        Ok(values)
    }

    /// Reads a tensor some rows at a time, converted to 32-bit numbers, so that little memory is needed.
    ///
    /// # Errors
    /// As for [`Self::tensor`]; some rows may have been read already.
    pub fn each_rows(
        &self,
        name: &str,
        shape: &[usize],
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), FileError> {
        let entry = (self.entries.get(name))
            .ok_or_else(|| format_error(format!("the tensor {name} is missing")))?;
        // Biases of convolutions are stored as columns.
        let squeezed = |shape: &[usize]| -> Vec<usize> {
            let long = shape.iter().copied().filter(|length| *length != 1);
            long.collect()
        };
        if squeezed(&entry.shape) != squeezed(shape) {
            let found = &entry.shape;
            return Err(format_error(format!(
                "the tensor {name} has the shape {found:?}"
            )));
        }
        let count: usize = shape.iter().product();
        let at_once = match shape {
            [rows, ..] if *rows > ROWS_AT_ONCE => count / rows * ROWS_AT_ONCE,
            _ => count,
        };
        let mut data = Vec::new();
        let mut values = Vec::new();
        let mut offset = entry.offset;
        for first in (0..count).step_by(at_once.max(1)) {
            let elements = at_once.min(count - first);
            let bytes = entry.kind.bytes(elements);
            data.resize(
                bytes.expect("whole blocks, as checked when the file was opened"),
                0,
            );
            {
                let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(&mut data)?;
            }
            offset += data.len() as u64;
            values.clear();
            entry.kind.decode(&data, &mut values);
            each(&values);
        }
        Ok(())
    }
}

fn number(file: &mut impl Read) -> Result<u32, FileError> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn dimensions(header: &[u32; 11]) -> Result<Dimensions, FileError> {
    let [
        vocabulary,
        audio_positions,
        state,
        heads,
        audio_layers,
        text_positions,
        text_state,
        text_heads,
        text_layers,
        mels,
        _file_type,
    ] = *header;
    let sane = (51_864..=MOST_VOCABULARY).contains(&vocabulary)
        && audio_positions == 1500
        && text_positions == 448
        && (1..=MOST_STATE).contains(&state)
        && heads > 0
        && state % heads == 0
        // The kernels work on whole groups of eight, and on sums that 32 bits hold.
        && (state / heads) % 8 == 0
        && state / heads <= MOST_HEAD
        && (1..=MOST_LAYERS).contains(&audio_layers)
        && (1..=MOST_LAYERS).contains(&text_layers)
        && (text_state, text_heads) == (state, heads)
        && matches!(mels, 80 | 128);
    if !sane {
        return Err(format_error(format!("dimensions {header:?}")));
    }
    Ok(Dimensions {
        vocabulary: vocabulary as usize,
        audio_positions: audio_positions as usize,
        state: state as usize,
        heads: heads as usize,
        audio_layers: audio_layers as usize,
        text_positions: text_positions as usize,
        text_layers: text_layers as usize,
        mels: mels as usize,
    })
}

fn filters(file: &mut impl Read, mels: usize) -> Result<Vec<f32>, FileError> {
    let (rows, columns) = (number(file)?, number(file)?);
    if (rows as usize, columns as usize) != (mels, BINS) {
        return Err(format_error(format!("a filter bank of {rows} × {columns}")));
    }
    let mut bytes = vec![0; mels * BINS * 4];
    file.read_exact(&mut bytes)?;
    let mut filters = Vec::with_capacity(mels * BINS);
    ElementType::F32.decode(&bytes, &mut filters);
    Ok(filters)
}

fn texts(file: &mut impl Read, vocabulary: usize) -> Result<Vec<Vec<u8>>, FileError> {
    let count = number(file)? as usize;
    if count > vocabulary {
        return Err(format_error(format!("{count} token texts")));
    }
    let mut texts = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(file)?;
        if length > LONGEST_TOKEN {
            return Err(format_error(format!("a token of {length} bytes")));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text)?;
        texts.push(text);
    }
    Ok(texts)
}

/// Walks over all tensors.
fn entries(file: &mut BufReader<File>, length: u64) -> Result<HashMap<String, Entry>, FileError> {
    let mut entries = HashMap::new();
    let mut place = file.stream_position()?;
    while place < length {
        let (rank, name_length, kind) = (number(file)?, number(file)?, number(file)?);
        if !(1..=4).contains(&rank) || name_length > LONGEST_NAME {
            return Err(format_error("a tensor's head"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(number(file)? as usize);
        }
        // ggml stores the fastest dimension first.
        shape.reverse();
        let mut name = vec![0; name_length as usize];
        file.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| format_error("a tensor's name"))?;
        let kind = ElementType::of(kind)
            .ok_or_else(|| format_error(format!("{name} has the unknown element type {kind}")))?;
        let count = (shape.iter()).try_fold(1_usize, |all, length| all.checked_mul(*length));
        let bytes = count
            .and_then(|count| kind.bytes(count))
            .ok_or_else(|| format_error(format!("{name} has the shape {shape:?}")))?;
        let offset = file.stream_position()?;
        place = offset.saturating_add(bytes as u64);
        if place > length {
            return Err(format_error(format!("the file ends within {name}")));
        }
        file.seek(SeekFrom::Start(place))?;
        entries.insert(
            name,
            Entry {
                kind,
                shape,
                offset,
            },
        );
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// A file with one tensor, whose head can be damaged.
    fn bytes() -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        let header: [u32; 11] = [51_864, 1500, 64, 1, 1, 448, 64, 1, 1, 80, 1];
        bytes.extend(header.iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend([80_u32, 201].iter().flat_map(|value| value.to_le_bytes()));
        bytes.resize(bytes.len() + 80 * BINS * 4, 0);
        bytes.extend(2_u32.to_le_bytes());
        for text in ["a", " b"] {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.bytes());
        }
        for value in [2_u32, 4, 0, 3, 2] {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(b"name");
        bytes.extend((1..=6).flat_map(|value| f32::to_le_bytes(value as f32)));
        bytes
    }

    fn open(bytes: &[u8]) -> Result<ModelFile, FileError> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("writes");
        ModelFile::open(file.path())
    }

    #[test]
    fn tensors_have_their_shape_and_values() {
        let file = open(&bytes()).expect("opens");
        assert_eq!(file.texts, [b"a".to_vec(), b" b".to_vec()]);
        let tensor = file.tensor("name", &[2, 3]).expect("is there");
        assert_eq!(tensor, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for (name, shape) in [("name", [3, 2]), ("other", [2, 3])] {
            assert!(matches!(
                file.tensor(name, &shape),
                Err(FileError::Format(_))
            ));
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let bytes = bytes();
        for length in [0, 3, 40, 60, bytes.len() - 25, bytes.len() - 1] {
            assert!(open(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn damage_is_an_error_or_leaves_a_usable_file(
            damage in prop::collection::vec((0_usize..1000, any::<u8>()), 1..6),
        ) {
            let mut bytes = bytes();
            let (length, bank) = (bytes.len(), 80 * BINS * 4);
            for (place, value) in damage {
                // The filter bank may hold anything, so the damage spares it.
                let place = place % (length - bank);
                let place = if place < 56 { place } else { place + bank };
                bytes[place] = value;
            }
            if let Ok(file) = open(&bytes) {
                let _ = file.tensor("name", &[2, 3]);
            }
        }
    }
}
