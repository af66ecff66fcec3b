//! Helpers of the audio tests: generated samples, and reading streams to their end.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stt_actors::domain::chunk::{AudioChunk, AudioSource};
use stt_actors::domain::error::DecodeError;
use stt_actors::domain::ids::ChunkIndex;
use stt_actors::ports::Decoded as Part;
use stt_actors::ports::{AudioDecoder, ChunkStream, DecodeOptions};
use tempfile::TempDir;
use uttera_stt::audio::vad::VoiceActivity;
use uttera_stt::audio::{Decoder, DecoderLimits};

use crate::waiting::patiently;

/// The chunks of a stream.
#[derive(Debug)]
pub struct Decoded {
    /// The chunks, in order.
    pub chunks: Vec<AudioChunk>,
    /// The duration that the container states.
    pub claimed: Option<Duration>,
    /// The number of samples at 16 kHz.
    pub samples: u64,
}

impl Decoded {
    /// The duration of the samples.
    pub fn seconds(&self) -> f64 {
        self.samples as f64 / 16_000.0
    }

    /// The samples of all chunks.
    pub fn all_samples(&self) -> Vec<i16> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.samples.iter().copied())
            .collect()
    }

    /// Root mean square, of full scale 1.
    pub fn loudness(&self) -> f64 {
        let power: f64 = self
            .all_samples()
            .iter()
            .map(|&sample| (f64::from(sample) / 32768.0).powi(2))
            .sum();
        (power / self.samples as f64).sqrt()
    }
}

/// A decoder with the default limits.
pub fn decoder() -> Decoder {
    Decoder::new(DecoderLimits::default(), VoiceActivity::default())
}

/// Opens a file, with voice activity detection if the decoder has it.
pub async fn open(decoder: &Decoder, path: &Path) -> Result<Box<dyn ChunkStream>, DecodeError> {
    let options = DecodeOptions {
        voice_activity: true,
        pauses_end_chunks: false,
    };
    decoder.open(&AudioSource::file(path), options).await
}

/// Requests the longest chunks.
pub const TARGET: Duration = Duration::from_secs(28);

/// The next chunk after any silence.
pub async fn next_chunk(stream: &mut dyn ChunkStream) -> Result<Option<AudioChunk>, DecodeError> {
    loop {
        match stream.next(TARGET).await? {
            Some(Part::Chunk(chunk)) => return Ok(Some(chunk)),
            Some(Part::Silence) => {}
            None => return Ok(None),
        }
    }
}

/// Decodes all of a file.
pub async fn decode_with(decoder: &Decoder, path: &Path) -> Result<Decoded, DecodeError> {
    let mut stream = open(decoder, path).await?;
    let mut chunks: Vec<AudioChunk> = Vec::new();
    let mut expected_start = 0;
    while let Some(chunk) = patiently(next_chunk(stream.as_mut())).await? {
        assert_eq!(chunk.index, ChunkIndex::Whole(chunks.len()));
        assert_eq!(chunk.start_sample(), expected_start);
        assert!(chunk.duration_seconds() <= 30.0);
        expected_start += chunk.samples.len() as u64;
        chunks.push(chunk);
    }
    assert_eq!(stream.decoded_samples(), expected_start);
    Ok(Decoded {
        chunks,
        claimed: stream.claimed_duration(),
        samples: expected_start,
    })
}

/// Decodes all of a file with the default limits.
pub async fn decode(path: &Path) -> Result<Decoded, DecodeError> {
    decode_with(&decoder(), path).await
}

/// The reason why a file is rejected. Its text must not contain a path of this machine.
pub async fn refusal(path: &Path) -> DecodeError {
    match decode(path).await {
        Err(error) => {
            let text = error.to_string();
            let folder = path.parent().unwrap().to_str().unwrap();
            assert!(!text.contains(folder), "a path leaks: {text}");
            assert!(!text.contains("/dev/"), "a path leaks: {text}");
            error
        }
        Ok(decoded) => panic!("{} gave {} s", path.display(), decoded.seconds()),
    }
}

/// The message of a file that is rejected as undecodable.
pub async fn assert_undecodable(path: &Path) -> String {
    match refusal(path).await {
        DecodeError::Undecodable(why) => why,
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// A folder of files for one test.
pub struct Files(TempDir);

impl Files {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name.as_ref())
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A file made by ffmpeg: `arguments` name the input and how to encode it.
    pub fn made(&self, name: &str, arguments: &str) -> PathBuf {
        let path = self.path(name);
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y"])
            .args(arguments.split_whitespace())
            .arg(format!("file:{}", path.display()))
            .output()
            .expect("these tests need ffmpeg");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "making {name}: {errors}");
        path
    }

    /// `seconds` of a tone of 440 Hz, encoded by `arguments`.
    pub fn tone(&self, name: &str, seconds: f64, arguments: &str) -> PathBuf {
        self.made(
            name,
            &format!("-f lavfi -i sine=440:r=44100:d={seconds} {arguments}"),
        )
    }

    /// A program that stands in for ffmpeg.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.write(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// The processes whose standard input is `path`.
pub fn readers_of(path: &Path) -> Vec<i32> {
    let own = std::process::id() as i32;
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&id| id != own)
        .filter(|id| fs::read_link(format!("/proc/{id}/fd/0")).is_ok_and(|file| file == path))
        .collect()
}

/// Whether no process `id` is left, not even a zombie.
pub fn is_gone(id: i32) -> bool {
    !Path::new(&format!("/proc/{id}")).exists()
}
