//! Callbacks from whisper: they abort its work and record what its results do not contain.
//!
//! The safe setters of the binding are not used, because it boxes the abort closure twice and then reads
//! garbage. These callbacks are plain functions over a struct that outlives the call.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use whisper_rs::FullParams;
use whisper_rs::whisper_rs_sys as sys;

use super::windows::{self, Front};
use crate::engine::memory;

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
}

/// Records the calls for one chunk.
#[derive(Debug)]
pub struct Watch<'a> {
    abort: &'a AtomicBool,
    windows: AtomicU32,
    /// The windows so far; `retries` counts all decoding attempts.
    attempts: Mutex<Vec<Window>>,
    /// Whisper's context and state, while the call runs.
    context: AtomicPtr<sys::whisper_context>,
    state: AtomicPtr<sys::whisper_state>,
}

impl<'a> Watch<'a> {
    /// An empty record. Another thread sets `abort` to end the work.
    pub fn new(abort: &'a AtomicBool) -> Self {
        Self {
            abort,
            windows: AtomicU32::new(0),
            attempts: Mutex::new(Vec::new()),
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
        self.windows.load(Ordering::Relaxed)
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
        window.seek = unsafe { windows::begin_of_last(context, state, window) };
    }

    /// Records that whisper is about to encode a window.
    fn window_begins(&self, first_segment: usize) {
        let is_first = self.windows.fetch_add(1, Ordering::Relaxed) == 0;
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(Window {
            is_first,
            first_segment,
            ..Window::default()
        });
    }

    fn attempt_begins(&self) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = attempts.last_mut() {
            window.retries += 1;
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
    watch.window_begins(usize::try_from(segments).unwrap_or(0));
    !watch.was_aborted()
}

unsafe extern "C" fn never_begin(
    _context: *mut sys::whisper_context,
    _state: *mut sys::whisper_state,
    _user_data: *mut c_void,
) -> bool {
    false
}

unsafe extern "C" fn logits_come(
    _context: *mut sys::whisper_context,
    _state: *mut sys::whisper_state,
    tokens: *const sys::whisper_token_data,
    n_tokens: c_int,
    _logits: *mut f32,
    watch: *mut c_void,
) {
    // SAFETY: `attach` gave a pointer to a `Watch` that outlives the call.
    let watch = unsafe { &*watch.cast::<Watch<'_>>() };
    // Nothing is sampled yet: this is a new attempt at the window.
    if n_tokens == 0 {
        watch.attempt_begins();
    }
    // Called for every candidate, from several threads if there are several candidates.
    if n_tokens == 1 {
        // SAFETY: whisper gives as many tokens as it says.
        watch.text_begins(unsafe { (*tokens).id });
    }
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
        let watch = Watch::new(&abort);
        watch.window_begins(0);
        watch.attempt_begins();
        watch.window_begins(2);
        watch.text_begins(7);
        for _ in 0..3 {
            watch.attempt_begins();
        }
        assert_eq!(watch.window_of(1).retries, 0);
        assert_eq!(watch.window_of(2).retries, 2);
        let second = watch.window_of(7);
        assert_eq!((second.first_segment, second.is_first), (2, false));
        assert_eq!(second.front, Front::Token(7));
        assert!(watch.window_of(1).is_first);
        assert_eq!(watch.encoder_passes(), 2);
    }
}
