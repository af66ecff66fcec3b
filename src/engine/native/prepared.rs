//! The file beside a model with what its first start prepares: the weights as they lie in memory, and the mean tail.
//!
//! Later workers map it: they are ready sooner, and share the memory of the weights.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};
use whisper_cpu::Model;
use whisper_cpu::file::FileError;
use whisper_cpu::prepared::{Key, Prepared};
use whisper_cpu::tail::Tail;

/// Speech to measure the tail with, 16 kHz, mono, 16 bits.
const RECORDINGS: [&[u8]; 4] = [
    include_bytes!("../../../samples/en-sentence.wav"),
    include_bytes!("../../../samples/es-sentence.wav"),
    include_bytes!("../../../samples/de-sentence.wav"),
    include_bytes!("../../../samples/en-command.wav"),
];
/// Bytes of a WAV header without additional chunks.
const WAV_HEADER_BYTES: usize = 44;
/// Changes when the measurement of the tail changes.
const VERSION: &[u8] = b"uttera-tail-1";
/// Parts of a model file that identify it, and their length in bytes.
const PARTS: u64 = 16;
const PART_BYTES: u64 = 64 << 10;

/// Loads a model as its prepared file has it. If there is none for it, or a damaged one, prepares it.
pub(super) fn load(path: &Path, threads: usize) -> Result<(Model, Tail), FileError> {
    // Added to the whole name, so that no two models share a file, and none is taken for its own.
    let mut place = path.as_os_str().to_owned();
    place.push(".prepared");
    let place = PathBuf::from(place);
    let key = key(path)?;
    if let Ok(both) = open(path, &place, &key, threads) {
        return Ok(both);
    }
    let model = Model::load(path, None, threads)?;
    let tail = measured(&model);
    let shown = place.display();
    if let Err(error) = write(path, &place, &key, (&model, &tail)) {
        eprintln!(
            "{shown} cannot be written, so every start takes longer and every worker has weights of its own: {error}"
        );
        return Ok((model, tail));
    }
    // Mapped, so that the next worker shares the memory. Both at once could be too much.
    drop((model, tail));
    open(path, &place, &key, threads).or_else(|error| {
        eprintln!("{shown} was written and cannot be used, so every start takes longer: {error}");
        let model = Model::load(path, None, threads)?;
        let tail = measured(&model);
        Ok((model, tail))
    })
}

fn open(path: &Path, place: &Path, key: &Key, threads: usize) -> Result<(Model, Tail), FileError> {
    let prepared = Prepared::open(place, key)?;
    let model = Model::load_prepared(path, &prepared, threads)?;
    let tail = Tail::of_prepared(&model, &prepared)?;
    Ok((model, tail))
}

/// Takes a few full passes of the encoder.
fn measured(model: &Model) -> Tail {
    let recordings = RECORDINGS.map(|recording| {
        let samples = recording[WAV_HEADER_BYTES..].chunks_exact(2);
        let samples = samples.map(|two| f32::from(i16::from_le_bytes([two[0], two[1]])) / 32_768.0);
        samples.collect::<Vec<f32>>()
    });
    let recordings: Vec<&[f32]> = recordings.iter().map(Vec::as_slice).collect();
    Tail::measure(model, &recordings)
}

/// Identifies a model file by parts all over it, because reading all of it would take as long as loading it.
fn key(path: &Path) -> std::io::Result<Key> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let length = metadata.len();
    let mut hash = Sha256::new();
    hash.update(VERSION);
    hash.update(length.to_le_bytes());
    // A copy that replaces a damaged file may have the same parts.
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH);
    hash.update(changed.unwrap_or_default().as_nanos().to_le_bytes());
    let mut bytes = Vec::new();
    for part in 0..PARTS {
        file.seek(SeekFrom::Start(length / PARTS * part))?;
        bytes.clear();
        file.by_ref().take(PART_BYTES).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(hash.finalize().into())
}

/// Writes the file beside its final place first, so that no process ever reads an incomplete one.
fn write(
    model_path: &Path,
    place: &Path,
    key: &Key,
    (model, tail): (&Model, &Tail),
) -> std::io::Result<()> {
    let folder = place.parent().map_or_else(PathBuf::new, Path::to_owned);
    // The name of the models' unfinished files, which the server removes if a worker was killed while it wrote.
    let mut file =
        (tempfile::Builder::new().prefix(".ggml-").suffix(".tmp")).tempfile_in(folder)?;
    model.prepare(file.as_file_mut(), key, tail)?;
    // As readable as the model: other users may share the folder.
    let readable = std::fs::metadata(model_path)?.permissions();
    file.as_file().set_permissions(readable)?;
    file.persist(place)?;
    Ok(())
}
