//! Reads values from ggml's graphs during computation that whisper does not expose: the attention of tokens
//! to the audio, and the logits of the first token of a prompt.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use whisper_rs_sys as ggml;

/// Whether this build can observe graphs.
pub const AVAILABLE: bool = true;

/// Whisper's name for the input tokens of its decoder; other graphs have no tensor of this name.
const TOKENS: &CStr = c"embd";

/// A head of the decoder's attention to the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Layer of the decoder.
    pub layer: usize,
    /// Head in it.
    pub head: usize,
}

/// Attention weights of some heads: for every input token, weights over the encoder's frames.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Number of input tokens.
    pub tokens: usize,
    /// Number of frames of 20 ms.
    pub frames: usize,
    /// A matrix per head that exists: row-major, one row per token.
    pub heads: Vec<Vec<f32>>,
}

/// A recording of attention in progress.
struct Capture<'a> {
    heads: &'a [Head],
    abort: &'a AtomicBool,
    /// Layers computed so far.
    layers: usize,
    attention: Attention,
}

thread_local! {
    /// The token whose logits the next decoder graph shall keep.
    static WANTED: Cell<Option<i32>> = const { Cell::new(None) };
    /// The logits kept.
    static LOGITS: RefCell<Option<Vec<f32>>> = const { RefCell::new(None) };
    /// The recording; null: none. It is live during the call that set it.
    static CAPTURE: Cell<*mut Capture<'static>> = const { Cell::new(std::ptr::null_mut()) };
}

unsafe extern "C" {
    /// The original function of ggml.
    fn __real_ggml_backend_sched_graph_compute(
        scheduler: ggml::ggml_backend_sched_t,
        graph: *mut ggml::ggml_cgraph,
    ) -> ggml::ggml_status;
}

/// Makes the next decoder graph keep its logits for this token.
pub fn want_logits(token: i32) {
    WANTED.set(Some(token));
    LOGITS.take();
}

/// The logits that [`want_logits`] requested, once computed.
pub fn logits() -> Option<Vec<f32>> {
    LOGITS.take()
}

/// Records the attention of these heads in the decoder graph that `work` computes on this thread. The
/// computation stops after the last of them, or after the next layer once `abort` is set.
pub fn attention<R>(
    heads: &[Head],
    abort: &AtomicBool,
    work: impl FnOnce() -> R,
) -> (R, Attention) {
    let mut capture = Capture {
        heads,
        abort,
        layers: 0,
        attention: Attention::default(),
    };
    CAPTURE.set(std::ptr::from_mut(&mut capture).cast());
    let result = work();
    CAPTURE.set(std::ptr::null_mut());
    (result, capture.attention)
}

/// Computes a graph as the original does, and records what was requested.
///
/// # Safety
/// The pointers are those of a live scheduler and a graph that it has allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_ggml_backend_sched_graph_compute(
    scheduler: ggml::ggml_backend_sched_t,
    graph: *mut ggml::ggml_cgraph,
) -> ggml::ggml_status {
    let capture = CAPTURE.get();
    // SAFETY: the caller's promise. The callback gets the capture only during the computation, which
    // it outlives, and the scheduler forgets both before this returns.
    unsafe {
        // The computation may reuse the memory of the tokens.
        let position = WANTED.get().and_then(|token| position_of(graph, token));
        if !capture.is_null() {
            let on_operation: ggml::ggml_backend_sched_eval_callback = Some(on_operation);
            ggml::ggml_backend_sched_set_eval_callback(scheduler, on_operation, capture.cast());
        }
        let status = __real_ggml_backend_sched_graph_compute(scheduler, graph);
        if !capture.is_null() {
            ggml::ggml_backend_sched_set_eval_callback(scheduler, None, std::ptr::null_mut());
        }
        if let Some(position) = position {
            WANTED.set(None);
            LOGITS.set(row(ggml::ggml_graph_node(graph, -1), position));
        }
        status
    }
}

