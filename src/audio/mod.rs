//! Audio of any format to chunks of 16 kHz mono: the tree's [`AudioDecoder`].
//!
//! The sound decides, never a file name or a MIME type. Plain PCM WAV is read in this process
//! (`wav`), and so are short FLAC and MP3 files (`compressed`), everything else by an ffmpeg process
//! (`ffmpeg`); all give blocks of samples as they are
//! asked for, and the [`chunker`] cuts those into chunks at quiet places. Nothing runs ahead: an
//! hour of audio takes as much memory as a minute, and dropping a stream ends all that it started.
//!
//! Two limits keep many requests from overrunning the machine. A *turn* is held only while a chunk
//! is being decoded, so that no more decoders are at work than there are turns, and a short command
//! waits for at most a chunk of each long file before it. A *slot* is held by each ffmpeg process
//! for as long as it lives, waiting ones included.

pub mod chunker;
mod convert;
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
use stt_actors::ports::{AudioDecoder, ChunkStream, DecodeOptions};
use tokio::sync::Semaphore;

use chunker::Chunker;
use sources::compressed::{self, ShortSource};
use sources::ffmpeg::{FfmpegSettings, FfmpegSource};
use sources::wav::{self, Inspected};
use stream::{DecodedStream, Source};
use vad::{DetectSpeech, SpeechDetector, VoiceActivity};

/// What decoding may cost.
#[derive(Clone, Debug)]
pub struct DecoderLimits {
    /// The longest audio that is taken (`MAX_AUDIO_SECONDS`).
    pub max_audio: Duration,
    /// How long ffmpeg may give no output while it is waited for.
    pub stall: Duration,
    /// Decoders at work at the same time; about one a core.
    pub concurrent_decoders: usize,
    /// ffmpeg processes at the same time, those included that wait for their output to be taken.
    pub ffmpeg_processes: usize,
    /// The ffmpeg to run: a path, or a name that is looked for in `PATH`.
    pub ffmpeg: PathBuf,
}

impl Default for DecoderLimits {
    /// Four hours of audio, 30 s of silence, one decoder a core, `ffmpeg` from `PATH`.
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
    /// A decoder within `limits`, each of which is at least one, and with this voice activity
    /// detection.
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
    /// Looks at the file. An empty file, a header without sound and a WAV that says it is too long
    /// are refused here; what only decoding can tell comes with the first chunk.
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
            Looked::Short(file) => Source::Short(ShortSource::new(file), self.ffmpeg.clone()),
            Looked::At(Inspected::NoSamples) => {
                return Err(DecodeError::Empty("a WAV header without sound".into()));
            }
            Looked::At(Inspected::Pcm(wav)) if wav.claimed_duration() > self.ffmpeg.max_audio => {
                return Err(stream::too_long(self.ffmpeg.max_audio));
            }
            Looked::At(Inspected::Pcm(wav)) => Source::Wav(wav),
            Looked::At(Inspected::Other(file)) => {
                Source::Ffmpeg(FfmpegSource::new(self.ffmpeg.clone(), file))
            }
        };
        let weights = options
            .voice_activity
            .then(|| self.voice_activity.weights());
        let detector = weights.flatten().map(|weights| {
            let detector: Box<dyn DetectSpeech> = Box::new(SpeechDetector::new(weights));
            detector
        });
        Ok(Box::new(DecodedStream::new(
            source,
            Chunker::new(detector),
            self.ffmpeg.max_audio,
            self.turns.clone(),
        )))
    }
}

/// What a file turned out to be.
enum Looked {
    /// Short, and perhaps for [`compressed`].
    Short(File),
    At(Inspected),
}

/// Opens the file and finds out who shall read it. Blocking.
fn inspect(path: &Path) -> Result<Looked, DecodeError> {
    // The path is the server's own and is not for a client to see.
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => DecodeError::Unavailable("the audio file is gone".into()),
        _ => DecodeError::Unavailable(format!("the audio file cannot be read: {error}")),
    };
    // Asked before opening: opening a named pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(DecodeError::Undecodable("it is not a regular file".into()));
    }
    if metadata.len() == 0 {
        return Err(DecodeError::Empty("the file has no bytes".into()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    if compressed::is_candidate(&mut file).map_err(unreadable)? {
        return Ok(Looked::Short(file));
    }
    let inspected = wav::inspect(file).map_err(unreadable)?;
    Ok(Looked::At(inspected))
}
