//! The matrix products of the encoder, several times as fast as ggml's own.
//!
//! On x86-64, ggml multiplies 16-bit weights with kernels that are chosen when it is compiled and that
//! reach a quarter of what the processor can do. The linker option `--wrap` in `build.rs` sends its
//! calls of `llamafile_sgemm` here, where the weights are turned into 32-bit floats, a block at a time,
//! and multiplied by the crate `matrixmultiply`, which picks its kernel (AVX-512, AVX2 with FMA, AVX,
//! SSE2) by the processor that it runs on. Products with few columns, as a decoder has them that makes
//! one token after the other, are bound by memory and stay with ggml.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};

use whisper_rs::whisper_rs_sys as ggml;

/// Products with fewer columns are left to ggml: the time goes into reading the weights.
const FEWEST_COLUMNS: i64 = 16;
/// Weights that are turned into floats at a time, so that they stay in a core's cache: 1 MiB of floats.
const BLOCK_WEIGHTS: usize = 256 * 1024;
/// Threads get whole tiles of the kernels' rows or columns.
const TILE: usize = 32;
/// With fewer rows than this, threads share the columns instead.
const FEWEST_ROWS_TO_SHARE: usize = 128;

/// The beginning of ggml's `struct ggml_compute_params`, which is no part of its public interface.
#[repr(C)]
struct ComputeParams {
    thread: c_int,
    threads: c_int,
}

unsafe extern "C" {
    /// ggml's own.
    fn __real_llamafile_sgemm(
        params: *const ComputeParams,
        m: i64,
        n: i64,
        k: i64,
        a: *const c_void,
        lda: i64,
        b: *const c_void,
        ldb: i64,
        c: *mut c_void,
        ldc: i64,
        a_type: c_int,
        b_type: c_int,
        c_type: c_int,
    ) -> bool;
}

thread_local! {
    /// Floats of the two factors, kept from call to call.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `c = aᵀ · b`, column by column: `c[row + column · ldc] = Σ a[row · lda + i] · b[column · ldb + i]`.
/// `a` has `m` rows, `b` `n` columns, of `k` blocks of `a`'s type each; strides count elements (blocks)
/// of their own type. Every thread of ggml's pool calls this and does its share. Returns whether the
/// product was made; if not, ggml makes it.
///
/// # Safety
/// As ggml calls it: the pointers are those of live tensors of these shapes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_llamafile_sgemm(
    params: *const c_void,
    m: i64,
    n: i64,
    k: i64,
    a: *const c_void,
    lda: i64,
    b: *const c_void,
    ldb: i64,
    c: *mut c_void,
    ldc: i64,
    a_type: c_int,
    b_type: c_int,
    c_type: c_int,
) -> bool {
    let params = params.cast::<ComputeParams>();
    let is_ours = n >= FEWEST_COLUMNS && c_type == F32;
    let formats = is_ours.then(|| Some((Format::of(a_type)?, Format::of(b_type)?)));
    let Some((a_format, b_format)) = formats.flatten() else {
        // SAFETY: the arguments are handed on as they came.
        return unsafe {
            __real_llamafile_sgemm(
                params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type,
            )
        };
    };
    let product = Product {
        rows: m as usize,
        columns: n as usize,
        depth: k as usize * a_format.block,
        a: Rows {
            data: a.cast(),
            stride: lda as usize * a_format.bytes,
            format: a_format,
        },
        b: Rows {
            data: b.cast(),
            stride: ldb as usize * b_format.bytes,
            format: b_format,
        },
        c: c.cast(),
        column_stride: ldc as usize,
    };
    // SAFETY: the caller's promise about the pointers; `params` is ggml's own.
    unsafe {
        let (thread, threads) = ((*params).thread as usize, (*params).threads as usize);
        product.share(thread, threads);
    }
    true
}

const F32: c_int = ggml::ggml_type_GGML_TYPE_F32.cast_signed();

