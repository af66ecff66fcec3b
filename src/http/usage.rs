//! Charges the caller for transcribed audio: all of it once the transcript is there, or the part that was
//! done when the request failed or was cancelled.

use futures::FutureExt;
use stt_actors::domain::transcript::Transcript;
use stt_actors::{Event, SttError, TranscriptStream};

use crate::http::AppState;
use crate::http::caller::Caller;

/// A job's events. Reading or dropping them charges the caller.
pub struct MeteredEvents {
    events: TranscriptStream,
    meter: UsageMeter,
}

/// Seconds of audio that the caller has to be charged for.
struct UsageMeter {
    state: AppState,
    caller: Caller,
    seconds: f64,
    /// The most that is charged.
    max_seconds: f64,
}

impl MeteredEvents {
    /// Charges the caller for all audio that the job transcribes.
    pub fn new(events: TranscriptStream, state: &AppState, caller: Caller) -> Self {
        Self {
            events,
            meter: UsageMeter {
                state: state.clone(),
                caller,
                seconds: 0.0,
                max_seconds: f64::INFINITY,
            },
        }
    }

    /// Charges for at most `seconds` of audio.
    pub fn at_most(mut self, seconds: f64) -> Self {
        self.meter.max_seconds = seconds;
        self
    }

    /// The next event. The last one is charged before it is returned.
    pub async fn next(&mut self) -> Option<Result<Event, SttError>> {
        let event = self.events.next().await?;
        self.meter.record(event.as_ref().ok());
        Some(event)
    }

    /// Waits for the whole transcript.
    pub async fn transcript(mut self) -> Result<Transcript, SttError> {
        while let Some(event) = self.next().await {
            if let Event::Done(transcript) = event? {
                return Ok(transcript);
            }
        }
        Err(SttError::Internal("the events ended without a transcript"))
    }
}

impl Drop for MeteredEvents {
    fn drop(&mut self) {
        // Events that the client did not wait for count as well.
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.meter.record(event.as_ref().ok());
        }
        self.meter.charge();
    }
}

impl UsageMeter {
    /// Counts an event's audio; `None` for a failed job.
    fn record(&mut self, event: Option<&Event>) {
        let seconds = match event {
            Some(Event::Segment(segment)) => segment.end,
            Some(Event::Progress(progress)) => progress.seconds_done,
            Some(Event::Done(transcript)) => {
                // Segments may end a little later than the audio.
                self.seconds = transcript.duration;
                return self.charge();
            }
            Some(Event::Language { .. } | Event::Route(_) | Event::Finished(_)) => 0.0,
            None => return self.charge(),
        };
        self.seconds = self.seconds.max(seconds);
    }

    fn charge(&mut self) {
        let seconds = std::mem::take(&mut self.seconds).min(self.max_seconds);
        charge(&self.state, &self.caller, seconds);
    }
}

/// Charges a caller for transcribed audio.
pub fn charge(state: &AppState, caller: &Caller, seconds: f64) {
    if seconds > 0.0 {
        state.limits.charge(caller, seconds);
        state.metrics.record_key_audio(&caller.name(), seconds);
    }
}
