//! Callbacks from whisper: they abort its work and record what its results do not contain.
//!
//! The safe setters of the binding are not used, because it boxes the abort closure twice and then reads
//! garbage. These callbacks are plain functions over a struct that outlives the call.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use whisper_rs::FullParams;
use whisper_rs::whisper_rs_sys as sys;

use super::windows::{self, Ended, Front, Timing};
use crate::engine::ggml_hooks::{observe, reuse};
use crate::engine::memory;

/// Number of graphs of an encoder pass: the convolutions, the layers, and the keys and values for the
/// decoder.
pub const GRAPHS_OF_A_PASS: u32 = 3;

/// What the first window of a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// An encoder pass.
    Encode,
    /// An encoder pass, and the logits of the first token, computed with this many threads. They contain the
    /// no-speech probability, which whisper takes from there without computing it.
    EncodeAndLook(u32),
    /// Nothing: the state has already encoded the beginning of this audio with this window and computed the
    /// first token.
    IsEncoded,
}

/// One of the windows of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Whether it is the first window.
    pub is_first: bool,
    /// Index of the first segment that can belong to this window.
    pub first_segment: usize,
    /// The first token of its text.
    pub front: Front,
    /// Decoding attempts after the first: steps up the temperature ladder.
    pub retries: u32,
    /// Where it begins in the audio, in frames of 10 ms.
    pub seek: u64,
    /// The model's no-speech probability; whisper reports one from whatever it decoded last. `None`: not
    /// recorded.
    pub no_speech: Option<f32>,
}

/// Records the calls for one chunk.
#[derive(Debug)]
pub struct Watch<'a> {
    abort: &'a AtomicBool,
    /// What the first window needs.
    first: First,
    windows: AtomicU32,
    encoder_passes: AtomicU32,
    /// The windows so far; `retries` counts all decoding attempts.
    attempts: Mutex<Vec<Window>>,
    /// How tokens get their times.
    timing: Option<Timing<'a>>,
    /// Times of all tokens of text in order, in seconds of the audio.
    times: Mutex<Vec<Option<Range<f64>>>>,
    /// Whisper's context and state, while the call runs.
    context: AtomicPtr<sys::whisper_context>,
    state: AtomicPtr<sys::whisper_state>,
}

impl<'a> Watch<'a> {
    /// An empty record. Another thread sets `abort` to end the work. With `timing`, tokens get exact times.
    pub fn new(abort: &'a AtomicBool, first: First, timing: Option<Timing<'a>>) -> Self {
        Self {
            abort,
            first,
            windows: AtomicU32::new(0),
            encoder_passes: AtomicU32::new(0),
            attempts: Mutex::new(Vec::new()),
            timing,
            times: Mutex::new(Vec::new()),
            context: AtomicPtr::default(),
            state: AtomicPtr::default(),
        }
    }

    /// Attaches the callbacks to a call. The record must outlive the call.
    pub fn attach(&self, parameters: &mut FullParams<'_, '_>) {
        let this = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        let abort = std::ptr::from_ref(self.abort).cast_mut().cast::<c_void>();
        // SAFETY: the functions read their user data as what is given here, through shared
        // references only, and both values outlive the call: the caller borrows them around it.
        unsafe {
            parameters.set_abort_callback(Some(should_abort));
            parameters.set_abort_callback_user_data(abort);
            parameters.set_start_encoder_callback(Some(encoder_begins));
            parameters.set_start_encoder_callback_user_data(this);
            parameters.set_filter_logits_callback(Some(logits_come));
            parameters.set_filter_logits_callback_user_data(this);
        }
    }

    /// Makes a call stop after its preparations, before the encoder pass.
    pub fn stop_before_encoder(parameters: &mut FullParams<'_, '_>) {
        // SAFETY: the function ignores its arguments.
        unsafe { parameters.set_start_encoder_callback(Some(never_begin)) }
    }

    /// Encoder passes so far.
    pub fn encoder_passes(&self) -> u32 {
        self.encoder_passes.load(Ordering::Relaxed)
    }

    /// Whether the work was aborted. Whisper's error codes do not tell.
    pub fn was_aborted(&self) -> bool {
        self.abort.load(Ordering::Acquire)
    }

