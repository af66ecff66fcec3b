//! Looking into ggml's graphs while they are computed, for what whisper knows and does not tell: which
//! moments of the audio a token attends to, and what the model makes of the first token of a prompt.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use whisper_rs_sys as ggml;

/// Whether graphs can be looked into in this build.
pub const AVAILABLE: bool = true;

/// whisper's name for the tokens that go into its decoder; other graphs have none.
const TOKENS: &CStr = c"embd";

/// A head of the decoder's attention to the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Layer of the decoder.
    pub layer: usize,
    /// Head in it.
    pub head: usize,
}

/// What some heads attended to: for every token that went in, weights over the encoder's frames.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attention {
    /// Tokens that went in.
    pub tokens: usize,
    /// Frames of 20 ms.
    pub frames: usize,
    /// A matrix for each head that was there: row by row, one row for each token.
    pub heads: Vec<Vec<f32>>,
}

/// Attention that is being looked at.
struct Capture<'a> {
    heads: &'a [Head],
    abort: &'a AtomicBool,
    /// Layers that have come by.
    layers: usize,
    attention: Attention,
}

thread_local! {
    /// The token whose logits are wanted from the next graph of a decoder.
    static WANTED: Cell<Option<i32>> = const { Cell::new(None) };
    /// They.
    static LOGITS: RefCell<Option<Vec<f32>>> = const { RefCell::new(None) };
    /// Where attention goes; null: nobody looks. It lives while the call does that set it.
    static CAPTURE: Cell<*mut Capture<'static>> = const { Cell::new(std::ptr::null_mut()) };
}

unsafe extern "C" {
    /// ggml's own.
    fn __real_ggml_backend_sched_graph_compute(
        scheduler: ggml::ggml_backend_sched_t,
        graph: *mut ggml::ggml_cgraph,
    ) -> ggml::ggml_status;
}

/// Has the logits kept that the next graph of a decoder gives after this token.
pub fn want_logits(token: i32) {
    WANTED.set(Some(token));
    LOGITS.take();
}

/// What [`want_logits`] asked for, once it is there.
pub fn logits() -> Option<Vec<f32>> {
    LOGITS.take()
}

/// What the heads attend to in the decoder graph that `work` computes on this thread. The graph is left
/// unfinished after the last of them, and after the next layer once `abort` is set.
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

/// Computes a graph, as ggml's own function does, and looks into it if that is wanted.
///
/// # Safety
/// As ggml calls it: the pointers are those of a live scheduler and a graph that it has allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_ggml_backend_sched_graph_compute(
    scheduler: ggml::ggml_backend_sched_t,
    graph: *mut ggml::ggml_cgraph,
) -> ggml::ggml_status {
    let capture = CAPTURE.get();
    // SAFETY: the caller's promise. The callback gets the capture only during the computation, which
    // it outlives, and the scheduler forgets both before this returns.
    unsafe {
        // Its memory may be used for something else in the course of the computation.
        let place = WANTED.get().and_then(|token| place_of(graph, token));
        if !capture.is_null() {
            let see: ggml::ggml_backend_sched_eval_callback = Some(see);
            ggml::ggml_backend_sched_set_eval_callback(scheduler, see, capture.cast());
        }
        let status = __real_ggml_backend_sched_graph_compute(scheduler, graph);
        if !capture.is_null() {
            ggml::ggml_backend_sched_set_eval_callback(scheduler, None, std::ptr::null_mut());
        }
        if let Some(place) = place {
            WANTED.set(None);
            LOGITS.set(row(ggml::ggml_graph_node(graph, -1), place));
        }
        status
    }
}

/// Where a token is among those that go into a decoder's graph.
///
/// # Safety
/// The graph is live, and its inputs are set.
unsafe fn place_of(graph: *mut ggml::ggml_cgraph, token: i32) -> Option<usize> {
    // SAFETY: the tensor is one of the graph's; as many tokens are read as it has.
    unsafe {
        let tokens = ggml::ggml_graph_get_tensor(graph, TOKENS.as_ptr()).as_ref()?;
        let mut ids = vec![0_i32; usize::try_from(tokens.ne[0]).ok()?];
        let bytes = std::mem::size_of_val(ids.as_slice());
        ggml::ggml_backend_tensor_get(tokens, ids.as_mut_ptr().cast(), 0, bytes);
        ids.iter().rposition(|id| *id == token)
    }
}

/// A row of a matrix of floats.
///
/// # Safety
/// The tensor is live and computed.
unsafe fn row(matrix: *mut ggml::ggml_tensor, place: usize) -> Option<Vec<f32>> {
    // SAFETY: the row is inside the matrix, which is checked, and its type is that of what it is read
    // into.
    unsafe {
        let matrix = matrix.as_ref()?;
        let [columns, rows, ..] = matrix.ne.map(|n| usize::try_from(n).unwrap_or(0));
        if matrix.type_ != ggml::ggml_type_GGML_TYPE_F32 || place >= rows {
            return None;
        }
        let mut values = vec![0.0_f32; columns];
        let bytes = std::mem::size_of_val(values.as_slice());
        ggml::ggml_backend_tensor_get(
            matrix,
            values.as_mut_ptr().cast(),
            place * matrix.nb[1],
            bytes,
        );
        Some(values)
    }
}

/// ggml asks for every operation whether its result is wanted, and shows those that are.
unsafe extern "C" fn see(tensor: *mut ggml::ggml_tensor, asks: bool, capture: *mut c_void) -> bool {
    // SAFETY: ggml gives a live tensor, and the capture that was set with this callback; nobody else
    // uses it meanwhile.
    unsafe {
        let (tensor, capture) = (&*tensor, &mut *capture.cast::<Capture<'_>>());
        let is_attention = looks_at_the_audio(tensor);
        if asks {
            return is_attention;
        }
        keep(tensor, capture);
        // What comes after the last layer that is wanted would be for nothing.
        let mut wanted = capture.heads.iter();
        wanted.any(|head| head.layer >= capture.layers) && !capture.abort.load(Ordering::Acquire)
    }
}

/// Attention to other tokens has a mask: nobody sees what comes later. That to the audio has none.
fn looks_at_the_audio(tensor: &ggml::ggml_tensor) -> bool {
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
