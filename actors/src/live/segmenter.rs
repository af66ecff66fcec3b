//! Finds speech in live audio, frame by frame: where a turn begins and ends, and the parts to transcribe.
//!
//! Pure logic. A frame is a [`SpeechFrame`] of 32 ms, and all positions count frames since the start of the session.
//! The thresholds for uploaded audio are in the server's chunker; in a session without turn detection the same ones
//! hold, so that live text and the text of the same audio as a file agree.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::chunk::{AudioChunk, SpeechTrack};
use crate::domain::live::{SpeechFrame, TurnDetection, speech_frames};

/// Frames in this many milliseconds, rounded down.
const fn frames(millis: u64) -> u64 {
    millis * 16 / 512
}

/// Shorter speech is a click.
const SHORTEST_SPEECH: u64 = frames(96);
/// After this much silence, what is there is transcribed, in case that nothing more is said. It stays at the end of a
/// part, because the detector may miss the end of a word.
pub const PAUSE: u64 = frames(256);
/// Silence before the speech that belongs to a part. The detector may notice a word late.
const PADDING: u64 = frames(480);
/// Possible speech that is still unclear after this much improbable speech is not speech.
const HANG: u64 = frames(500);
/// A pause that ends a part, where it does not end the turn.
const PART_PAUSE: u64 = frames(2000);
/// From this length on, a part ends in the next short pause.
const LONG_PART: u64 = frames(20_000);
/// A short pause; shorter ones occur within words.
const SHORT_PAUSE: u64 = frames(192);
/// The longest part. With its padding it is shorter than a chunk may be.
const LONGEST_PART: u64 = frames(28_000);
/// A part without a pause is cut at the least probable speech within this much of its end.
const CUT_WITHIN: u64 = frames(5000);
/// Under [`TurnDetection::Sentence`], the silence that ends a turn after a whole sentence.
const SENTENCE_PAUSE: u64 = frames(500);
/// Speech begins at this probability and continues at the next one (0.2 and 0.1 in 255ths), as in uploaded audio.
const BEGIN: u8 = 51;
const GO_ON: u8 = 26;
/// How much lower than the threshold the probability may be within speech (0.15 in 255ths).
const HYSTERESIS: u8 = 38;

/// What happens in the audio.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Speech begins, and with it a turn.
    Started {
        /// The first frame that belongs to the turn.
        at: u64,
    },
    /// [`PAUSE`] has passed since the last speech: the part may be complete.
    Paused(AudioChunk, Place),
    /// Speech goes on after [`Step::Paused`].
    Resumed,
    /// A part is complete. If [`Step::Paused`] was the last step before, it is the same audio.
    PartEnded(AudioChunk, Place),
    /// The silence that ends a turn has passed.
    TurnEnded {
        /// The end of the turn.
        at: u64,
    },
}

/// The first frame of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub u64);

/// Limits that the turn detection sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rules {
    begin: u8,
    go_on: u8,
    prefix: u64,
    /// The silence that ends a turn; `None`: only the client does.
    turn_pause: Option<u64>,
    /// Whether a whole sentence ends a turn earlier.
    by_sentence: bool,
}

