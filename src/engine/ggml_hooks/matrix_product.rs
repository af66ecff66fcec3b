//! Matrix products for the encoder, several times as fast as those of ggml.
//!
//! On x86-64, ggml multiplies 16-bit weights with kernels that are chosen at compile time and reach a quarter
//! of the processor's peak. This replacement of `llamafile_sgemm` converts the weights to 32-bit floats, a
//! block at a time, and multiplies them with the crate `matrixmultiply`, which picks its kernel (AVX-512,
//! AVX2 with FMA, AVX, SSE2) at run time. Products with few columns, as in a decoder that generates one token
//! at a time, are bound by memory and stay with ggml.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};

use whisper_rs_sys as ggml;

use super::layout;

/// Products with fewer columns are left to ggml: reading the weights dominates their time.
const FEWEST_COLUMNS: i64 = 16;
/// Weights per block: 1 MiB as floats, which fits into a core's cache.
const BLOCK_WEIGHTS: usize = 256 * 1024;
/// Threads get whole tiles of this many rows or columns.
const TILE: usize = 32;
/// With fewer rows than this, threads divide the columns instead.
const FEWEST_ROWS_TO_SHARE: usize = 128;

unsafe extern "C" {
    /// The original function of ggml.
    fn __real_llamafile_sgemm(
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
    ) -> bool;
}