/// How a type of ggml's is stored.
#[derive(Clone, Copy)]
struct Format {
    /// Values in a block.
    block: usize,
    /// Bytes of a block.
    bytes: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Float32,
    Float16,
    /// By ggml's own conversion.
    Other(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
}

impl Format {
    /// `None` for types that are not numbers of a matrix.
    fn of(id: c_int) -> Option<Self> {
        // SAFETY: ggml calls with types of its own, for each of which it has an entry.
        let traits = unsafe { &*ggml::ggml_get_type_traits(id.cast_unsigned()) };
        let kind = match id.cast_unsigned() {
            ggml::ggml_type_GGML_TYPE_F32 => Kind::Float32,
            ggml::ggml_type_GGML_TYPE_F16 => Kind::Float16,
            _ => Kind::Other(traits.to_float?),
        };
        Some(Self {
            block: usize::try_from(traits.blck_size).ok()?,
            bytes: traits.type_size,
            kind,
        })
    }
}

/// Rows of one factor.
#[derive(Clone, Copy)]
struct Rows {
    data: *const u8,
    /// Bytes from row to row.
    stride: usize,
    format: Format,
}

impl Rows {
    /// `count` rows of `depth` values from `first` on, as floats: in place, or through `scratch`. And
    /// the number of floats from row to row.
    ///
    /// # Safety
    /// The rows are there.
    unsafe fn floats(
        self,
        first: usize,
        count: usize,
        depth: usize,
        scratch: &mut Vec<f32>,
    ) -> (*const f32, usize) {
        // SAFETY: within the matrix, by the caller's promise.
        let start = unsafe { self.data.add(first * self.stride) };
        if let Kind::Float32 = self.format.kind {
            return (start.cast(), self.stride / size_of::<f32>());
        }
        scratch.resize(scratch.len().max(count * depth), 0.0);
        for (row, into) in scratch.chunks_exact_mut(depth).take(count).enumerate() {
            // SAFETY: as above; a row holds `depth` values.
            unsafe {
                let row = start.add(row * self.stride);
                match self.format.kind {
                    Kind::Float16 => {
                        let halves = std::slice::from_raw_parts(row.cast::<half::f16>(), depth);
                        half::slice::HalfFloatSliceExt::convert_to_f32_slice(halves, into);
                    }
                    Kind::Float32 => unreachable!("returned above"),
                    Kind::Other(to_float) => {
                        to_float(row.cast(), into.as_mut_ptr(), depth as i64);
                    }
                }
            }
        }
        (scratch.as_ptr(), depth)
    }
}

/// One product of two matrices.
#[derive(Clone, Copy)]
struct Product {
    rows: usize,
    columns: usize,
    /// Values of a row of `a` and of a column of `b`.
    depth: usize,
    a: Rows,
    /// Its columns, one after the other.
    b: Rows,
    c: *mut f32,
    /// Floats of `c` from column to column.
    column_stride: usize,
}

impl Product {
    /// Makes what is this thread's.
    ///
    /// # Safety
    /// The matrices are there, and nobody else writes this thread's part of `c`.
    unsafe fn share(self, thread: usize, threads: usize) {
        let by_rows = self.rows >= FEWEST_ROWS_TO_SHARE;
        let (rows, columns) = if by_rows {
            (part(self.rows, thread, threads), 0..self.columns)
        } else {
            (0..self.rows, part(self.columns, thread, threads))
        };
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|[a_scratch, b_scratch]| {
            // SAFETY: the parts lie within the matrices; `c` is written in this thread's part alone.
            unsafe {
                let (b, b_stride) =
                    self.b.floats(columns.start, columns.len(), self.depth, b_scratch);
                let block = (BLOCK_WEIGHTS / self.depth.max(1)).max(TILE);
                for first in rows.clone().step_by(block) {
                    let count = block.min(rows.end - first);
                    let (a, a_stride) = self.a.floats(first, count, self.depth, a_scratch);
                    matrixmultiply::sgemm(
                        count,
                        self.depth,
                        columns.len(),
                        1.0,
                        a,
                        a_stride as isize,
                        1,
                        b,
                        1,
                        b_stride as isize,
                        0.0,
                        self.c.add(first + columns.start * self.column_stride),
                        1,
                        self.column_stride as isize,
                    );
                }
            }
        });
    }
}

/// A thread's part of so many rows or columns, in whole tiles.
fn part(all: usize, thread: usize, threads: usize) -> std::ops::Range<usize> {
    let each = all.div_ceil(threads).next_multiple_of(TILE);
    let start = (thread * each).min(all);
    start..(start + each).min(all)
}
