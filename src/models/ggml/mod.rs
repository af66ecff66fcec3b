//! Reads, checks and writes ggml Whisper files.
//!
//! whisper.cpp trusts its input: on a truncated or altered file it aborts, loops or transcribes
//! garbage. [`GgmlFile::open`] therefore walks the whole file (headers only, a few milliseconds for
//! 3 GB) and accepts it only when dimensions, tensor names, shapes, types and the file's size all fit.
//!
//! Layout, little-endian: magic `ggml`, eleven dimensions, mel filters, vocabulary, then tensors up to
//! the end of the file.

use std::collections::HashMap;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::models::compute::ComputeType;
use crate::models::error::{FormatError, ModelError};
use crate::models::reader::{BoundedReader, element_count};
use crate::models::sniff;
use layout::{Dimensions, MOST_DIMENSIONS, Role, TensorSpec, tensors};
use mel::FREQUENCY_BINS;

pub(super) mod convert;
pub(super) mod layout;
pub(super) mod mel;
pub(super) mod numbers;
mod quantise;

/// `ggml` read as a little-endian number.
pub(crate) const MAGIC: u32 = 0x6767_6d6c;
/// ggml's file types carry the version of the quantisation format times this factor.
pub(crate) const QUANTISATION_FACTOR: u32 = 1000;
/// Version of the quantisation format that current ggml writes.
pub(crate) const QUANTISATION_VERSION: u32 = 2;
/// The longest token text accepted, in bytes; real ones end at 128.
const LONGEST_TOKEN: u32 = 4096;

/// How the elements of one tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ElementType {
    /// ggml's number of the type, as stored in front of each tensor.
    pub(crate) id: u32,
    /// ggml's number of a file whose weights are of this type.
    pub(crate) file_type: u32,
    /// Name in file names and messages.
    pub(crate) name: &'static str,
    /// Elements per block.
    pub(crate) block: u64,
    /// Bytes per block.
    pub(crate) block_bytes: u64,
}

/// Every type whisper.cpp's tools write, from `ggml.h` and `ggml-common.h`.
const ELEMENT_TYPES: [ElementType; 12] = [
    element(0, 0, "f32", 1, 4),
    element(1, 1, "f16", 1, 2),
    element(2, 2, "q4_0", 32, 18),
    element(3, 3, "q4_1", 32, 20),
    element(6, 8, "q5_0", 32, 22),
    element(7, 9, "q5_1", 32, 24),
    element(8, 7, "q8_0", 32, 34),
    element(10, 10, "q2_k", 256, 84),
    element(11, 11, "q3_k", 256, 110),
    element(12, 12, "q4_k", 256, 144),
    element(13, 13, "q5_k", 256, 176),
    element(14, 14, "q6_k", 256, 210),
];

const fn element(
    id: u32,
    file_type: u32,
    name: &'static str,
    block: u64,
    block_bytes: u64,
) -> ElementType {
    ElementType {
        id,
        file_type,
        name,
        block,
        block_bytes,
    }
}

impl ElementType {
    /// 32-bit floats.
    pub(crate) const F32: Self = ELEMENT_TYPES[0];
    /// 16-bit floats.
    pub(crate) const F16: Self = ELEMENT_TYPES[1];

    /// The type that a compute type stands for.
    pub(crate) fn of(compute: ComputeType) -> Self {
        let name = compute.file_suffix();
        ELEMENT_TYPES
            .into_iter()
            .find(|t| t.name == name)
            .unwrap_or(Self::F16)
    }

    /// Whether several elements share a block.
    pub(crate) fn is_quantised(self) -> bool {
        self.block > 1
    }

    /// The number stored in the header for a file with weights of this type.
    pub(crate) fn header_value(self) -> u32 {
        let version = if self.is_quantised() {
            QUANTISATION_VERSION
        } else {
            0
        };
        version * QUANTISATION_FACTOR + self.file_type
    }

    /// Storage type of a tensor by its role, in a file whose weights are of this type.
    pub(crate) fn for_role(self, role: Role) -> Self {
        match role {
            Role::Weight => self,
            Role::Kernel if self == Self::F32 => Self::F32,
            Role::Kernel => Self::F16,
            Role::Float => Self::F32,
        }
    }

