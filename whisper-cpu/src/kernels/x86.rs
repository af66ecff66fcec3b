//! Which vector instructions of x86-64 a processor has, for the loops that name them.

use std::sync::LazyLock;

/// Instructions that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 256 bits (AVX2, FMA and F16C).
    Avx2,
    /// 256 bits, products and sums of whole numbers in one instruction.
    AvxVnni,
    /// 512 bits (AVX-512 F and BW).
    Avx512,
    /// 512 bits, products and sums of whole numbers in one instruction.
    Vnni,
}

impl Level {
    /// The best one; `None` without AVX2.
    #[inline]
    pub(super) fn best() -> Option<Self> {
        /// Kernels of a few nanoseconds ask for it.
        static BEST: LazyLock<Option<Level>> = LazyLock::new(|| {
            let best_first = [Level::Vnni, Level::Avx512, Level::AvxVnni, Level::Avx2];
            best_first.into_iter().find(|level| level.is_there())
        });
        *BEST
    }

    fn is_there(self) -> bool {
        match self {
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Self::AvxVnni => Self::Avx2.is_there() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
            }
            Self::Vnni => Self::Avx512.is_there() && is_x86_feature_detected!("avx512vnni"),
        }
    }

    /// Whether pairs of products of 8-bit numbers are summed in 16 bits, which saturates.
    pub(super) fn saturates(self) -> bool {
        matches!(self, Self::Avx2 | Self::Avx512)
    }

    /// All that the processor has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let all = [Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Vnni];
        all.into_iter().filter(|level| level.is_there()).collect()
    }
}
