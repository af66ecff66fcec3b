//! Weights that are ready for use, in a file beside the model.
//!
//! Rounding a model's weights to 8 bits and packing them takes longer than reading them. So it is done once, and the
//! result is written into a file that later processes map into their memory: they are ready at once, and share it.
//!
//! Layout, little-endian: a magic text, the largest weight that this processor's products allow, the caller's key for the
//! model, a CRC-32 of the index and the blocks, the length of the index, the index (for each block the length of its name,
//! the name, its offset and its length), and the blocks, each at a multiple of 64 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::file::FileError;
use crate::kernels::largest_weight;

/// Changes when the layout or the packing changes.
const MAGIC: &[u8; 15] = b"uttera prepared";
/// Bytes before the index: the magic, the largest weight of a panel, the key, the checksum and the index's length.
const HEAD: usize = 15 + 1 + 32 + 4 + 4;
/// Blocks begin at multiples of this.
const ALIGNMENT: usize = 64;

/// Identifies the model that a file was made from.
pub type Key = [u8; 32];

/// 8-bit numbers: in memory of their own, or in a mapped file.
#[derive(Clone, Debug)]
pub(crate) enum Bytes {
    Own(Arc<Vec<i8>>),
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Deref for Bytes {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Mapped(map, range) => bytemuck::cast_slice(&map[range.clone()]),
        }
    }
}

/// A matrix of 8-bit numbers.
#[derive(Clone, Debug)]
pub(crate) struct ByteMatrix {
    pub(crate) bytes: Bytes,
    /// The value of a step, for each output.
    pub(crate) scales: Arc<[f32]>,
    /// The products with activations of zero, for each output; empty where activations are signed.
    pub(crate) offsets: Arc<[i32]>,
}

/// A mapped file.
#[derive(Clone, Debug)]
pub struct Prepared {
    map: Arc<Mmap>,
    blocks: HashMap<String, Range<usize>>,
}

fn damaged() -> FileError {
    FileError::Format("the prepared file is damaged".to_owned())
}

fn number(bytes: &[u8], at: usize) -> Result<u64, FileError> {
    let eight = at.checked_add(8).and_then(|end| bytes.get(at..end));
    let eight = eight.and_then(|eight| eight.try_into().ok());
    eight.map(u64::from_le_bytes).ok_or_else(damaged)
}

impl Prepared {
    /// Maps a file that was made from the model with this key.
    ///
    /// # Errors
    /// There is no such file, it was made from another model or by another version, or it is damaged.
    pub fn open(path: &Path, key: &Key) -> Result<Self, FileError> {
        let file = File::open(path)?;
        // SAFETY: a mapped file must not change. These files are written under another name and then renamed, never
        // changed in place.
        let map = unsafe { Mmap::map(&file) }?;
        let (head, rest) = map.split_at_checked(HEAD).ok_or_else(damaged)?;
        let is_wanted =
            head[..15] == *MAGIC && head[15] == largest_weight() as u8 && head[16..48] == *key;
        if !is_wanted || head[48..52] != crc32fast::hash(rest).to_le_bytes() {
            return Err(damaged());
        }
        let index = u32::from_le_bytes([head[52], head[53], head[54], head[55]]) as usize;
        let index = rest.get(..index).ok_or_else(damaged)?;
        let mut blocks = HashMap::new();
        let mut at = 0;
        while at < index.len() {
            let name = at + 8..(at + 8).saturating_add(number(index, at)? as usize);
            at = name.end.saturating_add(16);
            let name = index.get(name.clone()).zip(Some(name.end));
            let (name, end) = name.ok_or_else(damaged)?;
            let (offset, length) = (
                number(index, end)? as usize,
                number(index, end + 8)? as usize,
            );
            let block = offset..offset.saturating_add(length);
            if block.end > map.len() || offset % ALIGNMENT != 0 {
                return Err(damaged());
            }
            blocks.insert(String::from_utf8_lossy(name).into_owned(), block);
        }
        Ok(Self {
            map: Arc::new(map),
            blocks,
        })
    }

    /// Copies a block of 32-bit numbers.
    ///
    /// # Errors
    /// There is no such block.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, FileError> {
        let block = &self.map[self.block(name)?];
        let fours = block.as_chunks::<4>().0.iter();
        Ok(fours.map(|four| f32::from_le_bytes(*four)).collect())
    }

    fn block(&self, name: &str) -> Result<Range<usize>, FileError> {
        self.blocks.get(name).cloned().ok_or_else(damaged)
    }

    /// A matrix with this many 8-bit numbers, scales and offsets.
    pub(crate) fn matrix(&self, name: &str, lengths: [usize; 3]) -> Result<ByteMatrix, FileError> {
        let block = self.block(&format!("{name} bytes"))?;
        let scales = self.floats(&format!("{name} scales"))?;
        let offsets = &self.map[self.block(&format!("{name} offsets"))?];
        let offsets: Arc<[i32]> = (offsets.as_chunks::<4>().0.iter())
            .map(|four| i32::from_le_bytes(*four))
            .collect();
        if [block.len(), scales.len(), offsets.len()] != lengths {
            return Err(damaged());
        }
        Ok(ByteMatrix {
            bytes: Bytes::Mapped(Arc::clone(&self.map), block),
            scales: scales.into(),
            offsets,
        })
    }
}

