//! Link options of `src/engine/ggml_hooks/`, and a check that they fit the bundled whisper.cpp.

/// The whisper.cpp that the hooks were written for.
const WHISPER_CPP: &str = "1.8.3";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(fast_products)");
    // `whisper-rs-sys` tells which one it bundles.
    let bundled = std::env::var("DEP_WHISPER_WHISPER_CPP_VERSION").unwrap_or_default();
    if bundled != WHISPER_CPP {
        println!(
            "cargo::error=src/engine/ggml_hooks was written for whisper.cpp {WHISPER_CPP}, not {bundled}: \
             review its hooks, then change WHISPER_CPP in build.rs"
        );
    }
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    // GNU ld, lld, gold and mold know the option; other platforms' linkers do not.
    if target("OS") != "linux" {
        return;
    }
    for name in [
        "ggml_conv_1d_ph",
        "ggml_graph_plan",
        "ggml_graph_compute",
        "ggml_backend_sched_graph_compute",
    ] {
        println!("cargo::rustc-link-arg=-Wl,--wrap={name}");
    }
    if target("ARCH") != "x86_64" {
        return;
    }
    // ggml has the hooked function only where it was built with it.
    println!("cargo::rerun-if-env-changed=GGML_LLAMAFILE");
    let llamafile = std::env::var("GGML_LLAMAFILE").unwrap_or_default();
    if ["ON", "1", "TRUE", "YES"].contains(&llamafile.to_uppercase().as_str()) {
        println!("cargo::rustc-cfg=fast_products");
        println!("cargo::rustc-link-arg=-Wl,--wrap=llamafile_sgemm");
    } else {
        println!(
            "cargo::warning=GGML_LLAMAFILE is not ON, as it is in .cargo/config.toml: \
             transcription will be several times slower"
        );
    }
}
