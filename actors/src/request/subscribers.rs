//! Those who listen to one transcription: whoever submitted it, and whoever sent the same again while
//! it runs.
//!
//! Shared between the Transcription, which speaks, and its supervisor, which lets others in. A lock
//! decides what two messages could not: whether somebody came before the end or after it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::domain::error::SttError;
use crate::domain::job::{Event, Progress};
use crate::domain::transcript::{Route, Segment, Transcript};
use crate::request::resume::FinishedWork;
use crate::status::admission::AdmissionSlot;

/// Where events go. Unbounded, and bounded by the length of the audio all the same: a handful of
/// segments a chunk.
pub type EventSender = mpsc::UnboundedSender<Result<Event, SttError>>;

/// What a transcription left when it ended.
#[derive(Debug)]
pub enum Ending {
    /// Its text, which somebody has heard.
    Done(Box<Transcript>),
    /// What was finished, and not heard: it failed, or nobody listened any more.
    Unheard(FinishedWork),
    /// That was taken before.
    Nothing,
}

/// The listeners.
#[derive(Debug)]
pub struct Subscribers(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    listeners: Vec<Listener>,
    told: Told,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Listener {
    events: EventSender,
    /// Of those who came later: there is no work in it. The first one's is the Transcription's.
    slot: Option<AdmissionSlot>,
}

/// What a newcomer has missed.
#[derive(Debug, Default)]
struct Told {
    language: Option<Event>,
    route: Option<Route>,
    segments: Vec<Segment>,
    progress: Progress,
}

impl Told {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Language { .. } => self.language = Some(event.clone()),
            Event::Route(route) => self.route = Some(*route),
            Event::Segment(segment) => self.segments.push(segment.clone()),
            Event::Progress(progress) => self.progress = *progress,
            Event::Done(_) => {}
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
    /// One listener.
    pub fn new(events: EventSender) -> Self {
        let first = Listener { events, slot: None };
        Self(Mutex::new(Inner {
            listeners: vec![first],
            told: Told::default(),
            ending: None,
        }))
    }

    /// One more listener, who first hears what was told before; given back if it came too late.
    pub(crate) fn join(
        &self,
        events: EventSender,
        mut slot: AdmissionSlot,
    ) -> Result<(), (EventSender, AdmissionSlot)> {
        let mut inner = self.lock();
        if inner.ending.is_some() {
            return Err((events, slot));
        }
        for event in inner.told.events() {
            let _ = events.send(Ok(event));
        }
        // Its work is in the accounts already.
        slot.clear();
        inner.listeners.push(Listener {
            events,
            slot: Some(slot),
        });
        Ok(())
    }

    /// Tells all.
    pub(crate) fn tell(&self, event: &Event) {
        let mut inner = self.lock();
        inner.told.note(event);
        for listener in &inner.listeners {
            // That somebody listens no more is noticed after every message.
            let _ = listener.events.send(Ok(event.clone()));
        }
    }

    /// The segments that were told.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.lock().told.segments.clone()
    }

    /// Tells all the end. Their places are given back before they hear it: the next request of
    /// theirs must not find this one still in the accounts. Unless somebody hears a text, `finished` is
    /// kept for who comes back.
    pub(crate) fn end(
        &self,
        result: Result<Transcript, SttError>,
        finished: impl FnOnce() -> FinishedWork,
    ) {
        let mut inner = self.lock();
        let mut is_heard = false;
        for listener in std::mem::take(&mut inner.listeners) {
            drop(listener.slot);
            let last = result.clone().map(Event::Done);
            is_heard |= listener.events.send(last).is_ok();
        }
        inner.told = Told::default();
        inner.ending = Some(match result {
            Ok(transcript) if is_heard => Ending::Done(Box::new(transcript)),
            Ok(_) | Err(_) => Ending::Unheard(finished()),
        });
    }

    /// Whether nobody listens any more. Then it is over, and `finished` is kept for who comes back.
    pub(crate) fn is_deserted(&self, finished: impl FnOnce() -> FinishedWork) -> bool {
        let mut inner = self.lock();
        inner
            .listeners
            .retain(|listener| !listener.events.is_closed());
        let deserted = inner.listeners.is_empty();
        if deserted && inner.ending.is_none() {
            inner.ending = Some(Ending::Unheard(finished()));
        }
        deserted
    }

    /// What it left at its end; `None`: it goes on.
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
