//! Results of each window of a chunk that whisper does not report: where the window began, and the times of
//! the tokens of its text.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use whisper_rs::whisper_rs_sys as sys;

use super::alignment;
use super::callbacks::Window;
use crate::engine::ggml_hooks::observe::{self, Head};

/// Step of a timestamp, in whisper's frames of 10 ms.
const FRAMES_OF_A_TIMESTAMP: i64 = 2;
/// The end of a window whose text has no timestamp, in frames of 10 ms.
const FRAMES_OF_A_WINDOW: i64 = 3000;

/// How tokens get their times.
#[derive(Clone, Copy, Debug)]
pub struct Timing<'a> {
    /// The heads that follow the audio.
    pub heads: &'a [Head],
    /// Length of the audio, in frames of 20 ms.
    pub audio_frames: usize,
    /// Whether the text is a translation.
    pub translates: bool,
    /// CPU threads.
    pub threads: u32,
    /// Set by another thread to end the work.
    pub abort: &'a AtomicBool,
}

/// The token that the text of a window begins with. Whisper drops a timestamp above zero from the segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Front {
    /// Nothing has been decoded yet.
    #[default]
    Unseen,
    /// All attempts began with this token.
    Token(i32),
    /// Candidates or attempts began with different tokens.
    Unsure,
}

impl Front {
    /// Adds the first token of one more attempt.
    pub fn or(self, token: i32) -> Self {
        match self {
            Self::Unseen => Self::Token(token),
            Self::Token(before) if before == token => self,
            Self::Token(_) | Self::Unsure => Self::Unsure,
        }
    }
}

/// Results of a window that is done.
#[derive(Debug, Default)]
pub struct Ended {
    /// Where it began, in frames of 10 ms. If that is not certain, where its text begins, at most a second
    /// later.
    pub seek: u64,
    /// Times of its tokens of text, in seconds of the audio; `None`: unknown.
    pub times: Vec<Option<Range<f64>>>,
}

/// Reads the results of the last window.
///
/// # Safety
/// Context and state are live, belong together, and are between two windows or after the last.
pub unsafe fn ended(
    context: *mut sys::whisper_context,
    state: *mut sys::whisper_state,
    window: &Window,
    timing: Option<&Timing<'_>>,
) -> Ended {
    // SAFETY: the caller's promise.
    unsafe {
        let segments = segments(state);
        let own = segments.get(window.first_segment..).unwrap_or_default();
        let first_timestamp = sys::whisper_token_beg(context);
        let certain = if window.is_first {
            Some(0)
        } else {
            seek(own, first_timestamp, window.front)
        };
        let rough = || own.first().map_or(0, |segment| segment.start);
        let seek = u64::try_from(certain.unwrap_or_else(rough)).unwrap_or(0);
        let end_of_text = sys::whisper_token_eot(context);
        let tokens = own.iter().flat_map(|segment| &segment.tokens);
        let text: Vec<i32> = (tokens.map(|token| token.id))
            .filter(|token| *token < end_of_text)
            .collect();
        // Without a certain beginning, exact times would be worse than whisper's rough ones.
        let timing = timing.filter(|_| certain.is_some());
        let times = timing.and_then(|timing| align(context, state, &text, seek, timing));
        let begins = seek as f64 / 100.0;
        let times = times.map(|times| {
            let times = times.into_iter();
            times
                .map(|time| Some(time.start + begins..time.end + begins))
                .collect()
        });
        Ended {
            seek,
            times: times.unwrap_or_else(|| vec![None; text.len()]),
        }
    }
}

/// A segment of whisper; times in frames of 10 ms.
struct RawSegment {
    start: i64,
    end: i64,
    tokens: Vec<sys::whisper_token_data>,
}

/// # Safety
/// The state is live.
unsafe fn segments(state: *mut sys::whisper_state) -> Vec<RawSegment> {
    // SAFETY: the indices are those that whisper counts.
    unsafe {
        let count = sys::whisper_full_n_segments_from_state(state);
        let segment = |number| RawSegment {
            start: sys::whisper_full_get_segment_t0_from_state(state, number),
            end: sys::whisper_full_get_segment_t1_from_state(state, number),
            tokens: (0..sys::whisper_full_n_tokens_from_state(state, number))
                .map(|token| sys::whisper_full_get_token_data_from_state(state, number, token))
                .collect(),
        };
        (0..count).map(segment).collect()
    }
}

/// Where the window of these segments began. Timestamps count from there; the segments' times, which whisper
/// derives from them, count from the beginning of the audio. `None`: not certain.
fn seek(segments: &[RawSegment], first_timestamp: i32, front: Front) -> Option<i64> {
    let before = |moment: i64, timestamp: i32| {
        moment - FRAMES_OF_A_TIMESTAMP * i64::from(timestamp - first_timestamp)
    };
    let segment = segments.first()?;
    let (first, last) = (segment.tokens.first()?, segment.tokens.last()?);
    if first.id >= first_timestamp {
        return Some(before(segment.start, first.id));
    }
    // Zero ends no segment.
    if last.id > first_timestamp {
        return Some(before(segment.end, last.id));
    }
    // A text without timestamps lasts to the end of the window. A text whose only timestamp was the dropped
    // first one ends where it begins.
    if segment.end > segment.start {
        return Some(segment.end - FRAMES_OF_A_WINDOW);
    }
    match front {
        Front::Token(token) if token > first_timestamp => Some(before(segment.start, token)),
        Front::Token(_) | Front::Unseen | Front::Unsure => None,
    }
}