impl Rules {
    fn of(turns: TurnDetection) -> Self {
        let by_threshold = |threshold: f32, prefix: Duration, silence: Duration| {
            let begin = (threshold.clamp(0.0, 1.0) * 255.0).round() as u8;
            Self {
                begin: begin.max(1),
                go_on: begin.saturating_sub(HYSTERESIS).max(1),
                prefix: speech_frames(prefix),
                turn_pause: Some(speech_frames(silence).max(PAUSE)),
                by_sentence: false,
            }
        };
        match turns {
            TurnDetection::Manual => Self {
                begin: BEGIN,
                go_on: GO_ON,
                prefix: PADDING,
                turn_pause: None,
                by_sentence: false,
            },
            TurnDetection::Silence {
                threshold,
                prefix,
                silence,
            } => by_threshold(threshold, prefix, silence),
            TurnDetection::Sentence { longest } => Self {
                by_sentence: true,
                ..by_threshold(0.5, Duration::from_millis(300), longest)
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No speech. `likely` frames may be its beginning, with `unlikely` ones since the last of them.
    Quiet { likely: u64, unlikely: u64 },
    /// Speech, the last of it in the frame before this position.
    Speech { end: u64, paused: bool },
}

const QUIET: State = State::Quiet {
    likely: 0,
    unlikely: 0,
};

/// The detector of turns and parts.
#[derive(Debug)]
pub struct Segmenter {
    rules: Rules,
    /// The silence that ends the turn now, which may be shorter than usual.
    turn_pause: Option<u64>,
    /// The position after the last frame.
    position: u64,
    /// Frames of the part, or without speech those that may precede it.
    kept: VecDeque<SpeechFrame>,
    state: State,
    /// The end of the speech so far in the open turn.
    turn: Option<u64>,
}

impl Segmenter {
    /// At the start of a session.
    pub fn new(turns: TurnDetection) -> Self {
        let rules = Rules::of(turns);
        Self {
            rules,
            turn_pause: rules.turn_pause,
            position: 0,
            kept: VecDeque::new(),
            state: QUIET,
            turn: None,
        }
    }

    /// Changes the turn detection, also within a turn.
    pub fn configure(&mut self, turns: TurnDetection) {
        self.rules = Rules::of(turns);
        self.turn_pause = self.rules.turn_pause;
    }

    /// The position after the last frame.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether there is speech in the current part.
    pub fn is_speaking(&self) -> bool {
        matches!(self.state, State::Speech { .. })
    }

    /// Frames of the current part with speech.
    pub fn part_length(&self) -> u64 {
        if self.is_speaking() {
            self.kept.len() as u64
        } else {
            0
        }
    }

    /// The text up to this pause is a whole sentence: a shorter silence ends the turn.
    pub fn sentence_ended(&mut self) {
        if self.rules.by_sentence {
            self.turn_pause = self.turn_pause.map(|usual| usual.min(SENTENCE_PAUSE));
        }
    }

    /// Takes the next frame.
    pub fn push(&mut self, frame: SpeechFrame) -> Vec<Step> {
        let speech = frame.speech;
        self.kept.push_back(frame);
        self.position += 1;
        let mut steps = Vec::new();
        match self.state {
            State::Quiet { likely, unlikely } => self.quiet(speech, likely, unlikely, &mut steps),
            State::Speech { end, paused } => self.speech(speech, end, paused, &mut steps),
        }
        self.end_turn_after_silence(&mut steps);
        steps
    }

    /// The audio so far is complete: ends the part, and the turn. Possible speech counts as speech, since the end may
    /// cut off a word.
    pub fn end(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if matches!(self.state, State::Quiet { likely, .. } if likely > 0) {
            self.state = State::Speech {
                end: self.position,
                paused: false,
            };
        }
        if let State::Speech { end, .. } = self.state {
            steps.push(self.take_part(end));
        }
        if self.turn.take().is_some() {
            steps.push(Step::TurnEnded { at: self.position });
        }
        self.forget();
        steps
    }

    /// Forgets the audio so far.
    pub fn clear(&mut self) {
        self.turn = None;
        self.forget();
    }

    fn forget(&mut self) {
        self.state = QUIET;
        self.kept.clear();
        self.turn_pause = self.rules.turn_pause;
    }

    /// The audio of the current part so far, with its first frame.
    pub fn part_so_far(&self) -> (AudioChunk, Place) {
        let place = Place(self.position - self.kept.len() as u64);
        (chunk(self.kept.iter()), place)
    }

    fn quiet(&mut self, speech: u8, likely: u64, unlikely: u64, steps: &mut Vec<Step>) {
        let (likely, unlikely) = if speech >= self.rules.begin {
            (likely + 1, 0)
        } else if speech >= self.rules.go_on || likely == 0 {
            (likely, 0)
        } else {
            (likely, unlikely + 1)
        };
        if likely >= SHORTEST_SPEECH {
            self.state = State::Speech {
                end: self.position,
                paused: false,
            };
            if self.turn.replace(self.position).is_none() {
                let at = self.position - self.kept.len() as u64;
                steps.push(Step::Started { at });
            }
            return;
        }
        self.state = if unlikely < HANG {
            State::Quiet { likely, unlikely }
        } else {
            QUIET
        };
        if self.state == QUIET {
            let excess = (self.kept.len() as u64).saturating_sub(self.rules.prefix);
            self.kept.drain(..excess as usize);
        }
    }

    fn speech(&mut self, speech: u8, end: u64, paused: bool, steps: &mut Vec<Step>) {
        if speech >= self.rules.go_on {
            if paused {
                steps.push(Step::Resumed);
                self.turn_pause = self.rules.turn_pause;
            }
            self.state = State::Speech {
                end: self.position,
                paused: false,
            };
            self.turn = Some(self.position);
            if self.kept.len() as u64 >= LONGEST_PART {
                steps.push(self.cut());
            }
            return;
        }
        let silence = self.position - end;
        let part_pause = PART_PAUSE.min(self.turn_pause.unwrap_or(PART_PAUSE));
        let is_long = self.kept.len() as u64 >= LONG_PART && silence >= SHORT_PAUSE;
        if silence == PAUSE {
            let (part, place) = self.part_so_far();
            steps.push(Step::Paused(part, place));
            self.state = State::Speech { end, paused: true };
        }
        if silence >= part_pause || is_long || self.kept.len() as u64 >= LONGEST_PART {
            steps.push(self.take_part(end));
        }
    }

    /// Ends the turn if nothing was said for long enough.
    fn end_turn_after_silence(&mut self, steps: &mut Vec<Step>) {
        let Some((end, pause)) = self.turn.zip(self.turn_pause) else {
            return;
        };
        let is_quiet = matches!(self.state, State::Quiet { likely: 0, .. });
        if is_quiet && self.position - end >= pause {
            self.turn = None;
            self.turn_pause = self.rules.turn_pause;
            steps.push(Step::TurnEnded { at: self.position });
        }
    }

    /// Takes the part whose speech ends here. The silence after it may precede the next one.
    fn take_part(&mut self, end: u64) -> Step {
        let first = self.position - self.kept.len() as u64;
        let length = (end + PAUSE).min(self.position) - first;
        let rest = self.kept.split_off(length as usize);
        let part = std::mem::replace(&mut self.kept, rest);
        self.state = QUIET;
        Step::PartEnded(chunk(part.iter()), Place(first))
    }

    /// Cuts a part without a pause. What follows is speech as well.
    fn cut(&mut self) -> Step {
        let first = self.position - self.kept.len() as u64;
        let earliest = self.kept.len() - CUT_WITHIN as usize;
        let candidates = self.kept.iter().enumerate().skip(earliest);
        let quietest = candidates.min_by_key(|(_, frame)| frame.speech);
        let place = quietest.map_or(self.kept.len(), |(place, _)| place + 1);
        let rest = self.kept.split_off(place);
        let part = std::mem::replace(&mut self.kept, rest);
        Step::PartEnded(chunk(part.iter()), Place(first))
    }
}

/// The chunk of these frames; its time line begins with it.
fn chunk<'a>(frames: impl Iterator<Item = &'a SpeechFrame>) -> AudioChunk {
    let (mut samples, mut speech) = (Vec::new(), Vec::new());
    for frame in frames {
        samples.extend_from_slice(&frame.samples);
        speech.push(frame.speech);
    }
    AudioChunk {
        speech: SpeechTrack::new(speech),
        ..AudioChunk::contiguous(0, 0, Arc::from(samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: u8 = 250;
    const SILENT: u8 = 0;

    fn frame(speech: u8) -> SpeechFrame {
        SpeechFrame {
            samples: vec![1; 512],
            speech,
        }
    }

    /// The steps of audio that is given as runs of frames with the same probability, with the position of each.
    fn steps(segmenter: &mut Segmenter, runs: &[(u64, u8)]) -> Vec<(u64, Step)> {
        let mut seen = Vec::new();
        for &(count, speech) in runs {
            for _ in 0..count {
                let steps = segmenter.push(frame(speech));
                let position = segmenter.position();
                seen.extend(steps.into_iter().map(|step| (position, step)));
            }
        }
        seen
    }

    /// A step in short: its name, its place and the length of its audio in frames.
    fn short(steps: &[(u64, Step)]) -> Vec<(u64, &'static str, u64, u64)> {
        let length = |chunk: &AudioChunk| chunk.samples.len() as u64 / 512;
        let short = steps.iter().map(|(position, step)| match step {
            Step::Started { at } => (*position, "started", *at, 0),
            Step::Paused(chunk, place) => (*position, "paused", place.0, length(chunk)),
            Step::Resumed => (*position, "resumed", 0, 0),
            Step::PartEnded(chunk, place) => (*position, "part", place.0, length(chunk)),
            Step::TurnEnded { at } => (*position, "turn", *at, 0),
        });
        short.collect()
    }

    fn server_vad(silence: u64) -> TurnDetection {
        TurnDetection::Silence {
            threshold: 0.5,
            prefix: Duration::from_millis(320),
            silence: Duration::from_millis(silence),
        }
    }

    #[test]
    fn a_command_pauses_after_a_quarter_of_a_second_and_its_turn_ends_with_the_silence() {
        let mut segmenter = Segmenter::new(server_vad(512));
        let seen = steps(&mut segmenter, &[(40, SILENT), (30, SAID), (40, SILENT)]);
        assert_eq!(
            short(&seen),
            [
                // Ten frames before the first of three with speech.
                (43, "started", 30, 0),
                (78, "paused", 30, 48),
                // The part is the audio of the pause.
                (86, "part", 30, 48),
                (86, "turn", 86, 0),
            ]
        );
        assert_eq!(segmenter.end(), []);
    }

    #[test]
    fn speech_that_goes_on_after_a_pause_belongs_to_the_same_part() {
        let mut segmenter = Segmenter::new(server_vad(512));
        let seen = steps(
            &mut segmenter,
            &[(30, SAID), (10, SILENT), (20, SAID), (16, SILENT)],
        );
        assert_eq!(
            short(&seen),
            [
                (3, "started", 0, 0),
                (38, "paused", 0, 38),
                (41, "resumed", 0, 0),
                (68, "paused", 0, 68),
                (76, "part", 0, 68),
                (76, "turn", 76, 0),
            ]
        );
    }

    #[test]
    fn without_detection_only_the_client_ends_a_turn_and_long_pauses_end_parts() {
        let mut segmenter = Segmenter::new(TurnDetection::Manual);
        let seen = steps(
            &mut segmenter,
            &[(30, SAID), (100, SILENT), (20, SAID), (3, SILENT)],
        );
        assert_eq!(
            short(&seen),
            [
                (3, "started", 0, 0),
                (38, "paused", 0, 38),
                (92, "part", 0, 38),
            ]
        );
        let end = segmenter.end();
        let end: Vec<_> = end.into_iter().map(|step| (153, step)).collect();
        assert_eq!(
            short(&end),
            [(153, "part", 115, 38), (153, "turn", 153, 0)],
            "15 frames of padding, 20 of speech, 3 of silence"
        );
    }

    #[test]
    fn clicks_are_no_speech_and_a_cut_off_word_is() {
        let mut segmenter = Segmenter::new(TurnDetection::Manual);
        let clicks = [(2, SAID), (20, SILENT)].repeat(10);
        assert_eq!(steps(&mut segmenter, &clicks), []);
        assert_eq!(segmenter.end(), []);
        assert_eq!(steps(&mut segmenter, &[(2, SAID)]), []);
        let end: Vec<_> = (segmenter.end().into_iter())
            .map(|step| (0, step))
            .collect();
        assert_eq!(short(&end), [(0, "part", 220, 2)]);
    }

    #[test]
    fn long_speech_is_cut_in_a_short_pause_or_at_its_least_probable_place() {
        let mut segmenter = Segmenter::new(server_vad(512));
        let seen = steps(&mut segmenter, &[(640, SAID), (6, SILENT), (100, SAID)]);
        assert_eq!(
            short(&seen),
            [(3, "started", 0, 0), (646, "part", 0, 646)],
            "the turn goes on"
        );
        assert!(segmenter.is_speaking());
        let mut segmenter = Segmenter::new(server_vad(512));
        let seen = steps(&mut segmenter, &[(800, SAID), (1, 150), (200, SAID)]);
        assert_eq!(short(&seen), [(3, "started", 0, 0), (875, "part", 0, 801)]);
        assert_eq!(segmenter.part_length(), 200);
        // The turn of a part that was cut in a pause ends with the silence after it.
        let mut segmenter = Segmenter::new(server_vad(512));
        let seen = steps(&mut segmenter, &[(640, SAID), (20, SILENT)]);
        assert_eq!(
            short(&seen),
            [
                (3, "started", 0, 0),
                (646, "part", 0, 646),
                (656, "turn", 656, 0)
            ]
        );
    }

    #[test]
    fn a_whole_sentence_ends_a_turn_earlier() {
        let sentence = TurnDetection::Sentence {
            longest: Duration::from_secs(4),
        };
        for (ends, turn_after) in [(true, 15), (false, 125)] {
            let mut segmenter = Segmenter::new(sentence);
            let seen = steps(&mut segmenter, &[(30, SAID), (PAUSE, SILENT)]);
            assert_eq!(short(&seen)[1].1, "paused");
            if ends {
                segmenter.sentence_ended();
            }
            let seen = steps(&mut segmenter, &[(125 - PAUSE, SILENT)]);
            let last = *short(&seen).last().expect("a step");
            assert_eq!((last.0, last.1), (30 + turn_after, "turn"));
        }
    }

    #[test]
    fn cleared_audio_is_forgotten() {
        let mut segmenter = Segmenter::new(TurnDetection::Manual);
        steps(&mut segmenter, &[(30, SAID)]);
        segmenter.clear();
        assert_eq!(segmenter.end(), []);
        let seen = steps(&mut segmenter, &[(3, SAID)]);
        assert_eq!(short(&seen), [(33, "started", 30, 0)]);
    }
}
