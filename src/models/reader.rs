//! Little-endian reading that can neither run past the end nor allocate more than the file holds.
//!
//! Both model formats are sequences of lengths and bytes. All reads go through [`BoundedReader`], which knows
//! the file's size and checks a length *before* allocating memory for it. So a corrupted header leads to an
//! error instead of exhausting memory.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::error::FormatError;

/// A reader that tracks its offset and rejects lengths that the file cannot hold.
pub(crate) struct BoundedReader<R> {
    inner: BufReader<R>,
    position: u64,
    length: u64,
}

impl BoundedReader<File> {
    /// Opens a file for bounded reading.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(FormatError::invalid("it is not a regular file"));
        }
        Self::new(file)
    }
}

impl<R: Read + Seek> BoundedReader<R> {
    /// Wraps a source and determines its size.
    pub(crate) fn new(mut inner: R) -> Result<Self, FormatError> {
        let length = inner.seek(SeekFrom::End(0))?;
        inner.seek(SeekFrom::Start(0))?;
        Ok(Self {
            inner: BufReader::with_capacity(256 * 1024, inner),
            position: 0,
            length,
        })
    }

    /// Current offset in bytes.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Size of the source in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes between the current offset and the end.
    pub(crate) fn left(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// Fails unless at least `count` bytes are left.
    pub(crate) fn need(&self, count: u64) -> Result<(), FormatError> {
        if count <= self.left() {
            return Ok(());
        }
        Err(FormatError::Truncated {
            at: self.position,
            needed: count,
            left: self.left(),
        })
    }

    /// Fills `buffer` completely.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), FormatError> {
        self.need(buffer.len() as u64)?;
        self.inner.read_exact(buffer)?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    /// Reads `count` bytes; allocates only after the check.
    pub(crate) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, FormatError> {
        self.need(count)?;
        let size = usize::try_from(count)
            .map_err(|_| FormatError::invalid("a length exceeds the address space"))?;
        let mut buffer = vec![0; size];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut buffer = [0; N];
        self.fill(&mut buffer)?;
        Ok(buffer)
    }

    /// Reads one byte.
    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    /// Reads a 16-bit unsigned number.
    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads a 32-bit unsigned number.
    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads a 32-bit signed number that must not be negative, as the counts in ggml files.
    pub(crate) fn count(&mut self, what: &str) -> Result<u32, FormatError> {
        let value = i32::from_le_bytes(self.array()?);
        u32::try_from(value)
            .map_err(|_| FormatError::Invalid(format!("{what} is negative ({value})")))
    }

    /// Moves forward by `count` bytes without reading them.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), FormatError> {
        self.need(count)?;
        let step = i64::try_from(count)
            .map_err(|_| FormatError::invalid("a length exceeds what a file can have"))?;
        self.inner.seek_relative(step)?;
        self.position += count;
        Ok(())
    }

    /// Jumps to an absolute offset inside the source.
    pub(crate) fn seek_to(&mut self, offset: u64) -> Result<(), FormatError> {
        if offset > self.length {
            return Err(FormatError::Truncated {
                at: self.length,
                needed: offset,
                left: 0,
            });
        }
        self.inner.seek(SeekFrom::Start(offset))?;
        self.position = offset;
        Ok(())
    }
}

/// Number of elements of a shape, or an error when it overflows.
pub(crate) fn element_count(shape: &[u64]) -> Result<u64, FormatError> {
    shape
        .iter()
        .try_fold(1u64, |product, dimension| product.checked_mul(*dimension))
        .ok_or_else(|| FormatError::Invalid(format!("the shape {shape:?} overflows")))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_length_beyond_the_end_is_refused_before_memory_is_taken() {
        let mut reader = BoundedReader::new(Cursor::new(vec![0u8; 8])).unwrap();
        let error = reader.bytes(u64::MAX).unwrap_err();
        assert!(
            matches!(error, FormatError::Truncated { at: 0, left: 8, .. }),
            "{error}"
        );
        assert!(reader.skip(9).is_err());
        assert!(reader.seek_to(9).is_err());
        assert_eq!(reader.bytes(8).unwrap().len(), 8);
    }

    #[test]
    fn a_shape_that_overflows_is_refused() {
        assert!(element_count(&[u64::from(u32::MAX), u64::from(u32::MAX), 2]).is_err());
        assert_eq!(element_count(&[]).unwrap(), 1);
    }
}
