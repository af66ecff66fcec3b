//! A turn and its parts: which text is sent when, and the transcript at its end.

use std::collections::VecDeque;

use crate::domain::chunk::{AudioChunk, SPEECH_FRAME, samples_to_seconds};
use crate::domain::error::SttError;
use crate::domain::live::{LiveEvent, TurnId};
use crate::domain::transcript::Transcript;
use crate::live::agreement::Agreement;
use crate::live::segmenter::Place;
use crate::live::work::Running;

/// Identifies a job of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartId(pub u64);

/// A part of a turn at work, or done.
pub struct Part {
    /// Identifies its job.
    pub id: PartId,
    /// Where it begins.
    pub place: Place,
    /// Its audio, in case that its job is lost.
    pub audio: AudioChunk,
    /// What was sent of its text.
    pub agreement: Agreement,
    /// Number of jobs so far.
    pub attempts: usize,
    /// Its job began before its turn was over, and failed rather than wait.
    pub is_guess: bool,
    /// Its job, or the result.
    pub state: PartState,
}

/// The work on a part.
pub enum PartState {
    /// Its job runs.
    Running(Running),
    /// Its text, or why there is none.
    Done(Result<Transcript, SttError>),
}

/// A turn that is not completed.
pub struct Turn {
    /// Its number.
    pub id: TurnId,
    /// Its parts whose text was not taken yet.
    pub parts: VecDeque<Part>,
    /// The transcripts of the parts before.
    pub so_far: Option<Result<Transcript, SttError>>,
    has_text: bool,
    /// Whether it has all its audio.
    pub is_over: bool,
}

impl Turn {
    /// A turn without parts.
    pub fn new(id: TurnId) -> Self {
        Self {
            id,
            parts: VecDeque::new(),
            so_far: None,
            has_text: false,
            is_over: false,
        }
    }

    /// Takes the parts that have their text, and adds the events for them.
    pub fn settle(&mut self, events: &mut Vec<LiveEvent>) {
        while let Some(part) =
            (self.parts).pop_front_if(|part| matches!(part.state, PartState::Done(_)))
        {
            let PartState::Done(outcome) = part.state else {
                continue;
            };
            if let Ok(transcript) = &outcome {
                let rest = part.agreement.finish(&transcript.untrimmed_text());
                events.extend(self.delta(&rest));
            }
            let outcome = outcome.map(|transcript| transcript.delayed_by(seconds(part.place.0)));
            self.so_far = Some(match (self.so_far.take(), outcome) {
                (Some(Ok(mut before)), Ok(next)) => {
                    before.append(next);
                    Ok(before)
                }
                (Some(Err(error)), _) | (_, Err(error)) => Err(error),
                (None, Ok(first)) => Ok(first),
            });
        }
        if self.is_completed() {
            let result = self.so_far.take();
            events.push(LiveEvent::Completed {
                turn: self.id,
                result: result.unwrap_or_else(|| Ok(Transcript::default())),
            });
        }
    }

    /// Whether nothing follows.
    pub fn is_completed(&self) -> bool {
        self.is_over && self.parts.is_empty()
    }

    /// The event for more text, if there is any. A turn does not begin with a space.
    pub fn delta(&mut self, text: &str) -> Option<LiveEvent> {
        let text = if self.has_text {
            text
        } else {
            text.trim_start()
        };
        if text.is_empty() {
            return None;
        }
        self.has_text = true;
        Some(LiveEvent::Delta {
            turn: self.id,
            text: text.to_owned(),
        })
    }
}

/// The time of a position in frames, in seconds.
pub fn seconds(frames: u64) -> f64 {
    samples_to_seconds(frames * SPEECH_FRAME as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::transcript::Segment;

    fn done(place: u64, outcome: Result<&str, SttError>) -> Part {
        let outcome = outcome.map(|text| Transcript {
            segments: vec![Segment::said(0.0, 1.0, text)],
            duration: 1.0,
            ..Transcript::default()
        });
        Part {
            id: PartId(place),
            place: Place(place),
            audio: AudioChunk::contiguous(0, 0, Arc::from([])),
            agreement: Agreement::default(),
            attempts: 1,
            is_guess: false,
            state: PartState::Done(outcome),
        }
    }

    fn settled(parts: Vec<Part>) -> Vec<LiveEvent> {
        let mut turn = Turn::new(TurnId(1));
        turn.parts = parts.into();
        turn.is_over = true;
        let mut events = Vec::new();
        turn.settle(&mut events);
        events
    }

    #[test]
    fn the_parts_of_a_turn_are_one_transcript_on_the_time_line_of_the_session() {
        let events = settled(vec![done(125, Ok(" One.")), done(250, Ok(" Two."))]);
        let [
            LiveEvent::Delta { text: one, .. },
            LiveEvent::Delta { text: two, .. },
            LiveEvent::Completed { result, .. },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!((one.as_str(), two.as_str()), ("One.", " Two."));
        let transcript = result.as_ref().expect("a transcript");
        assert_eq!(transcript.text(), "One. Two.");
        let starts: Vec<_> = (transcript.segments.iter())
            .map(|segment| (segment.id, segment.start))
            .collect();
        assert_eq!(starts, [(0, 4.0), (1, 8.0)]);
        assert!((transcript.duration - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_part_without_a_text_fails_its_turn_and_one_without_parts_is_empty() {
        let events = settled(vec![
            done(0, Ok(" One.")),
            done(9, Err(SttError::Timeout)),
            done(18, Ok(" Three.")),
        ]);
        let last = events.last();
        assert!(
            matches!(
                last,
                Some(LiveEvent::Completed {
                    result: Err(SttError::Timeout),
                    ..
                })
            ),
            "{last:?}"
        );
        let result = Ok(Transcript::default());
        let turn = TurnId(1);
        assert_eq!(settled(vec![]), [LiveEvent::Completed { turn, result }]);
    }
}
