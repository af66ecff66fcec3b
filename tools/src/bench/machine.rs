//! The machine on which the figures were measured.

// The peak is measured on a separate thread without a runtime, whose clock cannot be paused.
use std::time::Instant;

use matrixmultiply::sgemm;
use serde::Serialize;

/// Rows and columns of the matrices for measuring the peak; they are far larger than the caches.
const PEAK_SIZE: usize = 1024;
/// Number of products; the fastest one counts.
const PEAK_ROUNDS: usize = 3;

/// The properties of a machine that affect the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Number of cores available to this program.
    pub cores: usize,
    /// Memory of the machine in MiB.
    pub memory_mebibytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Peak in billions of operations per second, in a large product of f32 matrices on all cores.
    pub peak_gflops: f64,
    /// How the peak was obtained.
    pub peak_source: &'static str,
}

impl Machine {
    /// Describes this machine and measures the peak unless `peak_gflops` is given.
    pub fn look(peak_gflops: Option<f64>) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| "unknown".to_owned()),
            cores,
            memory_mebibytes: memory_mebibytes(&read("/proc/meminfo")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            peak_gflops: peak_gflops.unwrap_or_else(|| measure_peak(cores)),
            peak_source: if peak_gflops.is_some() {
                "given"
            } else {
                "matrixmultiply"
            },
        }
    }
}

/// The first value of a name in a file of `name : value` lines.
fn field(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim().to_owned())
}

fn memory_mebibytes(meminfo: &str) -> u64 {
    let total = field(meminfo, "MemTotal").unwrap_or_default();
    let kibibytes = total
        .split(' ')
        .next()
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}

/// Measures the peak. Each core multiplies its own matrices, all at the same time.
fn measure_peak(cores: usize) -> f64 {
    let operations = 2.0 * (PEAK_SIZE as f64).powi(3) * cores as f64;
    let quickest = (0..PEAK_ROUNDS).map(|_| {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(multiply);
            }
        });
        begin.elapsed().as_secs_f64()
    });
    operations / quickest.fold(f64::INFINITY, f64::min) / 1e9
}

fn multiply() -> f32 {
    let (rows, stride) = (PEAK_SIZE, PEAK_SIZE.cast_signed());
    let (left, right) = (vec![0.5_f32; rows * rows], vec![0.25_f32; rows * rows]);
    let mut product = vec![0.0_f32; rows * rows];
    // SAFETY: all three matrices are square, packed row by row, and hold rows × rows values.
    unsafe {
        sgemm(
            rows,
            rows,
            rows,
            1.0,
            left.as_ptr(),
            stride,
            1,
            right.as_ptr(),
            stride,
            1,
            0.0,
            product.as_mut_ptr(),
            stride,
            1,
        );
    }
    std::hint::black_box(product[rows])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        assert_eq!(
            field("a: b\nmodel name\t: X 9\n", "model name").as_deref(),
            Some("X 9")
        );
        assert_eq!(memory_mebibytes("MemTotal:       2048 kB\n"), 2);
        assert_eq!(memory_mebibytes(""), 0);
        let machine = Machine::look(Some(12.0));
        assert!(machine.cores > 0 && machine.peak_source == "given");
    }

    #[test]
    fn the_product_is_right() {
        let expected = 0.125 * PEAK_SIZE as f32;
        assert!((multiply() - expected).abs() < 1e-3);
    }
}
