//! Skips graphs whose results the state already holds.
//!
//! To detect a language, whisper encodes the audio and decodes the first token; to transcribe, it encodes the
//! same audio again. If the window is the same, the state still holds the encoder's results (the keys and
//! values for the decoder), and the graphs that would compute them again are skipped.

use std::cell::Cell;

use whisper_rs_sys as ggml;

/// Whether this build can skip graphs.
pub const AVAILABLE: bool = true;

thread_local! {
    /// Number of graphs that this thread has computed on the CPU.
    static COMPUTED: Cell<u32> = const { Cell::new(0) };
    /// Number of graphs to skip from now on.
    static TO_SKIP: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" {
    /// The original function of ggml.
    fn __real_ggml_graph_compute(
        graph: *mut ggml::ggml_cgraph,
        plan: *mut ggml::ggml_cplan,
    ) -> ggml::ggml_status;
}

/// Computes a graph as the original does, or skips it.
///
/// # Safety
/// The pointers are those of a live graph and its plan.
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
    // SAFETY: the arguments are passed on unchanged.
    unsafe { __real_ggml_graph_compute(graph, plan) }
}

/// Runs `work` and counts the graphs that it computes on this thread on the CPU.
pub fn counted<R>(work: impl FnOnce() -> R) -> (R, u32) {
    let before = COMPUTED.get();
    let result = work();
    (result, COMPUTED.get().wrapping_sub(before))
}

/// Skips this many of the next graphs; 0: none.
pub fn skip(graphs: u32) {
    TO_SKIP.set(graphs);
}