thread_local! {
    /// Buffers for the two factors, reused from call to call.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `c = aᵀ · b`, column by column: `c[row + column · ldc] = Σ a[row · lda + i] · b[column · ldb + i]`. `a`
/// has `m` rows, `b` `n` columns, of `k` blocks of `a`'s type each; strides count elements (blocks) of their
/// own type. Every thread of ggml's pool calls this and computes its share. Returns false if ggml must
/// compute the product.
///
/// # Safety
/// The pointers are those of live tensors of these shapes.
#[unsafe(no_mangle)]
#[expect(clippy::many_single_char_names, reason = "the usual names of matrices")]
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
    let is_ours = layout::is_verified() && n >= FEWEST_COLUMNS && c_type == F32;
    let formats = is_ours.then(|| Some((Format::of(a_type)?, Format::of(b_type)?)));
    let Some((a_format, b_format)) = formats.flatten() else {
        // SAFETY: the arguments are passed on unchanged.
        return unsafe {
            if !layout::is_verified() {
                layout::note(params, c);
            }
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
    // SAFETY: the caller's promise about the pointers; `params` comes from ggml, and the layout is verified.
    unsafe {
        let (thread, threads) = layout::share(params);
        product.share(thread, threads);
    }
    true
}

const F32: c_int = ggml::ggml_type_GGML_TYPE_F32.cast_signed();

/// Storage format of a ggml type.
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
    /// Converted by ggml.
    Other(unsafe extern "C" fn(*const c_void, *mut f32, i64)),
}

impl Format {
    /// `None` for types that cannot be converted to floats.
    fn of(id: c_int) -> Option<Self> {
        // SAFETY: ggml passes valid types, each of which has an entry.
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
    /// Returns `count` rows of `depth` values from `first` on as floats, in place or converted into
    /// `scratch`, and the number of floats from row to row.
    ///
    /// # Safety
    /// The matrix has these rows.
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
                let row: *const c_void = start.add(row * self.stride).cast();
                match self.format.kind {
                    Kind::Float16 => {
                        let halves = std::slice::from_raw_parts(row.cast::<half::f16>(), depth);
                        half::slice::HalfFloatSliceExt::convert_to_f32_slice(halves, into);
                    }
                    Kind::Float32 => unreachable!("returned above"),
                    Kind::Other(to_float) => {
                        to_float(row, into.as_mut_ptr(), depth as i64);
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
    /// Stored column by column.
    b: Rows,
    c: *mut f32,
    /// Floats of `c` from column to column.
    column_stride: usize,
}

impl Product {
    /// Computes this thread's share.
    ///
    /// # Safety
    /// The matrices are live, and no other thread writes this thread's part of `c`.
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
                    self.b
                        .floats(columns.start, columns.len(), self.depth, b_scratch);
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

/// A thread's share of `all` rows or columns, in whole tiles.
fn part(all: usize, thread: usize, threads: usize) -> std::ops::Range<usize> {
    let each = all.div_ceil(threads).next_multiple_of(TILE);
    let start = (thread * each).min(all);
    start..(start + each).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTH: usize = 96;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0;
        (0..count).map(value).collect()
    }

    /// By the definition, in double precision.
    fn by_definition(a: &[f32], b: &[f32]) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum::<f64>() as f32
        };
        b.chunks(DEPTH)
            .flat_map(|column| a.chunks(DEPTH).map(move |row| dot(row, column)))
            .collect()
    }

    fn rows<T>(data: &[T], id: ggml::ggml_type) -> Rows {
        let format = Format::of(id.cast_signed()).expect("a type of numbers");
        Rows {
            data: data.as_ptr().cast(),
            stride: DEPTH / format.block * format.bytes,
            format,
        }
    }

    #[expect(clippy::many_single_char_names, reason = "the usual names of matrices")]
    fn multiply(a: Rows, b: Rows, (m, n): (usize, usize), threads: usize) -> Vec<f32> {
        let mut c = vec![f32::NAN; m * n];
        let product = Product {
            rows: m,
            columns: n,
            depth: DEPTH,
            a,
            b,
            c: c.as_mut_ptr(),
            column_stride: m,
        };
        for thread in 0..threads {
            // SAFETY: the factors and the result are vectors of these sizes.
            unsafe { product.share(thread, threads) };
        }
        c
    }

    fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} {expected}");
        }
    }

    #[test]
    fn every_number_of_threads_and_either_way_of_sharing_gives_the_same_product() {
        for (m, n) in [(200, 33), (130, 500), (64, 70), (1, 16), (3, 129)] {
            let (a, b) = (values(m * DEPTH, 1), values(n * DEPTH, 2));
            let expected = by_definition(&a, &b);
            for threads in 1..=5 {
                let f32s = ggml::ggml_type_GGML_TYPE_F32;
                let found = multiply(rows(&a, f32s), rows(&b, f32s), (m, n), threads);
                assert_close(&found, &expected, 1e-4);
            }
        }
    }

    #[test]
    fn weights_are_taken_in_16_bits_and_quantised() {
        let (m, n) = (150, 20);
        let (a, b) = (values(m * DEPTH, 3), values(n * DEPTH, 4));
        let expected = by_definition(&a, &b);
        let f32s = rows(&b, ggml::ggml_type_GGML_TYPE_F32);
        let halves: Vec<half::f16> = a.iter().copied().map(half::f16::from_f32).collect();
        let found = multiply(
            rows(&halves, ggml::ggml_type_GGML_TYPE_F16),
            f32s,
            (m, n),
            2,
        );
        assert_close(&found, &expected, 0.02);
        let short: Vec<half::bf16> = a.iter().copied().map(half::bf16::from_f32).collect();
        let found = multiply(
            rows(&short, ggml::ggml_type_GGML_TYPE_BF16),
            f32s,
            (m, n),
            2,
        );
        assert_close(&found, &expected, 0.2);
        let mut blocks = vec![0_u8; m * DEPTH / 32 * 34];
        // SAFETY: 32 values take 34 bytes in this format.
        unsafe {
            ggml::ggml_quantize_chunk(
                ggml::ggml_type_GGML_TYPE_Q8_0,
                a.as_ptr(),
                blocks.as_mut_ptr().cast(),
                0,
                m as i64,
                DEPTH as i64,
                std::ptr::null(),
            );
        }
        let found = multiply(
            rows(&blocks, ggml::ggml_type_GGML_TYPE_Q8_0),
            f32s,
            (m, n),
            2,
        );
        assert_close(&found, &expected, 0.2);
    }

    #[test]
    fn threads_share_whole_tiles_and_everything() {
        for (all, threads) in [(512, 2), (33, 2), (31, 4), (1, 3), (2048, 8)] {
            let parts: Vec<_> = (0..threads).map(|t| part(all, t, threads)).collect();
            assert_eq!(parts.iter().map(ExactSizeIterator::len).sum::<usize>(), all);
            assert!(
                parts
                    .iter()
                    .all(|part| part.start % TILE == 0 || part.is_empty())
            );
        }
    }
}