/// The times of a window's tokens of text, in seconds of the window.
///
/// # Safety
/// As for [`ended`].
unsafe fn align(
    context: *mut sys::whisper_context,
    state: *mut sys::whisper_state,
    text: &[i32],
    seek: u64,
    timing: &Timing<'_>,
) -> Option<Vec<Range<f64>>> {
    // SAFETY: the caller's promise; the decoder is given as many tokens as there are, and no
    // more than it has room for.
    unsafe {
        let mut tokens = vec![sys::whisper_token_sot(context)];
        if sys::whisper_is_multilingual(context) != 0 {
            let language = sys::whisper_full_lang_id_from_state(state);
            tokens.push(sys::whisper_token_lang(context, language));
            tokens.push(if timing.translates {
                sys::whisper_token_translate(context)
            } else {
                sys::whisper_token_transcribe(context)
            });
        }
        tokens.push(sys::whisper_token_not(context));
        let before = tokens.len();
        tokens.extend(text);
        tokens.push(sys::whisper_token_eot(context));
        let count = i32::try_from(tokens.len()).ok()?;
        // Whisper's batch has no room for more, and whisper does not check.
        if text.is_empty() || count > sys::whisper_n_text_ctx(context) {
            return None;
        }
        let threads = timing.threads.cast_signed();
        let (failed, attention) = observe::attention(timing.heads, timing.abort, || {
            sys::whisper_decode_with_state(context, state, tokens.as_ptr(), count, 0, threads)
        });
        let seek = usize::try_from(seek / 2).ok()?;
        let frames = timing.audio_frames.saturating_sub(seek);
        let was_aborted = timing.abort.load(Ordering::Acquire);
        let is_whole = failed == 0 && attention.tokens == tokens.len() && !was_aborted;
        is_whole
            .then(|| alignment::token_times(&attention, before, frames))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_TIMESTAMP: i32 = 50_364;

    fn token(id: i32) -> sys::whisper_token_data {
        sys::whisper_token_data {
            id,
            tid: id.max(FIRST_TIMESTAMP),
            p: 0.0,
            plog: 0.0,
            pt: 0.0,
            ptsum: 0.0,
            t0: 0,
            t1: 0,
            t_dtw: -1,
            vlen: 0.0,
        }
    }

    fn segment(start: i64, end: i64, ids: &[i32]) -> RawSegment {
        RawSegment {
            start,
            end,
            tokens: ids.iter().map(|id| token(*id)).collect(),
        }
    }

    #[test]
    fn a_window_begins_where_its_timestamps_count_from() {
        let text = 11;
        let both = segment(
            1210,
            1310,
            &[FIRST_TIMESTAMP + 5, text, FIRST_TIMESTAMP + 55],
        );
        let seek = |segments: &[RawSegment]| seek(segments, FIRST_TIMESTAMP, Front::Unsure);
        assert_eq!(seek(&[both]), Some(1200));
        let end_only = segment(1234, 1310, &[text, FIRST_TIMESTAMP + 55]);
        assert_eq!(seek(&[end_only]), Some(1200));
        assert_eq!(seek(&[]), None);
    }

    #[test]
    fn without_timestamps_the_start_of_a_window_follows_from_its_end() {
        // Whatever came before: a window without speech leaves no segment.
        for ids in [&[11][..], &[11, FIRST_TIMESTAMP], &[11, 12]] {
            let bare = segment(1840, 1800 + FRAMES_OF_A_WINDOW, ids);
            let found = seek(&[bare], FIRST_TIMESTAMP, Front::Token(11));
            assert_eq!(found, Some(1800), "{ids:?}");
        }
        // Without timestamps there is nothing to derive the start from.
        let untimed = segment(-100_728, FRAMES_OF_A_WINDOW, &[11]);
        assert_eq!(seek(&[untimed], FIRST_TIMESTAMP, Front::Token(11)), Some(0));
    }

    #[test]
    fn a_dropped_first_timestamp_counts_if_it_was_recorded_and_otherwise_the_start_is_uncertain() {
        let seek = |front| {
            let lost = segment(1240, 1240, &[11, 12]);
            seek(&[lost], FIRST_TIMESTAMP, front)
        };
        assert_eq!(seek(Front::Token(FIRST_TIMESTAMP + 20)), Some(1200));
        for unknown in [Front::Unseen, Front::Unsure, Front::Token(11)] {
            assert_eq!(seek(unknown), None, "{unknown:?}");
        }
        let noted = Front::default().or(FIRST_TIMESTAMP + 20);
        assert_eq!(noted, Front::Token(FIRST_TIMESTAMP + 20));
        assert_eq!(noted.or(FIRST_TIMESTAMP + 20), noted);
        assert_eq!(
            noted.or(FIRST_TIMESTAMP + 21).or(FIRST_TIMESTAMP + 20),
            Front::Unsure
        );
    }
}