    /// Bytes of a tensor of this shape (outermost dimension first).
    pub(crate) fn bytes_of(self, shape: &[u64]) -> Result<u64, FormatError> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(self.block) {
            return Err(FormatError::Invalid(format!(
                "rows of {row} elements do not divide into blocks of {} ({})",
                self.block, self.name
            )));
        }
        (element_count(shape)? / self.block)
            .checked_mul(self.block_bytes)
            .ok_or_else(|| FormatError::Invalid(format!("the shape {shape:?} overflows")))
    }
}

/// A tensor's position in a file.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    /// Name, shape and rule.
    pub(crate) spec: TensorSpec,
    /// How its elements are stored.
    pub(crate) element: ElementType,
    /// Offset of the first byte of data.
    pub(crate) offset: u64,
}

/// The table of contents of a checked ggml file.
#[derive(Debug)]
pub struct GgmlFile {
    /// Dimensions from the header.
    pub dimensions: Dimensions,
    pub(crate) weights: ElementType,
    /// Bytes from the mel filters to the end of the vocabulary: offset and length.
    pub(crate) preamble: (u64, u64),
    pub(crate) tensors: Vec<StoredTensor>,
    /// Size of the file in bytes.
    pub size_bytes: u64,
}

impl GgmlFile {
    /// Opens and checks a file. The error says what another kind of file is.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        sniff::refuse_other_formats(path)?;
        BoundedReader::open(path)
            .and_then(|mut reader| Self::read(&mut reader))
            .map_err(ModelError::corrupt(path))
    }

    /// Name of the weights' number format, for example `f16` or `q5_1`.
    pub fn weights_name(&self) -> &'static str {
        self.weights.name
    }

    /// Whether the weights are quantised.
    pub fn is_quantised(&self) -> bool {
        self.weights.is_quantised()
    }

    pub(crate) fn read<R: Read + Seek>(reader: &mut BoundedReader<R>) -> Result<Self, FormatError> {
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(FormatError::Invalid(format!(
                "it does not start with 'ggml' ({magic:#x})"
            )));
        }
        let dimensions = read_dimensions(reader)?;
        let weights = read_file_type(reader)?;
        let start = reader.position();
        skip_preamble(reader, &dimensions)?;
        let preamble = (start, reader.position() - start);
        let tensors = read_tensors(reader, &dimensions, weights)?;
        Ok(Self {
            dimensions,
            weights,
            preamble,
            tensors,
            size_bytes: reader.length(),
        })
    }
}

fn read_dimensions<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
) -> Result<Dimensions, FormatError> {
    let dimensions = Dimensions {
        n_vocab: reader.count("n_vocab")?,
        n_audio_ctx: reader.count("n_audio_ctx")?,
        n_audio_state: reader.count("n_audio_state")?,
        n_audio_head: reader.count("n_audio_head")?,
        n_audio_layer: reader.count("n_audio_layer")?,
        n_text_ctx: reader.count("n_text_ctx")?,
        n_text_state: reader.count("n_text_state")?,
        n_text_head: reader.count("n_text_head")?,
        n_text_layer: reader.count("n_text_layer")?,
        n_mels: reader.count("n_mels")?,
    };
    dimensions.check()?;
    Ok(dimensions)
}

fn read_file_type<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
) -> Result<ElementType, FormatError> {
    let value = reader.count("the file type")?;
    let (version, file_type) = (value / QUANTISATION_FACTOR, value % QUANTISATION_FACTOR);
    let weights = ELEMENT_TYPES
        .into_iter()
        .find(|t| t.file_type == file_type)
        .ok_or_else(|| FormatError::Invalid(format!("the file type {value} is unknown")))?;
    if weights.is_quantised() && version != QUANTISATION_VERSION {
        return Err(FormatError::Invalid(format!(
            "its quantisation format {version} is outdated, {QUANTISATION_VERSION} is read"
        )));
    }
    Ok(weights)
}

/// Skips mel filters and vocabulary.
fn skip_preamble<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    dimensions: &Dimensions,
) -> Result<(), FormatError> {
    let (bands, bins) = (
        reader.count("the mel bands")?,
        reader.count("the frequency bins")?,
    );
    if bands != dimensions.n_mels || bins as usize != FREQUENCY_BINS {
        return Err(FormatError::Invalid(format!(
            "its mel filters are {bands} x {bins}"
        )));
    }
    reader.skip(u64::from(bands) * u64::from(bins) * 4)?;
    let tokens = reader.count("the vocabulary")?;
    if tokens == 0 || tokens > dimensions.n_vocab {
        return Err(FormatError::Invalid(format!(
            "its vocabulary has {tokens} entries, at most {} fit",
            dimensions.n_vocab
        )));
    }
    for _ in 0..tokens {
        let length = reader.count("a token's length")?;
        if length > LONGEST_TOKEN {
            return Err(FormatError::Invalid(format!(
                "a token is {length} bytes long"
            )));
        }
        reader.skip(u64::from(length))?;
    }
    Ok(())
}

