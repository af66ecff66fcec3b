//! The functions of NVIDIA's driver and of cuBLAS that ggml calls, found when they are first called.
//!
//! A program that is linked against the driver's library does not start where there is no driver, and cuBLAS
//! has 600 MB. So the linker finds these functions here, and this module loads the libraries at run time: one
//! program serves machines with and without a GPU. Without the library, a function returns an error of that
//! library. The CUDA runtime is linked statically and looks for the driver itself.

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::libc::{RTLD_LAZY, RTLD_LOCAL, dlerror, dlopen, dlsym};

/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: c_int = 100;
/// `CUBLAS_STATUS_NOT_INITIALIZED`.
const NOT_INITIALIZED: c_int = 1;

/// The last folder is that of WSL, which the loader may not search.
static DRIVER: Library = Library::new("libcuda.so.1", || vec![PathBuf::from("/usr/lib/wsl/lib")]);
/// The number is that of the toolkit whose headers ggml was compiled with.
static CUBLAS: Library = Library::new("libcublas.so.13", cublas_folders);

/// A shared library, loaded when it is first needed and never unloaded.
struct Library {
    name: &'static str,
    /// Folders to look in, if the loader does not find the library.
    folders: fn() -> Vec<PathBuf>,
    /// The loader's handle, or its message.
    handle: OnceLock<Result<usize, String>>,
}

impl Library {
    const fn new(name: &'static str, folders: fn() -> Vec<PathBuf>) -> Self {
        Self {
            name,
            folders,
            handle: OnceLock::new(),
        }
    }

    fn handle(&self) -> Result<usize, &str> {
        let found = self.handle.get_or_init(|| {
            let first = open(self.name);
            let elsewhere = || {
                let mut folders = (self.folders)().into_iter();
                folders.find_map(|folder| open(&folder.join(self.name).to_string_lossy()).ok())
            };
            first.or_else(|message| elsewhere().ok_or(message))
        });
        found.as_ref().copied().map_err(String::as_str)
    }

    /// The address of a function.
    fn function(&self, name: &CStr) -> Option<usize> {
        let handle = self.handle().ok()?;
        // SAFETY: the handle is of a library that is never unloaded.
        let found = unsafe { dlsym(handle as *mut c_void, name.as_ptr()) } as usize;
        (found != 0).then_some(found)
    }
}

/// Loads a library by name or path.
fn open(name: &str) -> Result<usize, String> {
    let Ok(name) = CString::new(name) else {
        return Err("its path contains a NUL".to_owned());
    };
    // SAFETY: the library is NVIDIA's own; loading it runs its initialisation, as a linked one's.
    let handle = unsafe { dlopen(name.as_ptr(), RTLD_LAZY | RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle as usize);
    }
    // SAFETY: after a failure the function returns a text that is valid until the next call of this thread.
    let message = unsafe { dlerror() };
    if message.is_null() {
        return Err("the loader gives no reason".to_owned());
    }
    // SAFETY: as above.
    let message = unsafe { CStr::from_ptr(message) };
    Err(message.to_string_lossy().into_owned())
}

/// Beside the program, where an installation may put it, and where it was when the program was built.
fn cublas_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().map(PathBuf::from).unwrap_or_default();
    let mut folders = vec![beside.join("../lib/uttera-stt"), beside];
    folders.extend(option_env!("UTTERA_CUDA_LIBRARIES").map(PathBuf::from));
    folders.push(PathBuf::from("/usr/local/cuda/lib64"));
    folders
}

/// Checks that the driver answers, that it has a GPU, and that cuBLAS is there.
///
/// # Errors
/// The message says what is missing.
pub fn check() -> Result<(), String> {
    if let Err(message) = DRIVER.handle() {
        return Err(format!("there is no NVIDIA driver ({message})"));
    }
    // SAFETY: the driver's own functions, with the arguments that its header gives them.
    let (status, count) = unsafe {
        let mut count = 0;
        let status = match cuInit(0) {
            0 => cuDeviceGetCount(&raw mut count),
            failed => failed,
        };
        (status, count)
    };
    match (status, count) {
        (0, 1..) => {}
        (0 | NO_DEVICE, _) => return Err("the NVIDIA driver finds no GPU".to_owned()),
        (failed, _) => return Err(format!("the NVIDIA driver does not work (error {failed})")),
    }
    CUBLAS
        .handle()
        .map(|_| ())
        .map_err(|message| format!("NVIDIA's library cuBLAS cannot be loaded ({message})"))
}