/// Position of a token among the inputs of a decoder graph.
///
/// # Safety
/// The graph is live, and its inputs are set.
unsafe fn position_of(graph: *mut ggml::ggml_cgraph, token: i32) -> Option<usize> {
    // SAFETY: the tensor is one of the graph's; as many tokens are read as it has.
    unsafe {
        let tokens = ggml::ggml_graph_get_tensor(graph, TOKENS.as_ptr()).as_ref()?;
        let mut ids = vec![0_i32; usize::try_from(tokens.ne[0]).ok()?];
        let bytes = std::mem::size_of_val(ids.as_slice());
        ggml::ggml_backend_tensor_get(tokens, ids.as_mut_ptr().cast(), 0, bytes);
        ids.iter().rposition(|id| *id == token)
    }
}

/// Reads a row of a matrix of floats.
///
/// # Safety
/// The tensor is live and computed.
unsafe fn row(matrix: *mut ggml::ggml_tensor, position: usize) -> Option<Vec<f32>> {
    // SAFETY: the row is inside the matrix and has the type of the buffer; both are checked.
    unsafe {
        let matrix = matrix.as_ref()?;
        let [columns, rows, ..] = matrix.ne.map(|n| usize::try_from(n).unwrap_or(0));
        if matrix.type_ != ggml::ggml_type_GGML_TYPE_F32 || position >= rows {
            return None;
        }
        let mut values = vec![0.0_f32; columns];
        let bytes = std::mem::size_of_val(values.as_slice());
        ggml::ggml_backend_tensor_get(
            matrix,
            values.as_mut_ptr().cast(),
            position * matrix.nb[1],
            bytes,
        );
        Some(values)
    }
}

/// ggml calls this before every operation, to ask whether its result is wanted, and again after those that
/// are.
unsafe extern "C" fn on_operation(
    tensor: *mut ggml::ggml_tensor,
    asks: bool,
    capture: *mut c_void,
) -> bool {
    // SAFETY: ggml passes a live tensor and the capture that was set with this callback, which has no other
    // user meanwhile.
    unsafe {
        let (tensor, capture) = (&*tensor, &mut *capture.cast::<Capture<'_>>());
        let is_attention = is_attention_to_audio(tensor);
        if asks {
            return is_attention;
        }
        keep(tensor, capture);
        // Layers after the last requested one are not needed.
        let mut wanted = capture.heads.iter();
        wanted.any(|head| head.layer >= capture.layers) && !capture.abort.load(Ordering::Acquire)
    }
}

/// Attention to other tokens has a mask that hides later tokens. Attention to the audio has none.
fn is_attention_to_audio(tensor: &ggml::ggml_tensor) -> bool {
    tensor.op == ggml::ggml_op_GGML_OP_SOFT_MAX && tensor.src[1].is_null()
}

/// # Safety
/// The tensor is live and computed.
unsafe fn keep(tensor: &ggml::ggml_tensor, capture: &mut Capture<'_>) {
    let layer = capture.layers;
    capture.layers += 1;
    let [frames, tokens, heads, _] = tensor.ne.map(|n| usize::try_from(n).unwrap_or(0));
    if tensor.type_ != ggml::ggml_type_GGML_TYPE_F32 {
        return;
    }
    (capture.attention.frames, capture.attention.tokens) = (frames, tokens);
    let wanted = capture.heads.iter().filter(|head| head.layer == layer);
    for head in wanted.filter(|head| head.head < heads) {
        let mut weights = vec![0.0_f32; frames * tokens];
        let bytes = std::mem::size_of_val(weights.as_slice());
        // SAFETY: a head's matrix is contiguous, as results are, and inside the tensor.
        unsafe {
            let into = weights.as_mut_ptr().cast();
            ggml::ggml_backend_tensor_get(tensor, into, head.head * tensor.nb[2], bytes);
        }
        capture.attention.heads.push(weights);
    }
}
