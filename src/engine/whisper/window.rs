//! How much of the encoder's window a chunk uses, and whether its text is plausible.
//!
//! Whisper was trained on windows of 30 s, and the encoder's work is the same however short the audio is. A
//! window that is cut shortly after the audio usually gives the same text, but sometimes repeats a sentence
//! or never ends. A chunk whose text looks like that is transcribed again with the full window.

use stt_actors::domain::chunk::SAMPLE_RATE;
use stt_actors::domain::transcript::{Doubt, Segment, compression_ratio, letters};

/// Frames of 20 ms in the window that whisper was trained on: 30 s.
pub const FULL: usize = 1500;

/// A longer trimmed window would save next to nothing over the full one, which has the temperature ladder.
const LONGEST_TRIMMED: usize = 1280;

/// Which part of the window the encoder processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// All of it, always.
    Full,
    /// The audio and a margin after it, in frames of 20 ms.
    Trimmed {
        /// Frames after the audio.
        margin: usize,
        /// The shortest window in frames.
        least: usize,
    },
}

impl Window {
    /// The server's choice; docs/performance.md has the measurements.
    pub const MEASURED: Self = Self::Trimmed {
        margin: 256,
        least: 384,
    };

    /// The window for this many samples, in frames: a multiple of `step`, or the full window.
    pub fn frames(self, samples: usize, step: usize) -> usize {
        match self {
            Self::Full => FULL,
            Self::Trimmed { margin, least } => {
                let audio = samples.div_ceil(SAMPLE_RATE as usize / 50);
                let frames = (audio + margin).max(least).next_multiple_of(step);
                if frames > LONGEST_TRIMMED {
                    FULL
                } else {
                    frames
                }
            }
        }
    }
}

/// Mean log-probability of a text below which the full window gives better text; measured on the same clips
/// as the window.
const LEAST_LOGPROB: f32 = -0.7;
/// Mean log-probability of a segment below which whisper itself would try again.
const LEAST_LOGPROB_OF_A_SEGMENT: f32 = -1.0;
/// Compression ratio above which whisper itself would try again.
const MOST_COMPRESSION: f32 = 2.4;
/// Number of tokens that may be repeated immediately.
const MOST_REPEATED: usize = 4;
/// The longest repeated phrase to look for, in tokens.
const LONGEST_PHRASE: usize = 60;
/// Letters per second that no speaker reaches in a text with more than [`FEW_LETTERS`].
const FASTEST_SPEECH: f64 = 30.0;
/// Letters up to which the rate is not checked.
const FEW_LETTERS: f64 = 20.0;

/// The reason to doubt the text of a chunk of this many seconds, if there is one.
pub fn doubt(segments: &[Segment], seconds: f64) -> Option<Doubt> {
    let tokens: Vec<i32> = segments
        .iter()
        .flat_map(|segment| segment.tokens.iter().copied())
        .collect();
    let said: f64 = segments.iter().map(|segment| letters(&segment.text)).sum();
    if said <= 0.0 {
        return Some(Doubt::Empty);
    }
    if repeated(&tokens) > MOST_REPEATED {
        return Some(Doubt::Repetition);
    }
    let text: String = segments.iter().map(|s| s.text.as_str()).collect();
    if compression_ratio(&text) > MOST_COMPRESSION {
        return Some(Doubt::Compression);
    }
    if said > FEW_LETTERS && said > FASTEST_SPEECH * seconds {
        return Some(Doubt::Rate);
    }
    let weigh = |segment: &Segment| segment.avg_logprob * segment.tokens.len() as f32;
    let mean = segments.iter().map(weigh).sum::<f32>() / tokens.len().max(1) as f32;
    let least = segments.iter().map(|segment| segment.avg_logprob);
    let is_guess = mean < LEAST_LOGPROB || least.fold(0.0, f32::min) < LEAST_LOGPROB_OF_A_SEGMENT;
    is_guess.then_some(Doubt::LowProbability)
}