    /// The window that a segment came from.
    pub fn window_of(&self, segment: usize) -> Window {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let window = attempts.iter().rev().find(|w| w.first_segment <= segment);
        window.map_or_else(Window::default, |window| Window {
            retries: window.retries.saturating_sub(1),
            ..*window
        })
    }

    /// Records the results of the last window. The state of the call must still be live.
    pub fn call_ended(&self) {
        // SAFETY: the pointers are those that whisper gave, and the caller still has the state.
        unsafe { self.window_ended() }
    }

    /// The times of all tokens of text, in order; `None`: unknown.
    pub fn token_times(&self) -> Vec<Option<Range<f64>>> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.clone()
    }

    /// # Safety
    /// The recorded context and state are live, or null.
    unsafe fn window_ended(&self) {
        let (context, state) = (
            self.context.load(Ordering::Acquire),
            self.state.load(Ordering::Acquire),
        );
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = attempts.last_mut() else {
            return;
        };
        // SAFETY: there was a window, so whisper gave both; they are live by the caller's promise.
        let ended = unsafe {
            let timing = self.timing.as_ref().filter(|_| !self.was_aborted());
            windows::ended(context, state, window, timing)
        };
        let Ended { seek, times } = ended;
        window.seek = seek;
        let mut all = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(times);
    }

    /// Records that whisper is about to encode a window; returns what to do for it.
    fn window_begins(&self, first_segment: usize) -> First {
        let is_first = self.windows.fetch_add(1, Ordering::Relaxed) == 0;
        let first = if is_first { self.first } else { First::Encode };
        if first != First::IsEncoded {
            self.encoder_passes.fetch_add(1, Ordering::Relaxed);
        }
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(Window {
            is_first,
            first_segment,
            ..Window::default()
        });
        first
    }

    fn attempt_begins(&self, no_speech: Option<f32>) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = attempts.last_mut() {
            window.retries += 1;
            window.no_speech = window.no_speech.or(no_speech);
        }
    }

    fn text_begins(&self, token: i32) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = attempts.last_mut() {
            window.front = window.front.or(token);
        }
    }
}

unsafe extern "C" fn should_abort(flag: *mut c_void) -> bool {
    // SAFETY: `attach` gave a pointer to an `AtomicBool` that outlives the call.
    let flag = unsafe { &*flag.cast::<AtomicBool>() };
    flag.load(Ordering::Acquire)
}

unsafe extern "C" fn encoder_begins(
    context: *mut sys::whisper_context,
    state: *mut sys::whisper_state,
    watch: *mut c_void,
) -> bool {
    // SAFETY: `attach` gave a pointer to a `Watch` that outlives the call; context and state are whisper's
    // own, between two of its steps: the previous window is done, and its decoder and logits are computed
    // again for the next one.
    let (watch, segments) = unsafe {
        let watch = &*watch.cast::<Watch<'_>>();
        watch.context.store(context, Ordering::Release);
        watch.state.store(state, Ordering::Release);
        watch.window_ended();
        let segments = sys::whisper_full_n_segments_from_state(state);
        (watch, segments)
    };
    let first = watch.window_begins(usize::try_from(segments).unwrap_or(0));
    if watch.was_aborted() {
        return false;
    }
    match first {
        First::Encode => {}
        First::IsEncoded => reuse::skip(GRAPHS_OF_A_PASS),
        First::EncodeAndLook(threads) => {
            // SAFETY: whisper's own context and state, between two of its steps: it has computed the
            // spectrogram and set the window, and begins its own pass after this returns. The null pointer
            // means that the languages' probabilities are not wanted.
            let (result, graphs) = reuse::counted(|| unsafe {
                let threads = threads.cast_signed();
                sys::whisper_lang_auto_detect_with_state(
                    context,
                    state,
                    0,
                    threads,
                    std::ptr::null_mut(),
                )
            });
            // Otherwise whisper does its own pass.
            if result >= 0 && graphs == GRAPHS_OF_A_PASS + 1 {
                reuse::skip(GRAPHS_OF_A_PASS);
            }
        }
    }
    // SAFETY: the context is only read.
    observe::want_logits(unsafe { sys::whisper_token_sot(context) });
    true
}