/// Defines functions that call the function of the same name in a library.
macro_rules! forward {
    ($library:ident, $missing:expr; $(fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $result:ty;)*) => {
        $(
            // The names and arguments are those of NVIDIA's headers.
            #[allow(non_snake_case, clippy::too_many_arguments, clippy::similar_names)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
                static FOUND: OnceLock<Option<usize>> = OnceLock::new();
                const NAME: &str = concat!(stringify!($name), "\0");
                let found = FOUND.get_or_init(|| {
                    CStr::from_bytes_until_nul(NAME.as_bytes())
                        .ok()
                        .and_then(|name| $library.function(name))
                });
                let Some(address) = *found else {
                    return $missing;
                };
                // SAFETY: the library's header declares the function so.
                let function = unsafe {
                    std::mem::transmute::<*const c_void, unsafe extern "C" fn($($kind),*) -> $result>(
                        address as *const c_void,
                    )
                };
                // SAFETY: the caller vouches for the arguments.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

/// A pointer that only NVIDIA's libraries follow.
type Opaque = *const c_void;
/// An address in the GPU's memory.
type GpuAddress = c_ulonglong;

forward! { DRIVER, NO_DEVICE;
    fn cuInit(flags: c_uint) -> c_int;
    fn cuDeviceGetCount(count: *mut c_int) -> c_int;
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int;
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int;
    fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int;
    fn cuMemAddressReserve(
        address: *mut GpuAddress, size: usize, alignment: usize, wanted: GpuAddress, flags: c_ulonglong,
    ) -> c_int;
    fn cuMemAddressFree(address: GpuAddress, size: usize) -> c_int;
    fn cuMemCreate(handle: *mut c_ulonglong, size: usize, properties: Opaque, flags: c_ulonglong) -> c_int;
    fn cuMemRelease(handle: c_ulonglong) -> c_int;
    fn cuMemMap(
        address: GpuAddress, size: usize, offset: usize, handle: c_ulonglong, flags: c_ulonglong,
    ) -> c_int;
    fn cuMemUnmap(address: GpuAddress, size: usize) -> c_int;
    fn cuMemSetAccess(address: GpuAddress, size: usize, access: Opaque, count: usize) -> c_int;
    fn cuMemGetAllocationGranularity(granularity: *mut usize, properties: Opaque, option: c_int) -> c_int;
}

forward! { CUBLAS, NOT_INITIALIZED;
    fn cublasCreate_v2(handle: *mut Opaque) -> c_int;
    fn cublasDestroy_v2(handle: Opaque) -> c_int;
    fn cublasSetStream_v2(handle: Opaque, stream: Opaque) -> c_int;
    fn cublasSetMathMode(handle: Opaque, mode: c_int) -> c_int;
    fn cublasSgemm_v2(
        handle: Opaque, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int,
        alpha: Opaque, a: Opaque, lda: c_int, b: Opaque, ldb: c_int, beta: Opaque, c: Opaque, ldc: c_int,
    ) -> c_int;
    fn cublasGemmEx(
        handle: Opaque, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int,
        alpha: Opaque, a: Opaque, a_type: c_int, lda: c_int, b: Opaque, b_type: c_int, ldb: c_int,
        beta: Opaque, c: Opaque, c_type: c_int, ldc: c_int, compute: c_int, algorithm: c_int,
    ) -> c_int;
    fn cublasGemmBatchedEx(
        handle: Opaque, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int,
        alpha: Opaque, a: Opaque, a_type: c_int, lda: c_int, b: Opaque, b_type: c_int, ldb: c_int,
        beta: Opaque, c: Opaque, c_type: c_int, ldc: c_int, count: c_int, compute: c_int, algorithm: c_int,
    ) -> c_int;
    fn cublasGemmStridedBatchedEx(
        handle: Opaque, transa: c_int, transb: c_int, m: c_int, n: c_int, k: c_int,
        alpha: Opaque, a: Opaque, a_type: c_int, lda: c_int, stride_a: c_longlong,
        b: Opaque, b_type: c_int, ldb: c_int, stride_b: c_longlong,
        beta: Opaque, c: Opaque, c_type: c_int, ldc: c_int, stride_c: c_longlong,
        count: c_int, compute: c_int, algorithm: c_int,
    ) -> c_int;
    fn cublasStrsmBatched(
        handle: Opaque, side: c_int, fill: c_int, transpose: c_int, diagonal: c_int, m: c_int, n: c_int,
        alpha: Opaque, a: Opaque, lda: c_int, b: Opaque, ldb: c_int, count: c_int,
    ) -> c_int;
}

forward! { CUBLAS, c"cuBLAS is not installed".as_ptr();
    fn cublasGetStatusString(status: c_int) -> *const c_char;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_of_its_functions_and_never_a_crash() {
        static MISSING: Library = Library::new("libuttera-stt-none.so.1", Vec::new);
        assert!(
            MISSING
                .handle()
                .is_err_and(|message| message.contains("libuttera-stt-none"))
        );
        assert_eq!(MISSING.function(c"cuInit"), None);
        forward! { MISSING, NO_DEVICE; fn uttera_stt_missing(flags: c_uint) -> c_int; }
        // SAFETY: a function of this test without a library behind it.
        assert_eq!(unsafe { uttera_stt_missing(0) }, NO_DEVICE);
    }
}
