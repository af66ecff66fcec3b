//! Which vector instructions of x86-64 a processor has, for the loops that name them.

/// Instructions that the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 256 bits (AVX2, FMA and F16C).
    Avx2,
    /// 512 bits (AVX-512 F and BW).
    Avx512,
    /// 512 bits, products and sums of whole numbers in one instruction.
    Vnni,
}

impl Level {
    /// The best one; `None` without AVX2.
    #[inline]
    pub(super) fn best() -> Option<Self> {
        let is_wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        if is_wide && is_x86_feature_detected!("avx512vnni") {
            Some(Self::Vnni)
        } else if is_wide {
            Some(Self::Avx512)
        } else if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            Some(Self::Avx2)
        } else {
            None
        }
    }

    /// All that the processor has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let all = [Self::Avx2, Self::Avx512, Self::Vnni];
        Self::best().map_or_else(Vec::new, |best| all[..=best as usize].to_vec())
    }
}
