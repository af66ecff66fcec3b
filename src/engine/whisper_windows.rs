//! What whisper leaves behind of each window that it cuts a chunk into: where the window began, which it
//! does not tell, and when the tokens of its text were said.

use std::ops::Range;

use whisper_rs::whisper_rs_sys as sys;

use super::alignment;
use crate::engine::kernels::observe::{self, Head};

/// Frames of 10 ms, which whisper counts in, for a timestamp's step.
const FRAMES_OF_A_TIMESTAMP: i64 = 2;
/// Tokens that a decoder takes in at once.
const MOST_TOKENS: usize = 448;

/// How tokens get their times.
#[derive(Clone, Copy, Debug)]
pub struct Timing<'a> {
    /// The heads that follow the audio.
    pub heads: &'a [Head],
    /// Length of the audio, in frames of 20 ms.
    pub audio_frames: usize,
    /// Whether the text is a translation.
    pub translates: bool,
    /// Threads.
    pub threads: u32,
}

/// What is known of a window once it is done.
#[derive(Debug, Default)]
pub struct Ended {
    /// Where it began, in frames of 10 ms.
    pub seek: u64,
    /// Times of its tokens of text, in seconds of the audio; `None`: not known.
    pub times: Vec<Option<Range<f64>>>,
}

/// Looks at the window whose segments are all from this one on.
///
/// # Safety
/// Context and state are live, belong together, and are between two windows or after the last.
pub unsafe fn ended(
    context: *mut sys::whisper_context,
    state: *mut sys::whisper_state,
    first_segment: usize,
    timing: Option<&Timing<'_>>,
) -> Ended {
    // SAFETY: the caller's promise.
    unsafe {
        let segments = segments(state);
        let own = segments.get(first_segment..).unwrap_or_default();
        let first_timestamp = sys::whisper_token_beg(context);
        let seek = seek(own, first_timestamp).or_else(|| {
            // Whisper moves on to where the text of the window before ended.
            let before = first_segment
                .checked_sub(1)
                .and_then(|last| segments.get(last));
            before.map(|segment| segment.end)
        });
        let seek = u64::try_from(seek.unwrap_or(0)).unwrap_or(0);
        let end_of_text = sys::whisper_token_eot(context);
        let tokens = own.iter().flat_map(|segment| &segment.tokens);
        let text: Vec<i32> = (tokens.map(|token| token.id))
            .filter(|token| *token < end_of_text)
            .collect();
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

/// A segment as whisper has it, in frames of 10 ms.
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

/// Where the window of these segments began: timestamps count from there, and the segments' times,
/// which whisper made of them, from the beginning of the audio.
fn seek(segments: &[RawSegment], first_timestamp: i32) -> Option<i64> {
    let begins = |token: &sys::whisper_token_data, moment: i64| {
        let is_timestamp = token.id >= first_timestamp;
        is_timestamp
            .then(|| moment - FRAMES_OF_A_TIMESTAMP * i64::from(token.tid - first_timestamp))
    };
    let first = segments.first()?;
    let from_start = first
        .tokens
        .first()
        .and_then(|token| begins(token, first.start));
    let from_end = || {
        first
            .tokens
            .last()
            .and_then(|token| begins(token, first.end))
    };
    from_start.or_else(from_end)
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
    // SAFETY: the caller's promise; the decoder is given as many tokens as there are.
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
        if text.is_empty() || tokens.len() > MOST_TOKENS {
            return None;
        }
        let count = i32::try_from(tokens.len()).ok()?;
        let threads = timing.threads.cast_signed();
        let (failed, attention) = observe::attention(timing.heads, || {
            sys::whisper_decode_with_state(context, state, tokens.as_ptr(), count, 0, threads)
        });
        let seek = usize::try_from(seek / 2).ok()?;
        let frames = timing.audio_frames.saturating_sub(seek);
        let is_whole = failed == 0 && attention.tokens == tokens.len();
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
    fn a_window_began_where_its_timestamps_count_from() {
        let text = 11;
        let both = segment(
            1210,
            1310,
            &[FIRST_TIMESTAMP + 5, text, FIRST_TIMESTAMP + 55],
        );
        assert_eq!(seek(&[both], FIRST_TIMESTAMP), Some(1200));
        let end_only = segment(1234, 1310, &[text, FIRST_TIMESTAMP + 55]);
        assert_eq!(seek(&[end_only], FIRST_TIMESTAMP), Some(1200));
        assert_eq!(seek(&[segment(0, 300, &[text])], FIRST_TIMESTAMP), None);
        assert_eq!(seek(&[], FIRST_TIMESTAMP), None);
    }
}
