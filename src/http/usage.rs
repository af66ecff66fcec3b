//! A transcription's events, with the audio that was worked on charged to who asked for it: all of it when
//! the transcript is there, and what was done by then if it is given up or fails.

use futures::FutureExt;
use stt_actors::transcript::Transcript;
use stt_actors::{Event, SttError, TranscriptStream};

use crate::http::AppState;
use crate::http::caller::Visitor;

/// Events that are paid for.
pub struct Metered {
    events: TranscriptStream,
    bill: Bill,
}

/// What has come together.
struct Bill {
    state: AppState,
    visitor: Visitor,
    seconds: f64,
    /// No more than this, whatever comes together.
    most_seconds: f64,
}

impl Metered {
    /// Charges a visitor for all that is heard.
    pub fn new(events: TranscriptStream, state: &AppState, visitor: Visitor) -> Self {
        Self {
            events,
            bill: Bill {
                state: state.clone(),
                visitor,
                seconds: 0.0,
                most_seconds: f64::INFINITY,
            },
        }
    }

    /// The same, but for no more than so many seconds.
    pub fn at_most(mut self, seconds: f64) -> Self {
        self.bill.most_seconds = seconds;
        self
    }

    /// The next event, as of the stream itself. The last one is charged before it is given.
    pub async fn next(&mut self) -> Option<Result<Event, SttError>> {
        let event = self.events.next().await?;
        self.bill.note(event.as_ref().ok());
        Some(event)
    }

    /// Waits for the whole transcript.
    pub async fn transcript(mut self) -> Result<Transcript, SttError> {
        while let Some(event) = self.next().await {
            if let Event::Done(transcript) = event? {
                return Ok(transcript);
            }
        }
        Err(SttError::Internal("the transcription ended without an end"))
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // What was done while nobody listened counts as well.
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.bill.note(event.as_ref().ok());
        }
        self.bill.settle();
    }
}

impl Bill {
    /// `None`: it has failed.
    fn note(&mut self, event: Option<&Event>) {
        let seconds = match event {
            Some(Event::Segment(segment)) => segment.end,
            Some(Event::Progress(progress)) => progress.seconds_done,
            Some(Event::Done(transcript)) => {
                // Segments may end a little later than the audio.
                self.seconds = transcript.duration;
                return self.settle();
            }
            Some(Event::Language { .. } | Event::Route(_)) => 0.0,
            None => return self.settle(),
        };
        self.seconds = self.seconds.max(seconds);
    }

    fn settle(&mut self) {
        let seconds = std::mem::take(&mut self.seconds).min(self.most_seconds);
        if seconds > 0.0 {
            self.state.limits.charge(&self.visitor, seconds);
            let name = self.visitor.name();
            self.state.metrics.record_key_audio(&name, seconds);
        }
    }
}
