//! The mean tail of a model: measured once, kept beside the model.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use whisper_cpu::Model;
use whisper_cpu::tail::Tail;

/// Speech to measure with, 16 kHz, mono, 16 bits.
const RECORDINGS: [&[u8]; 4] = [
    include_bytes!("../../../samples/en-sentence.wav"),
    include_bytes!("../../../samples/es-sentence.wav"),
    include_bytes!("../../../samples/de-sentence.wav"),
    include_bytes!("../../../samples/en-command.wav"),
];
/// Bytes of a WAV header without additional chunks.
const WAV_HEADER_BYTES: usize = 44;
/// Changes when the measurement or the format of the file changes.
const VERSION: &[u8] = b"uttera-tail-1";

/// The tail of a model: from the file beside it, or measured, which takes a few full passes of the encoder.
pub(super) fn of(model: &Model, path: &Path) -> Tail {
    let stored = path.with_extension("tail");
    let key = key(path);
    if let Some(tail) = key.as_ref().and_then(|key| read(&stored, key, model)) {
        return tail;
    }
    let recordings = RECORDINGS.map(|recording| {
        let samples = recording[WAV_HEADER_BYTES..].chunks_exact(2);
        let samples = samples.map(|two| f32::from(i16::from_le_bytes([two[0], two[1]])) / 32_768.0);
        samples.collect::<Vec<f32>>()
    });
    let recordings: Vec<&[f32]> = recordings.iter().map(Vec::as_slice).collect();
    let tail = Tail::measure(model, &recordings);
    let written = key.map(|key| write(&stored, &key, &tail));
    if let Some(Err(error)) = written {
        eprintln!(
            "{} cannot be written, so every start takes longer: {error}",
            stored.display()
        );
    }
    tail
}

/// Identifies a model file without reading all of it.
fn key(path: &Path) -> Option<[u8; 32]> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut hash = Sha256::new();
    hash.update(VERSION);
    hash.update(file.metadata().ok()?.len().to_le_bytes());
    // Past the filter bank and the vocabulary, which many models share.
    let mut begin = vec![0; 4 << 20];
    let length = file.read(&mut begin).ok()?;
    hash.update(&begin[..length]);
    Some(hash.finalize().into())
}

fn read(path: &Path, key: &[u8; 32], model: &Model) -> Option<Tail> {
    let bytes = std::fs::read(path).ok()?;
    let (head, rest) = bytes.split_at_checked(64)?;
    if head[..32] != *key || head[32..] != *Sha256::digest(rest) {
        return None;
    }
    let values: Vec<f32> = rest
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    Tail::from_values(model, &values)
}

/// Writes the file beside its final place first, so that no process ever reads an incomplete one.
fn write(path: &Path, key: &[u8; 32], tail: &Tail) -> std::io::Result<()> {
    let bytes: Vec<u8> = tail.values().flat_map(f32::to_le_bytes).collect();
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(key)?;
    file.write_all(&Sha256::digest(&bytes))?;
    file.write_all(&bytes)?;
    file.persist(path)?;
    Ok(())
}