fn read_tensors<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    dimensions: &Dimensions,
    weights: ElementType,
) -> Result<Vec<StoredTensor>, FormatError> {
    let mut expected: HashMap<String, TensorSpec> = tensors(dimensions)
        .into_iter()
        .map(|spec| (spec.name.clone(), spec))
        .collect();
    let longest_name = expected.keys().map(String::len).max().unwrap_or(0);
    let mut found = Vec::with_capacity(expected.len());
    while reader.left() > 0 {
        let (rank, length, id) = (
            reader.count("the number of dimensions")?,
            reader.count("a name's length")?,
            reader.count("an element type")?,
        );
        if rank == 0 || rank > MOST_DIMENSIONS || length as usize > longest_name {
            return Err(FormatError::Invalid(format!(
                "byte {} is not the start of a tensor",
                reader.position() - 12
            )));
        }
        let mut shape = (0..rank)
            .map(|_| reader.count("a dimension").map(u64::from))
            .collect::<Result<Vec<u64>, _>>()?;
        shape.reverse();
        let name = String::from_utf8(reader.bytes(u64::from(length))?)
            .map_err(|_| FormatError::invalid("a tensor's name is not UTF-8"))?;
        let spec = expected.remove(&name).ok_or_else(|| {
            FormatError::Invalid(format!("the tensor {name:?} is unknown or exists twice"))
        })?;
        let element = weights.for_role(spec.role);
        if shape != spec.shape || id != element.id {
            return Err(FormatError::Invalid(format!(
                "the tensor {name} is {shape:?} of type {id}, expected {:?} of type {}",
                spec.shape, element.id
            )));
        }
        let offset = reader.position();
        reader.skip(element.bytes_of(&shape)?)?;
        found.push(StoredTensor {
            spec,
            element,
            offset,
        });
    }
    match expected.keys().min() {
        None => Ok(found),
        Some(name) => Err(FormatError::Invalid(format!(
            "{} tensors are missing, the file may be incomplete ({name} for one)",
            expected.len()
        ))),
    }
}

/// Writes magic, dimensions and file type.
pub(crate) fn write_header(
    out: &mut impl Write,
    dimensions: &Dimensions,
    weights: ElementType,
) -> io::Result<()> {
    let fields = [
        MAGIC,
        dimensions.n_vocab,
        dimensions.n_audio_ctx,
        dimensions.n_audio_state,
        dimensions.n_audio_head,
        dimensions.n_audio_layer,
        dimensions.n_text_ctx,
        dimensions.n_text_state,
        dimensions.n_text_head,
        dimensions.n_text_layer,
        dimensions.n_mels,
        weights.header_value(),
    ];
    fields
        .iter()
        .try_for_each(|field| out.write_all(&field.to_le_bytes()))
}

/// Writes mel filters and vocabulary.
pub(crate) fn write_preamble(
    out: &mut impl Write,
    bands: u32,
    filters: &[f32],
    tokens: &[Vec<u8>],
) -> io::Result<()> {
    out.write_all(&bands.to_le_bytes())?;
    out.write_all(&(FREQUENCY_BINS as u32).to_le_bytes())?;
    filters
        .iter()
        .try_for_each(|weight| out.write_all(&weight.to_le_bytes()))?;
    out.write_all(&(tokens.len() as u32).to_le_bytes())?;
    tokens.iter().try_for_each(|token| {
        out.write_all(&(token.len() as u32).to_le_bytes())?;
        out.write_all(token)
    })
}

/// Writes what precedes a tensor's data.
pub(crate) fn write_tensor_header(
    out: &mut impl Write,
    spec: &TensorSpec,
    element: ElementType,
) -> io::Result<()> {
    for field in [spec.shape.len() as u32, spec.name.len() as u32, element.id] {
        out.write_all(&field.to_le_bytes())?;
    }
    for dimension in spec.shape.iter().rev() {
        out.write_all(&(*dimension as u32).to_le_bytes())?;
    }
    out.write_all(spec.name.as_bytes())
}
