//! The table of contents of a CTranslate2 `model.bin` (binary version 6).
//!
//! Little-endian: version, spec name, spec revision, variables (name, rank, dimensions, type, byte count,
//! data), aliases (two names each). A string is a 16-bit length that includes a final NUL, then the bytes.
//! The reader seeks over the data, so building the index takes the same time for any model size. Every length
//! is checked against the file's size before use.

use std::collections::HashMap;
use std::io::{Read, Seek};

use crate::models::error::FormatError;
use crate::models::reader::{BoundedReader, element_count};

/// The supported version of the file format; CTranslate2 has written it since 2.0 (2021).
const BINARY_VERSION: u32 = 6;
/// Smallest size of a variable's header: name length, NUL, rank, type, byte count.
const LEAST_VARIABLE_BYTES: u64 = 2 + 1 + 1 + 1 + 4;
/// Smallest size of an alias: two empty names.
const LEAST_ALIAS_BYTES: u64 = 2 * (2 + 1);
/// Whisper's tensors have at most three dimensions; the format allows 255.
const MOST_DIMENSIONS: u8 = 8;

/// How a variable's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// 32-bit floats.
    F32,
    /// 8-bit integers, to be divided by a scale.
    I8,
    /// 16-bit integers, to be divided by a scale.
    I16,
    /// 32-bit integers, which no weight uses.
    I32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the exponent of 32-bit ones.
    Bf16,
}

impl Stored {
    fn from_id(id: u8) -> Result<Self, FormatError> {
        match id {
            0 => Ok(Self::F32),
            1 => Ok(Self::I8),
            2 => Ok(Self::I16),
            3 => Ok(Self::I32),
            4 => Ok(Self::F16),
            5 => Ok(Self::Bf16),
            _ => Err(FormatError::Invalid(format!(
                "the number type {id} is unknown"
            ))),
        }
    }

    /// Size of one element in bytes.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::I8 => 1,
            Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
        }
    }
}

/// A variable's shape and position in the file.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    /// Dimensions, outermost first; empty for a scalar.
    pub(crate) shape: Vec<u64>,
    /// Element type.
    pub(crate) stored: Stored,
    /// Offset of the data.
    pub(crate) offset: u64,
}

impl Variable {
    /// Length of the outermost dimension, 1 for a scalar.
    pub(crate) fn rows(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Elements per row of the outermost dimension. The reader has checked that it does not overflow.
    pub(crate) fn row_elements(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }
}

/// Names and positions of all variables.
#[derive(Debug)]
pub(crate) struct Ct2Index {
    variables: HashMap<String, Variable>,
    aliases: HashMap<String, String>,
}

impl Ct2Index {
    /// Reads the index. Fails on anything that is not a complete Whisper model of version 6.
    pub(crate) fn read<R: Read + Seek>(reader: &mut BoundedReader<R>) -> Result<Self, FormatError> {
        let version = reader.u32()?;
        if version != BINARY_VERSION {
            return Err(FormatError::Invalid(format!(
                "it is version {version} of CTranslate2's format, version {BINARY_VERSION} is read"
            )));
        }
        let spec = read_string(reader)?;
        if spec != "WhisperSpec" {
            return Err(FormatError::Invalid(format!(
                "it is a {spec:?} model, not Whisper"
            )));
        }
        let _revision = reader.u32()?;
        let variables = read_variables(reader)?;
        let aliases = read_aliases(reader)?;
        if reader.left() > 0 {
            return Err(FormatError::Invalid(format!(
                "{} bytes follow where the file should end",
                reader.left()
            )));
        }
        Ok(Self { variables, aliases })
    }

    /// Looks a variable up, by its own name or by an alias (equal tensors are stored once).
    pub(crate) fn get(&self, name: &str) -> Option<&Variable> {
        self.variables.get(self.stored_name(name))
    }

    /// The name under which a variable's data is stored.
    pub(crate) fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        match self.aliases.get(name) {
            Some(target) if !self.variables.contains_key(name) => target,
            _ => name,
        }
    }

    /// Like [`Self::get`], with an error that names the missing variable.
    pub(crate) fn require(&self, name: &str) -> Result<&Variable, FormatError> {
        self.get(name)
            .ok_or_else(|| FormatError::Invalid(format!("the variable {name} is missing")))
    }

    /// Number of consecutive layers of a side (`encoder` or `decoder`).
    pub(crate) fn layers(&self, side: &str) -> u32 {
        let mut layers = 0;
        while self
            .get(&format!("{side}/layer_{layers}/ffn/linear_0/weight"))
            .is_some()
        {
            layers += 1;
        }
        layers
    }
}

fn read_string<R: Read + Seek>(reader: &mut BoundedReader<R>) -> Result<String, FormatError> {
    let length = u64::from(reader.u16()?);
    let mut bytes = reader.bytes(length)?;
    if bytes.pop() != Some(0) {
        return Err(FormatError::invalid("a name does not end with a NUL"));
    }
    String::from_utf8(bytes).map_err(|_| FormatError::invalid("a name is not UTF-8"))
}

/// Most variables or aliases that are accepted. The largest model has about 2,000 of each; many more would
/// take far more memory than their file.
fn most(count: u64) -> Result<(), FormatError> {
    if count > 100_000 {
        return Err(FormatError::invalid(
            "it claims more variables than any model has",
        ));
    }
    Ok(())
}

fn read_variables<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
) -> Result<HashMap<String, Variable>, FormatError> {
    let count = u64::from(reader.u32()?);
    most(count)?;
    reader.need(count * LEAST_VARIABLE_BYTES)?;
    let mut variables = HashMap::new();
    for _ in 0..count {
        let name = read_string(reader)?;
        let variable = read_variable(reader, &name)?;
        if variables.insert(name.clone(), variable).is_some() {
            return Err(FormatError::Invalid(format!(
                "the variable {name} exists twice"
            )));
        }
    }
    Ok(variables)
}

fn read_variable<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
    name: &str,
) -> Result<Variable, FormatError> {
    let rank = reader.u8()?;
    if rank > MOST_DIMENSIONS {
        return Err(FormatError::Invalid(format!(
            "the variable {name} has {rank} dimensions"
        )));
    }
    let shape = (0..rank)
        .map(|_| reader.u32().map(u64::from))
        .collect::<Result<Vec<u64>, _>>()?;
    // The product of the inner dimensions must not overflow either: a leading dimension of 0 would hide that.
    element_count(shape.get(1..).unwrap_or_default())?;
    let stored = Stored::from_id(reader.u8()?)?;
    let bytes = u64::from(reader.u32()?);
    if element_count(&shape)?.checked_mul(stored.bytes()) != Some(bytes) {
        return Err(FormatError::Invalid(format!(
            "the variable {name} has {bytes} bytes, which is not {shape:?} of {stored:?}"
        )));
    }
    let offset = reader.position();
    reader.skip(bytes)?;
    Ok(Variable {
        shape,
        stored,
        offset,
    })
}

fn read_aliases<R: Read + Seek>(
    reader: &mut BoundedReader<R>,
) -> Result<HashMap<String, String>, FormatError> {
    let count = u64::from(reader.u32()?);
    most(count)?;
    reader.need(count * LEAST_ALIAS_BYTES)?;
    let mut aliases = HashMap::new();
    for _ in 0..count {
        let alias = read_string(reader)?;
        aliases.insert(alias, read_string(reader)?);
    }
    Ok(aliases)
}
