//! Word error rate, from the tools.

pub use uttera_stt_tools::probe::word_error_rate::{Score, align, normalise};

/// Whether two transcripts agree but for a few words. The machine's speed decides where the audio is cut,
/// and the cuts decide a few words.
pub fn are_alike(one: &str, other: &str) -> bool {
    Score::of(one, other).rate() < 0.15
}

/// Asserts that two texts differ in few words only.
#[track_caller]
pub fn assert_alike(one: &str, other: &str) {
    assert!(are_alike(one, other), "{one:?}\n{other:?}");
}
