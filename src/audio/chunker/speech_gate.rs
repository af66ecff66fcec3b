//! Decides from speech probabilities which frames are speech, with hysteresis.

use stt_actors::domain::chunk::{SAMPLE_RATE, SPEECH_FRAME};

/// Number of frames in this many milliseconds.
pub(super) const fn frames(millis: usize) -> usize {
    millis * SAMPLE_RATE as usize / 1000 / SPEECH_FRAME
}

/// A frame of audio and its classification.
#[derive(Debug)]
pub(super) struct Frame {
    /// Has [`SPEECH_FRAME`] samples; the last frame of a stream may have fewer.
    pub(super) samples: Vec<i16>,
    /// Probability of speech in 255ths, if the detector ran.
    pub(super) probability: Option<u8>,
    /// Whether it belongs to a stretch of speech.
    pub(super) is_speech: bool,
}

/// Decides frame by frame what is speech. A click does not start speech, and a breath within a sentence does
/// not end it.
#[derive(Debug, Default)]
pub(super) struct SpeechGate {
    state: GateState,
    /// Frames that are not decided yet.
    pub(super) undecided: Vec<Frame>,
}

#[derive(Clone, Copy, Debug, Default)]
enum GateState {
    #[default]
    Closed,
    /// Possible speech: the number of likely frames, and of unlikely ones at the end.
    Opening { likely: usize, unlikely: usize },
    /// Speech: the number of unlikely frames at the end.
    Open { unlikely: usize },
}

impl SpeechGate {
    /// Speech begins at this probability (0.2 in 255ths). It is low, because losing a word is worse than
    /// transcribing a noise.
    const BEGIN: u8 = 51;
    /// Speech continues while the probability is at least this (0.1).
    const GO_ON: u8 = 26;
    /// Speech ends after this much lower probability.
    const HANG: usize = frames(500);
    /// Possible speech that is still unclear after this long is not speech.
    pub(super) const LONGEST_DOUBT: usize = frames(2000);
    /// Shorter speech is a click.
    const SHORTEST: usize = frames(96);

    /// Adds a frame and returns those that are now decided.
    pub(super) fn pass(&mut self, mut frame: Frame) -> Vec<Frame> {
        let Some(probability) = frame.probability else {
            return vec![frame];
        };
        let (begins, goes_on) = (probability >= Self::BEGIN, probability >= Self::GO_ON);
        frame.is_speech = false;
        if let GateState::Open { unlikely } = self.state {
            frame.is_speech = goes_on;
            let unlikely = if goes_on { 0 } else { unlikely + 1 };
            self.state = if unlikely < Self::HANG {
                GateState::Open { unlikely }
            } else {
                GateState::Closed
            };
            return vec![frame];
        }
        let (likely, unlikely) = match self.state {
            GateState::Closed if !begins => return vec![frame],
            GateState::Opening { likely, unlikely } => (likely, unlikely),
            GateState::Closed | GateState::Open { .. } => (0, 0),
        };
        self.undecided.push(frame);
        let likely = likely + usize::from(begins);
        let unlikely = if goes_on { 0 } else { unlikely + 1 };
        if likely >= Self::SHORTEST {
            self.state = GateState::Open { unlikely: 0 };
            self.undecided
                .iter_mut()
                .for_each(|frame| frame.is_speech = true);
        } else if unlikely < Self::HANG && self.undecided.len() < Self::LONGEST_DOUBT {
            self.state = GateState::Opening { likely, unlikely };
            return Vec::new();
        } else {
            self.state = GateState::Closed;
        }
        std::mem::take(&mut self.undecided)
    }

    /// Returns the undecided frames at the end of the stream. Possible speech counts as speech there, since
    /// the end may cut off a word.
    pub(super) fn flush(&mut self) -> Vec<Frame> {
        self.undecided
            .iter_mut()
            .for_each(|frame| frame.is_speech = true);
        std::mem::take(&mut self.undecided)
    }
}