unsafe extern "C" fn never_begin(
    _context: *mut sys::whisper_context,
    _state: *mut sys::whisper_state,
    _user_data: *mut c_void,
) -> bool {
    false
}

unsafe extern "C" fn logits_come(
    context: *mut sys::whisper_context,
    _state: *mut sys::whisper_state,
    tokens: *const sys::whisper_token_data,
    n_tokens: c_int,
    _logits: *mut f32,
    watch: *mut c_void,
) {
    // Nothing is sampled yet: this is a new attempt at the window.
    if n_tokens == 0 {
        // SAFETY: `attach` gave a pointer to a `Watch` that outlives the call; the context is only read.
        let (watch, no_speech_token) = unsafe {
            let no_speech_token = sys::whisper_token_nosp(context);
            (&*watch.cast::<Watch<'_>>(), no_speech_token)
        };
        let logits = observe::logits();
        watch.attempt_begins(logits.and_then(|logits| probability(&logits, no_speech_token)));
    }
    // Called for every candidate, from several threads if there are several candidates.
    if n_tokens == 1 {
        // SAFETY: as above; whisper gives as many tokens as it says.
        let (watch, token) = unsafe { (&*watch.cast::<Watch<'_>>(), (*tokens).id) };
        watch.text_begins(token);
    }
}

/// The probability of one token, from the logits of all.
fn probability(logits: &[f32], token: i32) -> Option<f32> {
    let wanted = logits.get(usize::try_from(token).ok()?)?;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    Some((wanted - largest).exp() / sum)
}

/// Parts of ggml's messages about failed allocations, on CPU and GPU; its error codes do not tell.
const SHORT_OF_MEMORY: &[&str] = &["out of memory", "failed to allocate", "insufficient memory"];

/// Passes only whisper's warnings and errors to standard error, and so to the server's log. Its other
/// messages are a page per model and a line per chunk.
pub fn quieten_log() {
    // SAFETY: the function below is valid for the life of the process and uses no user data.
    unsafe {
        whisper_rs::set_log_callback(Some(warnings_only), std::ptr::null_mut());
    }
}

unsafe extern "C" fn warnings_only(
    level: sys::ggml_log_level,
    text: *const c_char,
    _user_data: *mut c_void,
) {
    let serious = matches!(
        level,
        sys::ggml_log_level_GGML_LOG_LEVEL_WARN | sys::ggml_log_level_GGML_LOG_LEVEL_ERROR
    );
    if !serious || text.is_null() {
        return;
    }
    // SAFETY: whisper passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if SHORT_OF_MEMORY.iter().any(|sign| text.contains(sign)) {
        memory::note_shortage();
    }
    // Expected with every language detection, whose call stops there on purpose.
    if !text.contains("encoder_begin_callback returned false") {
        eprint!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_belong_to_the_window_that_a_segment_came_from() {
        let abort = AtomicBool::new(false);
        let watch = Watch::new(&abort, First::Encode, None);
        watch.window_begins(0);
        watch.attempt_begins(Some(0.1));
        watch.window_begins(2);
        watch.text_begins(7);
        for no_speech in [Some(0.2), None, Some(0.9)] {
            watch.attempt_begins(no_speech);
        }
        assert_eq!(watch.window_of(1).retries, 0);
        assert_eq!(watch.window_of(2).retries, 2);
        // Further steps of the ladder do not change the probability.
        assert_eq!(watch.window_of(2).no_speech, Some(0.2));
        let second = watch.window_of(7);
        assert_eq!((second.first_segment, second.is_first), (2, false));
        assert_eq!(second.front, Front::Token(7));
        assert!(watch.window_of(1).is_first);
        assert_eq!(watch.encoder_passes(), 2);
        let encoded = Watch::new(&abort, First::IsEncoded, None);
        assert_eq!(encoded.window_begins(0), First::IsEncoded);
        assert_eq!(encoded.window_begins(1), First::Encode);
        assert_eq!(encoded.encoder_passes(), 1);
    }
}
