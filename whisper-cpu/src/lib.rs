//! Whisper on CPUs.
//!
//! Reads Whisper models in ggml's format and computes what they are made of: the log-mel spectrogram
//! ([`mel`]), the encoder ([`encoder`]), the decoder ([`decoder`]), and the tokens ([`vocabulary`]). The crate reads
//! the model file, and a file with the same weights [`prepared`] for use, and nothing else. The loops that take the time are in
//! [`kernels`].

pub mod blocks;
pub mod decoder;
pub mod decoding;
pub mod encoder;
pub mod file;
pub mod kernels;
pub mod linear;
pub mod mel;
pub mod prepared;
pub mod rules;
pub mod tail;
pub mod tokenizer;
pub mod transcribe;
pub mod vocabulary;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use decoder::{Audio, Decoder, Sequence};
use encoder::Encoder;
use file::{Dimensions, FileError, ModelFile};
use linear::Precision;
use mel::Mel;
use prepared::{ByteMatrix, Key, Prepared};
use tail::{Rows, Tail};
use vocabulary::{Token, Vocabulary};

/// Whether a file begins like a Whisper model in ggml's format and has no element type that this crate does not know.
/// Cheap: the weights are not read.
pub fn can_read(path: &Path) -> bool {
    ModelFile::open(path).is_ok()
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    /// The dimensions.
    pub dimensions: Dimensions,
    /// The tokens.
    pub vocabulary: Vocabulary,
    /// The spectrogram.
    pub mel: Mel,
    /// The encoder.
    pub encoder: Encoder,
    /// The decoder.
    pub decoder: Decoder,
    threads: ThreadPool,
    /// 8-bit matrices that could be prepared for the next time.
    made: Vec<(String, ByteMatrix)>,
}

impl Model {
    /// Loads a ggml file, to compute with this many threads. Without a `precision`, a file of 32-bit weights is computed
    /// in 32-bit numbers and any other in 8-bit ones.
    ///
    /// # Errors
    /// The file cannot be read or is not a Whisper model.
    pub fn load(
        path: &Path,
        precision: Option<Precision>,
        threads: usize,
    ) -> Result<Self, FileError> {
        let file = ModelFile::open(path)?;
        let precision = precision.unwrap_or_else(|| file.precision());
        Self::read(file, precision, threads)
    }

    /// Loads a ggml file that was [prepared](Self::prepare).
    ///
    /// # Errors
    /// As for [`Self::load`], or the prepared file lacks weights.
    pub fn load_prepared(
        path: &Path,
        prepared: &Prepared,
        threads: usize,
    ) -> Result<Self, FileError> {
        let mut file = ModelFile::open(path)?;
        file.use_prepared(prepared.clone());
        let precision = file.precision();
        Self::read(file, precision, threads)
    }

    fn read(file: ModelFile, precision: Precision, threads: usize) -> Result<Self, FileError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("whisper-{number}"))
            .build()
            .map_err(std::io::Error::other)?;
        let (encoder, decoder) = threads.install(|| {
            rayon::join(
                || Encoder::read(&file, precision),
                || Decoder::read(&file, precision),
            )
        });
        Ok(Self {
            dimensions: file.dimensions,
            vocabulary: Vocabulary::of(&file),
            mel: Mel::new(&file.filters),
            encoder: encoder?,
            decoder: decoder?,
            threads,
            made: file.into_made(),
        })
    }

    /// Writes the 8-bit weights as they lie in memory, if there are any, and a `tail`, so that another process can map
    /// them. The key identifies the model.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn prepare(&self, to: &mut File, key: &Key, tail: &Tail) -> std::io::Result<()> {
        let tail = (tail::BLOCK, tail.values().collect());
        prepared::write(to, key, &self.made, &[tail])
    }

    /// Runs work on the model's threads.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// Appends tokens to sequences; see [`Decoder::step`].
    pub fn step(&self, sequences: &mut [(&mut Sequence, &[Token])]) -> Vec<Vec<f32>> {
        self.install(|| self.decoder.step(sequences))
    }

    /// Appends tokens to sequences; see [`Decoder::append`].
    pub fn append(
        &self,
        sequences: &mut [(&mut Sequence, &[Token])],
        wanted: &[(usize, usize)],
    ) -> Vec<Vec<f32>> {
        self.install(|| self.decoder.append(sequences, wanted))
    }

    /// Encodes audio, 16 kHz ±1.0, with `positions` positions of 20 ms: 1500 are the whole window. A `tail` stands for
    /// the positions after them. `None` when another thread set `stop`.
    pub fn listen(
        &self,
        samples: &[f32],
        positions: usize,
        tail: Option<&Tail>,
        stop: &AtomicBool,
    ) -> Option<Arc<Audio>> {
        self.install(|| {
            let (spectrogram, silence) = self.mel.spectrogram(samples);
            let mut goes_on = |_: &[f32], _: &[f32]| !stop.load(Ordering::Acquire);
            let encoded =
                (self.encoder).encode(&spectrogram, silence, positions, tail, &mut goes_on)?;
            let length = samples.len().div_ceil(encoder::SAMPLES) as Token;
            Some(Arc::new(self.decoder.listen(&encoded, length, tail)))
        })
    }

    /// Keys and values of all positions of the full window: of the encoder's layers, and of the decoder's.
    pub(crate) fn full_pass(&self, samples: &[f32]) -> (Vec<Rows>, Vec<Rows>) {
        self.install(|| {
            let (spectrogram, silence) = self.mel.spectrogram(samples);
            let mut layers = Vec::new();
            let mut keep = |keys: &[f32], values: &[f32]| {
                layers.push(Rows {
                    keys: keys.to_vec(),
                    values: values.to_vec(),
                });
                true
            };
            let all = self.dimensions.audio_positions;
            let encoded = (self.encoder).encode(&spectrogram, silence, all, None, &mut keep);
            (
                layers,
                self.decoder.keys_and_values(&encoded.unwrap_or_default()),
            )
        })
    }
}
