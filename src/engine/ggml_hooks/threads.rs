//! Chooses how many threads compute a graph.
//!
//! ggml's threads synchronise after each of the hundreds of operations of a decoder step. Threads that sleep
//! while they wait wake late: a step of a small model takes three times as long as with one thread. Threads
//! that spin instead slow down every other program. So graphs with short operations get one thread, and only
//! the others get all.

use std::ffi::c_int;

use whisper_rs_sys as ggml;

/// Mean number of multiplications per operation below which one thread takes about as long as waking another
/// one.
///
/// Measured on two cores, a decoder step with sleeping threads: base (170 thousand) 3.5 ms with one
/// thread and 8.4 ms with two, small (260 thousand) 10 and 20 ms, medium (415 thousand) 36 and 36 ms.
const WORTH_WAKING: u64 = 300_000;

unsafe extern "C" {
    /// The original function of ggml.
    fn __real_ggml_graph_plan(
        graph: *const ggml::ggml_cgraph,
        threads: c_int,
        pool: *mut ggml::ggml_threadpool,
    ) -> ggml::ggml_cplan;
}

/// Plans the computation of a graph as the original does, with one thread if that is faster.
///
/// # Safety
/// `graph` is a live graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_ggml_graph_plan(
    graph: *const ggml::ggml_cgraph,
    threads: c_int,
    pool: *mut ggml::ggml_threadpool,
) -> ggml::ggml_cplan {
    // SAFETY: the caller's promise; the arguments are passed on unchanged.
    unsafe {
        let threads = if threads > 1 && !is_worth_waking(graph.cast_mut()) {
            1
        } else {
            threads
        };
        __real_ggml_graph_plan(graph, threads, pool)
    }
}

/// Plans the computation of a graph with exactly this many threads.
///
/// # Safety
/// `graph` is a live graph.
#[cfg(fast_products)]
pub unsafe fn plan(graph: *const ggml::ggml_cgraph, threads: c_int) -> ggml::ggml_cplan {
    // SAFETY: the caller's promise; without a pool of threads, ggml makes its own.
    unsafe { __real_ggml_graph_plan(graph, threads, std::ptr::null_mut()) }
}

/// # Safety
/// `graph` is a live graph; it is only read.
unsafe fn is_worth_waking(graph: *mut ggml::ggml_cgraph) -> bool {
    // SAFETY: a graph has as many live nodes as it says, and a product two live factors.
    unsafe {
        let nodes = ggml::ggml_graph_n_nodes(graph);
        let multiplications = (0..nodes).map(|place| {
            let node = &*ggml::ggml_graph_node(graph, place);
            if node.op != ggml::ggml_op_GGML_OP_MUL_MAT {
                return 0;
            }
            let depth = (*node.src[0]).ne[0] as u64;
            node.ne.iter().map(|n| *n as u64).product::<u64>() * depth
        });
        multiplications.sum::<u64>() >= WORTH_WAKING * u64::from(nodes.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether several threads are worth it for a product of this shape.
    fn is_worth_it(rows: i64, columns: i64, depth: i64) -> bool {
        let parameters = ggml::ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: the tensors live as long as their context, which is freed at the end; nothing is
        // computed, so they need no data.
        unsafe {
            let context = ggml::ggml_init(parameters);
            let kind = ggml::ggml_type_GGML_TYPE_F32;
            let a = ggml::ggml_new_tensor_2d(context, kind, depth, rows);
            let b = ggml::ggml_new_tensor_2d(context, kind, depth, columns);
            let product = ggml::ggml_mul_mat(context, a, b);
            let sum = ggml::ggml_gelu(context, product);
            let graph = ggml::ggml_new_graph(context);
            ggml::ggml_build_forward_expand(graph, sum);
            let worth = is_worth_waking(graph);
            ggml::ggml_free(context);
            worth
        }
    }

    #[test]
    fn an_encoder_gets_all_threads_and_a_token_of_a_small_model_one() {
        assert!(is_worth_it(512, 512, 512));
        assert!(!is_worth_it(512, 1, 512));
        // A large model's token.
        assert!(is_worth_it(1280, 1, 1280));
    }
}
