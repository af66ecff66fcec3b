//! The subscribers of a transcription: the request that started it, and equal requests that joined later.
//!
//! Shared between the Transcription, which sends events, and its supervisor, which adds subscribers. The
//! lock decides whether a subscriber joined before or after the end, which two messages cannot.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::domain::error::SttError;
use crate::domain::finished::FinishedWork;
use crate::domain::job::{Event, Progress};
use crate::domain::transcript::{Route, Segment, Transcript};
use crate::status::admission::AdmissionSlot;

/// Sends events to a subscriber. The channel is unbounded, but the length of the audio limits it: a few
/// segments for each chunk.
pub type EventSender = mpsc::UnboundedSender<Result<Event, SttError>>;

/// What a transcription left when it ended.
#[derive(Debug)]
pub enum Ending {
    /// Its result, which at least one subscriber received.
    Done(Box<Transcript>),
    /// The finished part: it failed, or no subscriber was left to receive the result.
    Undelivered(FinishedWork),
    /// The ending was taken before.
    Nothing,
}

/// The subscribers of a transcription.
#[derive(Debug)]
pub struct Subscribers(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    subscribers: Vec<Subscriber>,
    history: History,
    ending: Option<Ending>,
}

impl Inner {
    /// Forgets the subscribers that left. Returns whether one stayed.
    fn has_subscribers(&mut self) -> bool {
        self.subscribers
            .retain(|subscriber| !subscriber.events.is_closed());
        !self.subscribers.is_empty()
    }
}

#[derive(Debug)]
struct Subscriber {
    events: EventSender,
    /// The slot of a subscriber that joined later, without work in it. The slot of the first subscriber
    /// belongs to the Transcription.
    slot: Option<AdmissionSlot>,
}

/// The events so far, for subscribers that join later.
#[derive(Debug, Default)]
struct History {
    language: Option<Event>,
    route: Option<Route>,
    segments: Vec<Segment>,
    progress: Progress,
}

impl History {
    fn record(&mut self, event: &Event) {
        match event {
            Event::Language { .. } => self.language = Some(event.clone()),
            Event::Route(route) => self.route = Some(*route),
            Event::Segment(segment) => self.segments.push(segment.clone()),
            Event::Progress(progress) => self.progress = *progress,
            Event::Finished(_) | Event::Done(_) => {}
        }
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        let progress = (self.progress != Progress::default()).then_some(self.progress);
        (self.language.iter().cloned())
            .chain(self.route.map(Event::Route))
            .chain(self.segments.iter().cloned().map(Event::Segment))
            .chain(progress.map(Event::Progress))
    }
}

impl Subscribers {
    /// Starts with one subscriber.
    pub fn new(events: EventSender) -> Self {
        let first = Subscriber { events, slot: None };
        Self(Mutex::new(Inner {
            subscribers: vec![first],
            history: History::default(),
            ending: None,
        }))
    }

    /// Adds a subscriber and sends it the events so far.
    ///
    /// # Errors
    /// Returns the arguments if the transcription has ended.
    pub(crate) fn join(
        &self,
        events: EventSender,
        mut slot: AdmissionSlot,
    ) -> Result<(), (EventSender, AdmissionSlot)> {
        let mut inner = self.lock();
        if inner.ending.is_some() {
            return Err((events, slot));
        }
        for event in inner.history.events() {
            let _ = events.send(Ok(event));
        }
        // The first subscriber's slot accounts for the work.
        slot.clear();
        inner.subscribers.push(Subscriber {
            events,
            slot: Some(slot),
        });
        Ok(())
    }

    /// Sends an event to all subscribers.
    pub(crate) fn send(&self, event: &Event) {
        let mut inner = self.lock();
        inner.history.record(event);
        for subscriber in &inner.subscribers {
            // A closed channel is noticed after each message that the Transcription handles.
            let _ = subscriber.events.send(Ok(event.clone()));
        }
    }

    /// The segments that were sent.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.lock().history.segments.clone()
    }

    /// Sends the result to all subscribers. Frees each one's slot first, so that the client's next request
    /// does not find this one in the accounts. Unless a subscriber receives a transcript, `finished` is
    /// kept for an equal request.
    pub(crate) fn end(
        &self,
        result: Result<Transcript, SttError>,
        finished: impl FnOnce() -> FinishedWork,
    ) {
        let mut inner = self.lock();
        let mut is_delivered = false;
        for subscriber in std::mem::take(&mut inner.subscribers) {
            drop(subscriber.slot);
            let last = result.clone().map(Event::Done);
            is_delivered |= subscriber.events.send(last).is_ok();
        }
        inner.history = History::default();
        inner.ending = Some(match result {
            Ok(transcript) if is_delivered => Ending::Done(Box::new(transcript)),
            Ok(_) | Err(_) => Ending::Undelivered(finished()),
        });
    }

    /// Whether a subscriber is left.
    pub(crate) fn has_any(&self) -> bool {
        self.lock().has_subscribers()
    }

    /// Whether no subscriber is left. Then the transcription ends, and `finished` is kept for an equal
    /// request.
    pub(crate) fn is_abandoned(&self, finished: impl FnOnce() -> FinishedWork) -> bool {
        let mut inner = self.lock();
        let is_abandoned = !inner.has_subscribers();
        if is_abandoned && inner.ending.is_none() {
            inner.ending = Some(Ending::Undelivered(finished()));
        }
        is_abandoned
    }

    /// Takes what the transcription left at its end; `None`: it still runs.
    pub(crate) fn take_ending(&self) -> Option<Ending> {
        let ending = &mut self.lock().ending;
        ending
            .as_mut()
            .map(|ending| std::mem::replace(ending, Ending::Nothing))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
