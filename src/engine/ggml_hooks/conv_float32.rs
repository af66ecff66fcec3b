//! The convolution that lets whisper.cpp run models whose weights are 32-bit floats.
//!
//! The ggml of whisper.cpp 1.8.3 unrolls every one-dimensional convolution to 16-bit floats, and its CPU code
//! then aborts the process on a 32-bit kernel (`GGML_ASSERT(src0->type == GGML_TYPE_F16)`, whisper.cpp issue
//! 2557). With this hook, `COMPUTE_TYPE=float32` and `WHISPER_FP16=0` work on a CPU: the unrolled type
//! follows that of the kernel. Later versions of ggml do the same; when whisper-rs bundles one, remove this
//! file and its `--wrap` option.

use std::ffi::c_int;

use whisper_rs_sys as ggml;

/// `ggml_conv_1d_ph` ("half padding"): kernel `[width, inputs, outputs]`, data `[frames, inputs]`, stride,
/// dilation; adds the operations to the graph of `context` and returns the result's node.
///
/// # Safety
///
/// The pointers are a live ggml context and two live tensors in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __wrap_ggml_conv_1d_ph(
    context: *mut ggml::ggml_context,
    kernel: *mut ggml::ggml_tensor,
    data: *mut ggml::ggml_tensor,
    stride: c_int,
    dilation: c_int,
) -> *mut ggml::ggml_tensor {
    // SAFETY: the caller passes live tensors of a live context; ggml's functions return live tensors of
    // the same context, or abort. The calls are those of ggml's own `ggml_conv_1d`.
    unsafe {
        let [width, inputs, outputs, _] = (*kernel).ne;
        let unrolled_type = match (*kernel).type_ {
            ggml::ggml_type_GGML_TYPE_F32 => ggml::ggml_type_GGML_TYPE_F32,
            _ => ggml::ggml_type_GGML_TYPE_F16,
        };
        let padding = (width / 2) as c_int;
        let unrolled = ggml::ggml_im2col(
            context,
            kernel,
            data,
            stride,
            0,
            padding,
            0,
            dilation,
            0,
            false,
            unrolled_type,
        );
        let [columns, frames, batch, _] = (*unrolled).ne;
        let product = ggml::ggml_mul_mat(
            context,
            ggml::ggml_reshape_2d(context, unrolled, columns, frames * batch),
            ggml::ggml_reshape_2d(context, kernel, width * inputs, outputs),
        );
        ggml::ggml_reshape_3d(context, product, frames, outputs, batch)
    }
}
