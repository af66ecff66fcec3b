//! Verifies the layout of the private ggml struct that [`matrix_product`](super::matrix_product) reads.
//!
//! ggml passes `struct ggml_compute_params` to every thread that works on a product. The struct is not part
//! of ggml's public interface, so [`check`] compares: it computes a small graph with a user-defined
//! operation, to which ggml passes the thread's index and the number of threads publicly, and with a product,
//! for which both are read from the struct. Until a check has shown that they agree, ggml computes all
//! products itself.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use whisper_rs_sys as ggml;

use super::threads::plan;

/// The beginning of ggml's `struct ggml_compute_params` (`ggml-cpu-impl.h`).
#[repr(C)]
struct ComputeParams {
    thread: c_int,
    threads: c_int,
}

/// A thread's index, and the number of threads.
type Share = (c_int, c_int);

/// Reads a [`Share`] from the struct.
type Reader = unsafe fn(*const c_void) -> Share;

/// Threads of the check's graph. OpenMP may start fewer.
const THREADS: c_int = 2;
/// Rows and columns of the matrices in the check.
const SIZE: i64 = 32;

/// Set once a check has succeeded.
static VERIFIED: AtomicBool = AtomicBool::new(false);
/// One check at a time.
static CHECKING: Mutex<()> = Mutex::new(());
/// The product that the check computes.
static PROBE: Mutex<Option<Probe>> = Mutex::new(None);

/// A product whose threads are recorded.
struct Probe {
    /// Address of its result.
    result: usize,
    read: Reader,
    seen: BTreeSet<Share>,
}

/// Reads the share of the thread that is working on a product.
///
/// # Safety
/// `params` points to ggml's struct, and [`is_verified`] has returned true.
pub unsafe fn share(params: *const c_void) -> (usize, usize) {
    // SAFETY: the caller's promise.
    let (thread, threads) = unsafe { mirrored(params) };
    (thread as usize, threads as usize)
}

unsafe fn mirrored(params: *const c_void) -> Share {
    // SAFETY: ggml's struct is larger than what is read of it.
    let params = unsafe { &*params.cast::<ComputeParams>() };
    (params.thread, params.threads)
}

/// Whether a check has verified the layout.
pub fn is_verified() -> bool {
    VERIFIED.load(Ordering::Acquire)
}

/// Records the share of a thread that is working on the check's product.
///
/// # Safety
/// `params` points to ggml's struct.
pub unsafe fn note(params: *const c_void, result: *const c_void) {
    let mut probe = PROBE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(probe) = probe.as_mut().filter(|p| p.result == result.addr()) {
        // SAFETY: the caller's promise.
        let share = unsafe { (probe.read)(params) };
        probe.seen.insert(share);
    }
}

/// Verifies the layout, once per process.
///
/// # Errors
/// The struct has another layout: this build must not be used.
pub fn check() -> Result<(), String> {
    let _one = CHECKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_verified() {
        compare(mirrored)?;
        VERIFIED.store(true, Ordering::Release);
    }
    Ok(())
}

/// Compares the threads that `read` finds with those that ggml passes publicly. [`VERIFIED`] must be false.
fn compare(read: Reader) -> Result<(), String> {
    let told = Mutex::new(BTreeSet::new());
    let seen = compute(read, &told)?;
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !told.is_empty() && seen == told {
        return Ok(());
    }
    Err(format!(
        "this build does not fit its whisper.cpp: ggml_compute_params has another layout \
         (threads {seen:?}, expected {told:?})"
    ))
}

/// Computes a product of two matrices, of which the second comes from a user-defined operation that records its threads
/// in `told`. Returns the threads of the product.
fn compute(read: Reader, told: &Mutex<BTreeSet<Share>>) -> Result<BTreeSet<Share>, String> {
    let parameters = ggml::ggml_init_params {
        mem_size: 1 << 20,
        mem_buffer: null_mut(),
        no_alloc: false,
    };
    // SAFETY: the tensors live as long as their context, which is freed at the end, and their memory is set before it
    // is read; `told` outlives the computation.
    unsafe {
        let context = ggml::ggml_init(parameters);
        if context.is_null() {
            return Err("ggml has no memory for a check of its layout".to_owned());
        }
        let matrix = || {
            let matrix =
                ggml::ggml_new_tensor_2d(context, ggml::ggml_type_GGML_TYPE_F32, SIZE, SIZE);
            ggml::ggml_set_f32(matrix, 1.0)
        };
        let user_data = std::ptr::from_ref(told).cast_mut().cast::<c_void>();
        let every_thread = ggml::GGML_N_TASKS_MAX;
        let told_publicly =
            ggml::ggml_map_custom1(context, matrix(), Some(tell), every_thread, user_data);
        let product = ggml::ggml_mul_mat(context, matrix(), told_publicly);
        let graph = ggml::ggml_new_graph(context);
        ggml::ggml_build_forward_expand(graph, product);
        let mut plan = plan(graph, THREADS);
        let mut memory = vec![0_u8; plan.work_size];
        plan.work_data = memory.as_mut_ptr();
        *PROBE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Probe {
            result: (*product).data.addr(),
            read,
            seen: BTreeSet::new(),
        });
        let status = ggml::ggml_graph_compute(graph, &raw mut plan);
        let probe = PROBE.lock().unwrap_or_else(PoisonError::into_inner).take();
        ggml::ggml_free(context);
        if status != ggml::ggml_status_GGML_STATUS_SUCCESS {
            return Err("ggml could not compute a check of its layout".to_owned());
        }
        Ok(probe.map(|probe| probe.seen).unwrap_or_default())
    }
}

/// The user-defined operation: copies its input, and records the threads.
unsafe extern "C" fn tell(
    into: *mut ggml::ggml_tensor,
    from: *const ggml::ggml_tensor,
    thread: c_int,
    threads: c_int,
    told: *mut c_void,
) {
    // SAFETY: ggml passes live tensors of the same shape, and the user data that `compute` gave.
    let told = unsafe {
        if thread == 0 {
            let bytes = ggml::ggml_nbytes(from);
            std::ptr::copy_nonoverlapping((*from).data.cast::<u8>(), (*into).data.cast(), bytes);
        }
        &*told.cast::<Mutex<BTreeSet<Share>>>()
    };
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    told.insert((thread, threads));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares as at the start of a process, whatever the other tests have done.
    fn fresh(read: Reader) -> Result<(), String> {
        let _one = CHECKING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = VERIFIED.swap(false, Ordering::AcqRel);
        let result = compare(read);
        VERIFIED.store(before, Ordering::Release);
        result
    }

    #[test]
    fn the_mirror_has_the_layout_of_ggml() {
        check().unwrap();
        assert!(is_verified());
        fresh(mirrored).unwrap();
    }

    /// As if ggml had exchanged the two fields.
    unsafe fn exchanged(params: *const c_void) -> Share {
        // SAFETY: as for `mirrored`.
        let (thread, threads) = unsafe { mirrored(params) };
        (threads, thread)
    }

    /// As if ggml had put eight bytes before the two fields.
    unsafe fn shifted(params: *const c_void) -> Share {
        // SAFETY: the struct goes on with a `size_t`.
        unsafe { mirrored(params.byte_add(8)) }
    }

    #[test]
    fn another_layout_is_a_one_line_error() {
        for wrong in [exchanged as Reader, shifted] {
            let error = fresh(wrong).unwrap_err();
            assert!(error.contains("ggml_compute_params"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
