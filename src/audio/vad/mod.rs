//! Voice activity detection: how likely it is, from moment to moment, that somebody speaks.
//!
//! The detector is the network of Silero VAD ([`silero`]), whose weights are a file of the models
//! folder; audio is brought to the level that it expects before. Earshot and WebRTC's detector were tried on the same recordings and pass most music as
//! speech; see `docs/performance.md`.

mod level;
pub mod silero;

use std::sync::{Arc, OnceLock};

use silero::{FRAME, Memory, Weights};
use stt_actors::domain::chunk::SPEECH_FRAME;

/// Samples that are looked at together, and share a level: 2 s.
pub const BLOCK: usize = 62 * SPEECH_FRAME;

/// Tells speech from everything else in one stream.
pub trait DetectSpeech: Send {
    /// The probability of speech in each frame of the next block, in 255ths. A block has [`BLOCK`]
    /// samples, but for the last one; a last frame that is not whole counts.
    fn score(&mut self, block: &[i16]) -> Vec<u8>;
}

/// Silero's detector, for one stream.
pub struct SpeechDetector {
    weights: Arc<Weights>,
    memory: Memory,
}

impl SpeechDetector {
    /// A detector at the start of a stream.
    pub fn new(weights: Arc<Weights>) -> Self {
        Self {
            weights,
            memory: Memory::default(),
        }
    }
}

impl DetectSpeech for SpeechDetector {
    fn score(&mut self, block: &[i16]) -> Vec<u8> {
        let mut samples: Vec<f32> = block.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        if !level::normalise(&mut samples) {
            // Hours of silence cost next to nothing.
            self.memory = Memory::default();
            return vec![0; block.len().div_ceil(FRAME)];
        }
        samples.resize(block.len().div_ceil(FRAME) * FRAME, 0.0);
        let probabilities = self.weights.probabilities(&mut self.memory, &samples);
        probabilities
            .into_iter()
            .map(|p| (p * 255.0).round() as u8)
            .collect()
    }
}

const _: () = assert!(FRAME == SPEECH_FRAME);

/// Voice activity detection as the server has it: with weights, or without as long as there are
/// none. Cheap to clone; all clones share the weights.
#[derive(Clone, Debug, Default)]
pub struct VoiceActivity(Arc<OnceLock<Arc<Weights>>>);

impl VoiceActivity {
    /// With these weights from the start.
    pub fn with(weights: Weights) -> Self {
        let this = Self::default();
        this.provide(weights);
        this
    }

    /// Gives it weights, unless it has some.
    pub fn provide(&self, weights: Weights) {
        // The first ones are as good.
        let _ = self.0.set(Arc::new(weights));
    }

    /// The weights, as soon as there are any.
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.0.get().cloned()
    }
}
