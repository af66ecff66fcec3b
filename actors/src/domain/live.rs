//! Live audio: its format, the options of a session, and its events.
//!
//! A session consists of *turns*: what a client gets one text for. A turn is transcribed in *parts* of one chunk each.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::chunk::SPEECH_FRAME;
use crate::domain::error::SttError;
use crate::domain::job::{Options, Priority};
use crate::domain::transcript::Transcript;

/// How samples are stored, in little-endian order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcmEncoding {
    /// Linear; a single byte is unsigned.
    Integer,
    /// IEEE 754.
    Float,
    /// G.711 A-law.
    ALaw,
    /// G.711 µ-law.
    MuLaw,
}

/// The format of interleaved samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcmFormat {
    /// How a sample is stored.
    pub encoding: PcmEncoding,
    /// Bytes of one sample.
    pub width: u16,
    /// Samples per second and channel.
    pub rate: u32,
    /// Number of channels.
    pub channels: u16,
}

impl PcmFormat {
    /// Mono, signed 16 bit.
    pub const fn mono16(rate: u32) -> Self {
        Self {
            encoding: PcmEncoding::Integer,
            width: 2,
            rate,
            channels: 1,
        }
    }

    /// Bytes of one second.
    pub fn bytes_per_second(&self) -> u64 {
        u64::from(self.rate) * u64::from(self.width) * u64::from(self.channels)
    }

    /// The duration of this many bytes.
    pub fn duration(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second().max(1) as f64)
    }
}

/// 32 ms of live audio at 16 kHz: [`SPEECH_FRAME`] samples. Only the last one before a pause in the stream may have
/// fewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeechFrame {
    /// Signed 16 bit.
    pub samples: Vec<i16>,
    /// The probability of speech, in 255ths.
    pub speech: u8,
}

/// Number of [`SpeechFrame`]s in this time, rounded up.
pub fn speech_frames(time: Duration) -> u64 {
    let samples = time.as_millis() as u64 * 16;
    samples.div_ceil(SPEECH_FRAME as u64)
}

/// Decides where a turn ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TurnDetection {
    /// The client ends it.
    #[default]
    Manual,
    /// A silence of this length ends it.
    Silence {
        /// The probability from which on audio is speech, 0 to 1.
        threshold: f32,
        /// Audio before the speech that belongs to the turn.
        prefix: Duration,
        /// The silence.
        silence: Duration,
    },
    /// A short silence ends it if the text up to it is a whole sentence, otherwise a longer one.
    Sentence {
        /// The longer silence.
        longest: Duration,
    },
}

/// The options of a session. They may change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveOptions {
    /// The format of the audio.
    pub format: PcmFormat,
    /// How to transcribe.
    pub options: Options,
    /// Where turns end.
    pub turns: TurnDetection,
    /// Whether the client gets text while it speaks ([`LiveEvent::Delta`] before the end of a turn).
    pub partials: bool,
}

/// Who opens a session.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveClient {
    /// The priority of its work among other live work.
    pub priority: Priority,
    /// The unique id of the connection. It names the session in logs, and is its client in the queue: a house's
    /// satellites may share one address, and must not wait for each other.
    pub session_id: Arc<str>,
    /// Whether its first turn begins with the session, before the audio of the turn: a drain waits for it as well.
    pub is_in_turn: bool,
}

/// Identifies a turn within its session: 1, 2, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TurnId(pub u64);

/// An event of a session. Times count the audio that the session received.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveEvent {
    /// Speech begins, and with it a turn. Only if the session detects turns.
    SpeechStarted {
        /// The turn.
        turn: TurnId,
        /// The start, with the audio before the speech that belongs to the turn.
        at: Duration,
    },
    /// Speech has ended. Only if the session detects turns.
    SpeechStopped {
        /// The turn.
        turn: TurnId,
        /// The end of the audio that belongs to the turn.
        at: Duration,
    },
    /// The turn has all its audio; [`LiveEvent::Completed`] follows.
    Committed(TurnId),
    /// More text of a turn, which is final. The deltas of a turn, joined, are its text, unless the last look at the
    /// audio changed words that were sent already.
    Delta {
        /// The turn.
        turn: TurnId,
        /// The text, with the space before it.
        text: String,
    },
    /// The text of a turn. Turns may complete in another order than they were committed.
    Completed {
        /// The turn.
        turn: TurnId,
        /// The transcript, whose times count from the start of the session; or why there is none. A turn without
        /// speech has an empty transcript.
        result: Result<Transcript, SttError>,
    },
    /// The last event.
    Ended(LiveEnd),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveEnd {
    /// Its client ended it, and every turn is completed.
    Finished,
    /// No audio and no request for too long.
    Idle,
    /// The server is shutting down.
    Draining,
}