/// The most tokens that immediately repeat the tokens before them.
fn repeated(tokens: &[i32]) -> usize {
    let longest = LONGEST_PHRASE.min(tokens.len() / 2);
    let of_length = |length: usize| {
        let same = tokens[length..]
            .iter()
            .zip(tokens)
            .scan(0, |run, (token, before)| {
                *run = if token == before { *run + 1 } else { 0 };
                Some(*run)
            });
        // Repeating only a part of the phrase is chance.
        same.max().filter(|run| *run >= length).unwrap_or(0)
    };
    (1..=longest).map(of_length).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_audio_and_its_margin_and_never_more_than_all() {
        let window = Window::Trimmed {
            margin: 128,
            least: 384,
        };
        assert_eq!(window.frames(0, 64), 384);
        assert_eq!(window.frames(6 * 16_000, 64), 448);
        assert_eq!(window.frames(6 * 16_000, 256), 512);
        assert_eq!(window.frames(23 * 16_000, 64), 1280);
        assert_eq!(window.frames(24 * 16_000, 64), FULL);
        assert_eq!(window.frames(30 * 16_000, 64), FULL);
        assert_eq!(Window::Full.frames(16_000, 64), FULL);
    }

    fn segment(text: &str, tokens: &[i32]) -> Segment {
        Segment {
            id: 0,
            seek: 0,
            start: 0.0,
            end: 5.0,
            text: text.to_owned(),
            tokens: tokens.to_vec(),
            logprobs: Vec::new(),
            temperature: 0.0,
            avg_logprob: -0.3,
            compression_ratio: 1.0,
            no_speech_prob: 0.0,
            words: Vec::new(),
        }
    }

    #[test]
    fn ordinary_text_is_not_doubted() {
        let plain = [segment(" Turn on the light.", &[1, 2, 3, 4, 5])];
        assert_eq!(doubt(&plain, 1.5), None);
        // "No, no, no." and "very, very good" are things that people say.
        assert_eq!(
            doubt(&[segment(" No, no, no.", &[7, 8, 7, 8, 7, 9])], 1.5),
            None
        );
    }

    #[test]
    fn a_sentence_that_is_said_twice_is_doubted_and_so_is_a_loop() {
        let twice = [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6];
        assert_eq!(
            doubt(&[segment(" a b c d e f a b c d e f", &twice)], 5.0),
            Some(Doubt::Repetition)
        );
        let twice = [
            segment(" a b c", &[1, 2, 3, 4, 5]),
            segment(" a b c", &[1, 2, 3, 4, 5]),
        ];
        assert_eq!(doubt(&twice, 5.0), Some(Doubt::Repetition));
        assert_eq!(
            doubt(&[segment(" na na na", &[5; 8])], 5.0),
            Some(Doubt::Repetition)
        );
        assert_eq!(
            doubt(&[segment(&"ha".repeat(60), &[1, 2, 3])], 8.0),
            Some(Doubt::Compression)
        );
    }

    #[test]
    fn empty_long_and_uncertain_texts_are_doubted() {
        assert_eq!(doubt(&[], 5.0), Some(Doubt::Empty));
        assert_eq!(doubt(&[segment(" ...", &[1])], 5.0), Some(Doubt::Empty));
        let sentence = " The quick brown fox jumps over the lazy dog.";
        assert_eq!(doubt(&[segment(sentence, &[1, 2])], 1.0), Some(Doubt::Rate));
        let guess = |avg_logprob| Segment {
            avg_logprob,
            ..segment(sentence, &[1, 2])
        };
        assert_eq!(doubt(&[guess(-0.8)], 5.0), Some(Doubt::LowProbability));
        // An uncertain segment after a certain one.
        let certain = segment(sentence, &[1, 2, 3, 4, 5, 6]);
        assert_eq!(
            doubt(&[certain, guess(-1.1)], 10.0),
            Some(Doubt::LowProbability)
        );
    }
}
