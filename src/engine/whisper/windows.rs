//! Where each window of a chunk began, which whisper does not report.

use whisper_rs::whisper_rs_sys as sys;

use super::callbacks::Window;

/// Step of a timestamp, in whisper's frames of 10 ms.
const FRAMES_OF_A_TIMESTAMP: i64 = 2;
/// The end of a window whose text has no timestamp, in frames of 10 ms.
const FRAMES_OF_A_WINDOW: i64 = 3000;

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

/// Where the last window began, in frames of 10 ms. If that is not certain, where its text begins, at most a second
/// later.
///
/// # Safety
/// Context and state are live, belong together, and are between two windows or after the last.
pub unsafe fn begin_of_last(
    context: *mut sys::whisper_context,
    state: *mut sys::whisper_state,
    window: &Window,
) -> u64 {
    if window.is_first {
        return 0;
    }
    // SAFETY: the caller's promise.
    let (segments, first_timestamp) = unsafe { (segments(state), sys::whisper_token_beg(context)) };
    let own = segments.get(window.first_segment..).unwrap_or_default();
    let rough = || own.first().map_or(0, |segment| segment.start);
    let begin = seek(own, first_timestamp, window.front).unwrap_or_else(rough);
    u64::try_from(begin).unwrap_or(0)
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
