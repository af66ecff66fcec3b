//! What whisper calls back into us: aborting, and noting what it does not tell.
//!
//! The safe setters of the binding are not used: its abort closure is boxed twice and read as
//! garbage. These are plain functions over a struct that outlives the call.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use whisper_rs::FullParams;
use whisper_rs::whisper_rs_sys as sys;

use super::windows::{self, Ended, Front, Timing};
use crate::engine::ggml_hooks::{observe, reuse};

/// Graphs that make up a pass of the encoder: the convolutions, the layers, and the keys and values for
/// the decoder.
pub const GRAPHS_OF_A_PASS: u32 = 3;

/// What a call's first window needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Its pass of the encoder, as whisper does it.
    Encode,
    /// The same, and a look at the first token with so many threads: whisper takes the probability that
    /// nobody speaks from there, but never looks by itself.
    EncodeAndLook(u32),
    /// Nothing: the state has encoded the beginning of this audio already, with this window, and
    /// looked at the first token.
    IsEncoded,
}

/// One of the windows that whisper cut the chunk into.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    /// Whether no window was before it.
    pub is_first: bool,
    /// The first segment that can be of this window.
    pub first_segment: usize,
    /// What its text began with.
    pub front: Front,
    /// Decoding attempts after the first: steps up the temperature ladder.
    pub retries: u32,
    /// Where it begins in the audio, in frames of 10 ms.
    pub seek: u64,
    /// The model's own probability that nobody speaks in it; whisper itself takes it from whatever it
    /// decoded last. `None`: it was not seen.
    pub no_speech: Option<f32>,
}

/// What is watched during the calls for one chunk.
#[derive(Debug)]
pub struct Watch<'a> {
    abort: &'a AtomicBool,
    /// What is to be done in place of the first pass, or with it.
    first: First,
    windows: AtomicU32,
    encoder_passes: AtomicU32,
    /// Windows, with the number of decoding attempts where retries will be.
    attempts: Mutex<Vec<Window>>,
    /// Asked for the times of tokens.
    timing: Option<Timing<'a>>,
    /// Of all tokens of text, in seconds of the audio, one after the other.
    times: Mutex<Vec<Option<Range<f64>>>>,
    /// whisper's own, while the call runs.
    context: AtomicPtr<sys::whisper_context>,
    state: AtomicPtr<sys::whisper_state>,
}

impl<'a> Watch<'a> {
    /// Nothing seen yet; `abort` is set by another thread to end the work. With `timing`, tokens get
    /// their times.
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

    /// Hooks this watch into a call. It must outlive the call.
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

    /// Lets a call prepare everything and stop before its encoder pass.
    pub fn stop_before_encoder(parameters: &mut FullParams<'_, '_>) {
        // SAFETY: the function ignores its arguments.
        unsafe { parameters.set_start_encoder_callback(Some(never_begin)) }
    }

    /// Passes so far.
    pub fn encoder_passes(&self) -> u32 {
        self.encoder_passes.load(Ordering::Relaxed)
    }

    /// Whether the work was told to end. Whisper's own error codes do not say.
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

    /// Notes what the last window has left. The state must be that of the call, and still live.
    pub fn call_ended(&self) {
        // SAFETY: the pointers are those that whisper gave, and the caller still has the state.
        unsafe { self.window_ended() }
    }

    /// The times of all tokens of text, one after the other; `None`: not known.
    pub fn token_times(&self) -> Vec<Option<Range<f64>>> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.clone()
    }

    /// # Safety
    /// The context and the state that were noted are live, or there are none.
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

    /// Notes that a window is about to be encoded; gives what is to be done for it.
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
    // SAFETY: `attach` gave a pointer to a `Watch` that outlives the call; context and state are
    // whisper's own, between two of its steps: the window before is done, and whatever its decoder and
    // its logits hold is made anew for the next one.
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
            // SAFETY: whisper's own context and state, between two of its steps: it has made the
            // spectrogram and set the window, and begins its own pass after this returns. Without a
            // place for them, the languages' probabilities are not given.
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
            // Where it went otherwise, whisper does its pass once more.
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
    // Nothing is sampled yet: a new attempt at the window.
    if n_tokens == 0 {
        // SAFETY: `attach` gave a pointer to a `Watch` that outlives the call; the context is only read.
        let (watch, nobody_speaks) = unsafe {
            let nobody_speaks = sys::whisper_token_nosp(context);
            (&*watch.cast::<Watch<'_>>(), nobody_speaks)
        };
        let logits = observe::logits();
        watch.attempt_begins(logits.and_then(|logits| probability(&logits, nobody_speaks)));
    }
    // Of every candidate, and from threads of its own where there are several.
    if n_tokens == 1 {
        // SAFETY: as above; whisper gives as many tokens as it says.
        let (watch, token) = unsafe { (&*watch.cast::<Watch<'_>>(), (*tokens).id) };
        watch.text_begins(token);
    }
}

/// The probability of one token, by the logits of all.
fn probability(logits: &[f32], token: i32) -> Option<f32> {
    let wanted = logits.get(usize::try_from(token).ok()?)?;
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    Some((wanted - largest).exp() / sum)
}

/// What ggml says when an allocation fails, on a GPU or not; its error codes do not tell.
const SHORT_OF_MEMORY: &[&str] = &["out of memory", "failed to allocate", "insufficient memory"];

/// An allocation has failed in this process.
static MEMORY_WAS_SHORT: AtomicBool = AtomicBool::new(false);

/// What was said before says nothing about what comes now.
pub fn forget_memory() {
    MEMORY_WAS_SHORT.store(false, Ordering::Relaxed);
}

/// Whether whisper said that an allocation failed, since [`forget_memory`].
pub fn memory_was_short() -> bool {
    MEMORY_WAS_SHORT.load(Ordering::Relaxed)
}

/// Lets only whisper's warnings and errors through to standard error, and so into the server's
/// log: it tells a page about every model, and a line about every chunk.
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
        MEMORY_WAS_SHORT.store(true, Ordering::Relaxed);
    }
    // Said every time that a language is detected: that call is meant to stop there.
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
        // What the ladder does afterwards changes nothing about the audio.
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
