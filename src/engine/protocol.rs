//! Messages between server and worker: typed frames over a socket pair.
//!
//! A frame is a length (u32, big-endian) and that many bytes of `postcard`. The worker sends the first
//! message. Both sides come from one executable, so versions differ only if the file was replaced while the
//! server ran.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stt_actors::domain::chunk::{MAX_CHUNK, SAMPLE_RATE};
use stt_actors::domain::transcript::{ChunkTranscript, Task};
use tokio_util::codec::LengthDelimitedCodec;

use super::EngineChoice;

/// Changes with every change of a message.
pub const VERSION: u32 = 10;

/// Exit code of a worker whose native code aborted because an allocation failed.
pub const OUT_OF_MEMORY_EXIT: i32 = 77;

/// Longest frame. A chunk has at most 960,000 bytes, a transcript far less.
pub const MAX_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Messages from the server.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message: load this model.
    Load(LoadRequest),
    /// Transcribe a chunk. The server sends the next one after the answer.
    Transcribe(TranscribeRequest),
    /// Abort the chunk with this number: its result is no longer needed.
    Abort {
        /// [`TranscribeRequest::id`].
        id: u64,
    },
}

/// The model and how it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// A ggml file.
    pub path: std::path::PathBuf,
    /// CPU threads of one inference.
    pub threads: u32,
    /// Use the GPU with this index; `None`: the CPU.
    pub gpu: Option<u32>,
    /// Beam size of the search; 1: greedy.
    pub beam_size: u32,
    /// Which implementation of Whisper is used.
    pub engine: EngineChoice,
}

/// A chunk to transcribe.
#[derive(Debug, Serialize, Deserialize)]
pub struct TranscribeRequest {
    /// Numbers the chunks of one worker.
    pub id: u64,
    /// 16 kHz mono, signed 16 bit little-endian.
    #[serde(with = "serde_bytes")]
    pub audio: Vec<u8>,
    /// Transcribe or translate.
    pub task: Task,
    /// ISO 639-1; `None`: detect.
    pub language: Option<String>,
    /// The languages among which the detection chooses; empty: all.
    pub languages: Vec<String>,
    /// ISO 639-1: the language to use if the detection is uncertain.
    pub likely_language: Option<String>,
    /// Text that the model takes as preceding the chunk.
    pub prompt: Option<String>,
    /// 0: greedy with the temperature ladder; any other value is used alone.
    pub temperature: f32,
}

/// Messages from the worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// The first message, before the model is loaded.
    Hello {
        /// [`VERSION`] of the worker.
        version: u32,
    },
    /// The model is loaded.
    Loaded {
        /// Whether it supports languages other than English.
        multilingual: bool,
        /// What it computes on: a GPU's name, or `CPU`.
        device: String,
    },
    /// The model could not be loaded; the worker exits.
    LoadFailed {
        /// Why.
        reason: String,
        /// Whether memory was insufficient.
        out_of_memory: bool,
    },
    /// The language of the running chunk was detected.
    Language {
        /// [`TranscribeRequest::id`].
        id: u64,
        /// ISO 639-1.
        code: String,
        /// The model's probability for it.
        probability: f32,
    },
    /// A chunk is done.
    Done {
        /// [`TranscribeRequest::id`].
        id: u64,
        /// Its text.
        transcript: ChunkTranscript,
    },
    /// A chunk failed; the worker is ready for the next one.
    Failed {
        /// [`TranscribeRequest::id`].
        id: u64,
        /// Why.
        failure: Failure,
    },
}

/// Why a running worker has no transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The server sent an abort.
    Aborted,
    /// Whisper failed.
    Engine(String),
}

/// Codec with the length field and the longest frame of this protocol.
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME_BYTES)
        .new_codec()
}

/// Encodes a message as the content of a frame.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Bytes> {
    let bytes = postcard::to_stdvec(message)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Bytes::from(bytes))
}

/// Decodes the content of a frame.
pub fn decode<T: DeserializeOwned>(frame: &BytesMut) -> io::Result<T> {
    postcard::from_bytes(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Samples as the protocol's bytes.
pub fn samples_to_bytes(samples: &Arc<[i16]>) -> Vec<u8> {
    samples.iter().flat_map(|s| s.to_le_bytes()).collect()
}

/// The protocol's bytes as whisper's samples: ±1.0.
///
/// # Errors
/// The length is odd or exceeds the longest chunk.
pub fn bytes_to_samples(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let longest = MAX_CHUNK.as_secs() as usize * SAMPLE_RATE as usize;
    if !bytes.len().is_multiple_of(2) || bytes.len() / 2 > longest {
        return Err(format!("a chunk of {} bytes is not valid", bytes.len()));
    }
    let pairs = bytes.chunks_exact(2);
    Ok(pairs
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::codec::{Decoder, Encoder};

    use super::*;

    #[test]
    fn the_longest_chunk_fits_a_frame() {
        let longest = vec![0_u8; 30 * 16_000 * 2];
        let message = ToWorker::Transcribe(TranscribeRequest {
            id: u64::MAX,
            audio: longest,
            task: Task::Translate,
            language: Some("en".to_owned()),
            languages: vec!["en".to_owned()],
            likely_language: Some("en".to_owned()),
            prompt: Some("x".repeat(10_000)),
            temperature: 1.0,
        });
        assert!(encode(&message).expect("encodes").len() < MAX_FRAME_BYTES);
    }

    #[test]
    fn a_frame_beyond_the_cap_is_an_error_before_it_is_allocated() {
        let mut bytes = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(codec().decode(&mut bytes).is_err());
    }

    proptest! {
        #[test]
        fn samples_survive_the_wire(samples in prop::collection::vec(any::<i16>(), 0..100)) {
            let bytes = samples_to_bytes(&Arc::from(samples.clone()));
            let back = bytes_to_samples(&bytes).expect("valid");
            let back: Vec<i16> = back.iter().map(|s| (s * 32_768.0) as i16).collect();
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut framed = BytesMut::new();
            codec().encode(Bytes::from(garbage), &mut framed).expect("frames");
            let frame = codec().decode(&mut framed).expect("a frame").expect("whole");
            let _ = decode::<ToWorker>(&frame);
            let _ = decode::<FromWorker>(&frame);
        }
    }
}
