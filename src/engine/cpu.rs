//! Checks that this processor can run this build.
//!
//! whisper.cpp's kernels are compiled for an instruction set. On a processor without it, the process would
//! die later of SIGILL, with no explanation. So the program checks before anything else.

/// Checks that the processor has all instructions that this build uses.
///
/// # Errors
/// The message names the missing instructions and what to do.
pub fn check() -> Result<(), String> {
    let needed = needed();
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, needed, there)| *needed && !*there)
        .map(|(name, _, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "this build of uttera-stt needs instructions that this processor does not have ({}). \
         Build it on this machine with scripts/run, or for any x86-64 processor with \
         scripts/build --cpu any",
        missing.join(", ")
    ))
}

/// The instruction sets that this build can use and this processor has, for people. Empty on architectures with one
/// build for all.
pub fn present() -> Vec<&'static str> {
    let known = needed().into_iter();
    known
        .filter(|(_, _, there)| *there)
        .map(|(name, _, _)| name)
        .collect()
}

/// Instruction sets: name, whether the build uses it, whether the processor has it.
#[cfg(target_arch = "x86_64")]
fn needed() -> Vec<(&'static str, bool, bool)> {
    use std::arch::is_x86_feature_detected as has;
    use whisper_rs::whisper_rs_sys as ggml;

    // SAFETY: these functions take nothing and return a constant of the build.
    let built = unsafe {
        [
            ("SSSE3", ggml::ggml_cpu_has_ssse3(), has!("ssse3")),
            ("AVX", ggml::ggml_cpu_has_avx(), has!("avx")),
            ("AVX2", ggml::ggml_cpu_has_avx2(), has!("avx2")),
            ("FMA", ggml::ggml_cpu_has_fma(), has!("fma")),
            ("F16C", ggml::ggml_cpu_has_f16c(), has!("f16c")),
            ("BMI2", ggml::ggml_cpu_has_bmi2(), has!("bmi2")),
            ("AVX-VNNI", ggml::ggml_cpu_has_avx_vnni(), has!("avxvnni")),
            ("AVX-512", ggml::ggml_cpu_has_avx512(), has!("avx512f")),
            (
                "AVX-512 VBMI",
                ggml::ggml_cpu_has_avx512_vbmi(),
                has!("avx512vbmi"),
            ),
            (
                "AVX-512 VNNI",
                ggml::ggml_cpu_has_avx512_vnni(),
                has!("avx512vnni"),
            ),
            (
                "AVX-512 BF16",
                ggml::ggml_cpu_has_avx512_bf16(),
                has!("avx512bf16"),
            ),
        ]
    };
    built
        .into_iter()
        .map(|(name, needed, there)| (name, needed != 0, there))
        .collect()
}

/// Other architectures have one build for all.
#[cfg(not(target_arch = "x86_64"))]
fn needed() -> Vec<(&'static str, bool, bool)> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_for_everybody_needs_no_more_than_avx2_and_runs_here() {
        assert_eq!(check(), Ok(()));
        // .cargo/config.toml; a build tree from before it was changed shows here.
        let rare = needed()
            .into_iter()
            .filter(|(name, needed, _)| name.contains("512") && *needed);
        assert_eq!(rare.count(), 0, "run `cargo clean -p whisper-rs-sys`");
    }
}
