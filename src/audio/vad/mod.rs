//! Voice activity detection: the probability of speech in each frame.
//!
//! The detector is the network of Silero VAD ([`silero`]), whose weights are a file of the models folder;
//! `level` first amplifies quiet audio. What lies below speech (a constant offset, hum, rumble) is filtered out
//! before: it would hide quiet speech from both. Only the detector hears the filtered audio. Earshot and WebRTC's detector, tried on the same recordings, take
//! most music for speech; see `docs/performance.md`.

mod level;
pub mod silero;

use std::sync::{Arc, OnceLock};

use level::RunningLevel;
use silero::{FRAME, Memory, Weights};
use stt_actors::domain::chunk::{SAMPLE_RATE, SPEECH_FRAME};

use super::convert::high_pass::HighPass;

/// Samples per block; the level is measured per block: 2 s.
pub const BLOCK: usize = 62 * SPEECH_FRAME;

/// The detector hears nothing below this frequency, in Hz.
const LOWEST_HERTZ: f64 = 80.0;

/// A detector of speech in one stream.
pub trait DetectSpeech: Send {
    /// The probability of speech in each frame of the next block, in 255ths. A block has [`BLOCK`] samples;
    /// only the last one may have fewer. An incomplete last frame counts.
    fn score(&mut self, block: &[i16]) -> Vec<u8>;
}

/// Silero's detector, for one stream.
pub struct SpeechDetector {
    weights: Arc<Weights>,
    high_pass: HighPass,
    memory: Memory,
}

impl SpeechDetector {
    /// A detector for a new stream.
    pub fn new(weights: Arc<Weights>) -> Self {
        Self {
            weights,
            high_pass: HighPass::new(LOWEST_HERTZ, SAMPLE_RATE),
            memory: Memory::default(),
        }
    }
}

impl DetectSpeech for SpeechDetector {
    fn score(&mut self, block: &[i16]) -> Vec<u8> {
        let mut samples: Vec<f32> = block.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        self.high_pass.filter(&mut samples);
        if !level::normalise(&mut samples) {
            // Skip the network for silence.
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

/// Silero's detector for live audio, which has no block to measure the level of.
pub struct LiveDetector {
    weights: Arc<Weights>,
    high_pass: HighPass,
    level: RunningLevel,
    memory: Memory,
}

impl LiveDetector {
    /// A detector for a new stream.
    pub fn new(weights: Arc<Weights>) -> Self {
        Self {
            weights,
            high_pass: HighPass::new(LOWEST_HERTZ, SAMPLE_RATE),
            level: RunningLevel::default(),
            memory: Memory::default(),
        }
    }

    /// The probability of speech in the next frame, in 255ths. An incomplete frame counts.
    pub fn score(&mut self, frame: &[i16]) -> u8 {
        let mut samples: Vec<f32> = frame.iter().map(|s| f32::from(*s) / 32_768.0).collect();
        self.high_pass.filter(&mut samples);
        if !self.level.normalise(&mut samples) {
            // Skip the network for silence.
            self.memory = Memory::default();
            return 0;
        }
        samples.resize(FRAME, 0.0);
        let probabilities = self.weights.probabilities(&mut self.memory, &samples);
        (probabilities.first()).map_or(0, |probability| (probability * 255.0).round() as u8)
    }
}

const _: () = assert!(FRAME == SPEECH_FRAME);

/// The server's voice activity detection, whose weights may arrive later. Cheap to clone; all clones share
/// the weights.
#[derive(Clone, Debug, Default)]
pub struct VoiceActivity(Arc<OnceLock<Arc<Weights>>>);

impl VoiceActivity {
    /// A detection that has weights from the start.
    pub fn with(weights: Weights) -> Self {
        let this = Self::default();
        this.provide(weights);
        this
    }

    /// Sets the weights, unless they are set.
    pub fn provide(&self, weights: Weights) {
        // The first weights remain; they are the same.
        let _ = self.0.set(Arc::new(weights));
    }

    /// The weights, once they are set.
    pub fn weights(&self) -> Option<Arc<Weights>> {
        self.0.get().cloned()
    }
}