/// Writes a file with matrices and other numbers. It must not be at its final place yet, where another process could
/// read it.
pub(crate) fn write(
    to: &mut File,
    key: &Key,
    matrices: &[(String, ByteMatrix)],
    others: &[(&str, Vec<f32>)],
) -> std::io::Result<()> {
    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().copied().flat_map(f32::to_le_bytes).collect()
    }
    let mut small: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, values) in others {
        small.push(((*name).to_owned(), floats(values)));
    }
    for (name, matrix) in matrices {
        let offsets = matrix.offsets.iter().copied();
        let offsets = offsets.flat_map(i32::to_le_bytes).collect();
        small.push((format!("{name} scales"), floats(&matrix.scales)));
        small.push((format!("{name} offsets"), offsets));
    }
    let large = matrices.iter().map(|(name, matrix)| {
        let bytes: &[u8] = bytemuck::cast_slice(&matrix.bytes);
        (format!("{name} bytes"), bytes)
    });
    let small = small.iter().map(|(name, bytes)| (name.clone(), &bytes[..]));
    let blocks: Vec<(String, &[u8])> = small.chain(large).collect();
    let index: usize = blocks.iter().map(|(name, _)| name.len() + 24).sum();
    let mut head = Vec::with_capacity(index);
    let mut offset = (HEAD + index).next_multiple_of(ALIGNMENT);
    for (name, bytes) in &blocks {
        head.extend((name.len() as u64).to_le_bytes());
        head.extend(name.bytes());
        head.extend((offset as u64).to_le_bytes());
        head.extend((bytes.len() as u64).to_le_bytes());
        offset = (offset + bytes.len()).next_multiple_of(ALIGNMENT);
    }
    let mut at = HEAD + index;
    let mut parts: Vec<&[u8]> = vec![&head];
    for (_, bytes) in &blocks {
        parts.push(&[0; ALIGNMENT][..at.next_multiple_of(ALIGNMENT) - at]);
        parts.push(bytes);
        at = at.next_multiple_of(ALIGNMENT) + bytes.len();
    }
    let mut checksum = crc32fast::Hasher::new();
    for part in &parts {
        checksum.update(part);
    }
    to.write_all(MAGIC)?;
    to.write_all(&[largest_weight() as u8])?;
    to.write_all(key)?;
    to.write_all(&checksum.finalize().to_le_bytes())?;
    to.write_all(&(index as u32).to_le_bytes())?;
    parts.iter().try_for_each(|part| to.write_all(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a file");
        let matrix = ByteMatrix {
            bytes: Bytes::Own(Arc::new((0..100).collect())),
            scales: [0.5, 0.25].into(),
            offsets: [3, 4].into(),
        };
        let matrices = [("layer".to_owned(), matrix)];
        write(&mut file, &[7; 32], &matrices, &[("tail", vec![1.5; 5])]).expect("writes");
        let mut bytes = Vec::new();
        std::io::Seek::rewind(&mut file).expect("rewinds");
        std::io::Read::read_to_end(&mut file, &mut bytes).expect("reads");
        bytes
    }

    fn open(bytes: &[u8], key: u8) -> Result<Prepared, FileError> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("writes");
        Prepared::open(file.path(), &[key; 32])
    }

    #[test]
    fn what_was_written_is_read() {
        let prepared = open(&written(), 7).expect("opens");
        let matrix = prepared.matrix("layer", [100, 2, 2]).expect("is there");
        assert!(matrix.bytes.iter().copied().eq(0..100));
        assert_eq!(
            (&matrix.scales[..], &matrix.offsets[..]),
            (&[0.5, 0.25][..], &[3, 4][..])
        );
        assert_eq!(prepared.floats("tail").expect("is there"), [1.5; 5]);
        for (name, lengths) in [
            ("layer", [99, 2, 2]),
            ("layer", [100, 3, 2]),
            ("layer", [100, 2, 0]),
            ("other", [100, 2, 2]),
        ] {
            assert!(prepared.matrix(name, lengths).is_err());
        }
        assert!(open(&written(), 8).is_err(), "another model's key");
    }

    proptest! {
        #[test]
        fn damage_is_an_error(place in 0_usize..10_000, bit in 0_u32..8, cut in any::<bool>()) {
            let mut bytes = written();
            let place = place % bytes.len();
            if cut {
                bytes.truncate(place);
            } else {
                bytes[place] ^= 1 << bit;
            }
            prop_assert!(open(&bytes, 7).is_err());
        }

        /// With a right checksum, so that the index is read.
        #[test]
        fn a_hostile_index_is_an_error_or_has_blocks_within_the_file(
            damage in prop::collection::vec((HEAD..HEAD + 150, any::<u8>()), 1..5),
        ) {
            let mut bytes = written();
            for (place, value) in damage {
                bytes[place] = value;
            }
            let checksum = crc32fast::hash(&bytes[HEAD..]);
            bytes[48..52].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(prepared) = open(&bytes, 7) {
                let _ = prepared.matrix("layer", [100, 2, 2]);
                let _ = prepared.floats("tail");
            }
        }
    }
}
