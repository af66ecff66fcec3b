//! Decodes audio of any format into chunks of 16 kHz mono: the [`AudioDecoder`] of the supervision tree.
//!
//! Only the content determines the format, never a file name or a MIME type. This process reads WAV
//! (`sources/wav`) and short FLAC and MP3 files (`sources/compressed`); an ffmpeg process (`sources/ffmpeg`)
//! decodes everything else. All sources produce blocks of samples on demand, and the [`chunker`] cuts them
//! into chunks at quiet places. Nothing is decoded ahead: an hour of audio takes as much memory as a minute,
//! and dropping a stream ends everything that it started.
//!
//! Live audio (`live`) takes the same conversion and detector, without files and chunks: the session in the tree cuts it.
//!
//! Two limits protect the machine from many requests at once. A stream holds a *turn* only while it decodes a
//! chunk. So the number of turns limits the decoders at work, and a short command waits for at most one chunk
//! of each long file before it. Each ffmpeg process holds a *slot* for its whole life, even while it waits.

pub mod chunker;
mod convert;
mod live;
mod sources;
mod stream;
pub mod vad;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stt_actors::domain::chunk::AudioSource;
use stt_actors::domain::error::DecodeError;
use stt_actors::domain::live::PcmFormat;
use stt_actors::ports::{AudioDecoder, ChunkStream, DecodeOptions, LiveStream};
use tokio::sync::Semaphore;

use chunker::Chunker;
use live::LivePcm;
use sources::compressed::{self, ShortSource};
use sources::ffmpeg::{FfmpegSettings, FfmpegSource};
use sources::wav::{self, Inspected};
use stream::{DecodedStream, Source};
use vad::{DetectSpeech, SpeechDetector, VoiceActivity};

/// Limits of decoding.
#[derive(Clone, Debug)]
pub struct DecoderLimits {
    /// The longest accepted audio (`MAX_AUDIO_SECONDS`).
    pub max_audio: Duration,
    /// How long ffmpeg may write no output while a stream waits for it.
    pub stall: Duration,
    /// Decoders at work at the same time; about one per core.
    pub concurrent_decoders: usize,
    /// ffmpeg processes at the same time, including those that wait until their output is read.
    pub ffmpeg_processes: usize,
    /// The ffmpeg to run: a path, or a name to find in `PATH`.
    pub ffmpeg: PathBuf,
}

impl Default for DecoderLimits {
    /// Four hours of audio, 30 s without output, one decoder per core, `ffmpeg` from `PATH`.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_audio: Duration::from_secs(4 * 3600),
            stall: Duration::from_secs(30),
            concurrent_decoders: cores,
            ffmpeg_processes: (4 * cores).max(16),
            ffmpeg: "ffmpeg".into(),
        }
    }
}

/// Opens audio of any format.
pub struct Decoder {
    ffmpeg: FfmpegSettings,
    voice_activity: VoiceActivity,
    turns: Arc<Semaphore>,
}

impl Decoder {
    /// A decoder with these limits, each raised to at least one, and this voice activity detection.
    pub fn new(limits: DecoderLimits, voice_activity: VoiceActivity) -> Self {
        Self {
            voice_activity,
            ffmpeg: FfmpegSettings {
                program: limits.ffmpeg,
                max_audio: limits.max_audio,
                stall: limits.stall,
                slots: Arc::new(Semaphore::new(limits.ffmpeg_processes.max(1))),
            },
            turns: Arc::new(Semaphore::new(limits.concurrent_decoders.max(1))),
        }
    }
}

#[async_trait]
impl AudioDecoder for Decoder {
    /// Inspects the file. Rejects an empty file, a header without samples, and a WAV whose header says that
    /// it is too long. Errors that only decoding finds come with the first chunk.
    async fn open(
        &self,
        source: &AudioSource,
        options: DecodeOptions,
    ) -> Result<Box<dyn ChunkStream>, DecodeError> {
        let kept = source.clone();
        let inspected = tokio::task::spawn_blocking(move || inspect(kept.path()))
            .await
            .map_err(|error| DecodeError::Unavailable(format!("opening the audio: {error}")))??;
        let source = match inspected {
            Kind::Short(file) => Source::Short(ShortSource::new(file), self.ffmpeg.clone()),
            Kind::Header(Inspected::NoSamples) => {
                return Err(DecodeError::Empty("a WAV header without sound".into()));
            }
            Kind::Header(Inspected::Pcm(wav)) if wav.claimed_duration() > self.ffmpeg.max_audio => {
                return Err(stream::too_long(self.ffmpeg.max_audio));
            }
            Kind::Header(Inspected::Pcm(wav)) => Source::Wav(wav),
            Kind::Header(Inspected::Other(file)) => {
                Source::Ffmpeg(Box::new(FfmpegSource::new(self.ffmpeg.clone(), file)))
            }
        };
        let weights = options
            .voice_activity
            .then(|| self.voice_activity.weights());
        let detector = weights.flatten().map(|weights| {
            let detector: Box<dyn DetectSpeech> = Box::new(SpeechDetector::new(weights));
            detector
        });
        let mut chunker = Chunker::new(detector);
        if options.pauses_end_chunks {
            chunker = chunker.with_chunks_between_pauses();
        }
        Ok(Box::new(DecodedStream::new(
            source,
            chunker,
            self.ffmpeg.max_audio,
            self.turns.clone(),
        )))
    }

    fn open_live(&self, format: PcmFormat) -> Result<Box<dyn LiveStream>, String> {
        let pcm = LivePcm::new(format, self.voice_activity.weights())?;
        Ok(Box::new(pcm))
    }
}

/// What a file contains, as far as its beginning tells.
enum Kind {
    /// Short, and possibly a format of [`compressed`].
    Short(File),
    /// Any other length or format, with the content of its WAV header.
    Header(Inspected),
}

/// Opens the file and determines which source reads it. Blocks.
fn inspect(path: &Path) -> Result<Kind, DecodeError> {
    // Clients must not see the path, which is the server's.
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => DecodeError::Unavailable("the audio file no longer exists".into()),
        _ => DecodeError::Unavailable(format!("cannot read the audio file: {error}")),
    };
    // Checked before opening: opening a named pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(DecodeError::Undecodable("it is not a regular file".into()));
    }
    if metadata.len() == 0 {
        return Err(DecodeError::Empty("the file has no bytes".into()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    if compressed::is_candidate(&mut file).map_err(unreadable)? {
        return Ok(Kind::Short(file));
    }
    let inspected = wav::inspect(file).map_err(unreadable)?;
    Ok(Kind::Header(inspected))
}
