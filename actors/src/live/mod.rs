//! Live audio: one session per connection, from its samples to the text of each turn.
//!
//! [`sessions`] supervises the sessions. A [`session`] is an actor: it finds speech ([`segmenter`]), has it
//! transcribed by jobs of its own ([`work`]), part by part of each [`turn`], and sends [`LiveEvent`](crate::domain::live::LiveEvent)s. It answers
//! before it is asked: when speech pauses, the transcription of what is there begins as spare work. If nothing more is
//! said, its result is ready when the turn ends; until then it keeps no lane from other work. While somebody speaks,
//! passes over the growing utterance give the words that they agree on ([`agreement`]).

pub mod agreement;
pub mod segmenter;
pub mod session;
pub mod sessions;
pub mod turn;
pub mod work;

use std::time::Duration;

/// Limits of live sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// The most sessions at the same time.
    pub sessions: usize,
    /// A session without audio and without requests for this long is ended.
    pub idle_limit: Duration,
}
