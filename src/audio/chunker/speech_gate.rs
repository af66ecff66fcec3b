//! From probabilities of speech to speech: with some hesitation, frame by frame.

use stt_actors::domain::chunk::{SAMPLE_RATE, SPEECH_FRAME};

/// Frames in so many milliseconds.
pub(super) const fn frames(millis: usize) -> usize {
    millis * SAMPLE_RATE as usize / 1000 / SPEECH_FRAME
}

/// A frame of audio, and what is known of it.
#[derive(Debug)]
pub(super) struct Frame {
    /// Fewer samples than [`SPEECH_FRAME`] only at the end of the stream.
    pub(super) samples: Vec<i16>,
    /// Probability of speech in 255ths, where somebody has looked.
    pub(super) probability: Option<u8>,
    /// Part of a stretch in which somebody speaks.
    pub(super) is_speech: bool,
}

/// Decides frame by frame what is speech, with some hesitation: a click is none, and neither is a
/// breath inside of a sentence the end of it.
#[derive(Debug, Default)]
pub(super) struct SpeechGate {
    state: GateState,
    /// Frames on which it is not decided yet.
    pub(super) undecided: Vec<Frame>,
}

#[derive(Clone, Copy, Debug, Default)]
enum GateState {
    #[default]
    Closed,
    /// It may be speech: so many frames are likely to be, and so many at the end are not.
    Opening { likely: usize, unlikely: usize },
    /// It is speech, but for so many frames at the end.
    Open { unlikely: usize },
}

impl SpeechGate {
    /// Speech begins at this probability (0.2 in 255ths). Low, since a word that is lost is worse than
    /// a noise that is looked at.
    const BEGIN: u8 = 51;
    /// It goes on while the probability is this (0.1).
    const GO_ON: u8 = 26;
    /// It is over when it was less for so long.
    const HANG: usize = frames(500);
    /// What is no clear speech by then, is none.
    pub(super) const LONGEST_DOUBT: usize = frames(2000);
    /// Less speech than this is a click.
    const SHORTEST: usize = frames(96);

    /// Takes a frame in, and gives those that are decided now.
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

    /// What was not decided at the end of the stream. A word may be cut off there: it counts.
    pub(super) fn flush(&mut self) -> Vec<Frame> {
        self.undecided
            .iter_mut()
            .for_each(|frame| frame.is_speech = true);
        std::mem::take(&mut self.undecided)
    }
}
