//! Not computing twice what is there already.
//!
//! To detect a language, whisper encodes the audio and looks at the first token; to transcribe, it
//! encodes the same audio again. Where the window is the same, all that the encoder leaves behind (the
//! keys and values that the decoder looks at) is still in the state, and the graphs that would make it
//! again are passed over.

use std::cell::Cell;

use whisper_rs_sys as ggml;

/// Whether graphs can be passed over in this build.
pub const AVAILABLE: bool = true;

thread_local! {
    /// Graphs that this thread has had computed on the CPU.
    static COMPUTED: Cell<u32> = const { Cell::new(0) };
    /// Graphs that are to be passed over from now on.
    static TO_SKIP: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" {
    /// ggml's own.
    fn __real_ggml_graph_compute(
        graph: *mut ggml::ggml_cgraph,
        plan: *mut ggml::ggml_cplan,
    ) -> ggml::ggml_status;
}

/// Computes a graph, as ggml's own function does, unless it is to be passed over.
///
/// # Safety
/// As ggml calls it: the pointers are those of a live graph and its plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_ggml_graph_compute(
    graph: *mut ggml::ggml_cgraph,
    plan: *mut ggml::ggml_cplan,
) -> ggml::ggml_status {
    let to_skip = TO_SKIP.get();
    if to_skip > 0 {
        TO_SKIP.set(to_skip - 1);
        return ggml::ggml_status_GGML_STATUS_SUCCESS;
    }
    COMPUTED.set(COMPUTED.get().wrapping_add(1));
    // SAFETY: the arguments are handed on as they came.
    unsafe { __real_ggml_graph_compute(graph, plan) }
}

/// Graphs that `work` has computed on this thread and on the CPU.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, u32) {
    let before = COMPUTED.get();
    let result = work();
    (result, COMPUTED.get().wrapping_sub(before))
}

/// Has the next graphs passed over, or none any more.
pub fn skip(graphs: u32) {
    TO_SKIP.set(graphs);
}
