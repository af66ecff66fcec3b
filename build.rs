//! Link options: see `src/models/conv_float32.rs` and `src/engine/kernels/`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    // GNU ld, lld, gold and mold know the option; other platforms' linkers do not.
    if target("OS") != "linux" {
        return;
    }
    println!("cargo::rustc-link-arg=-Wl,--wrap=ggml_conv_1d_ph");
    println!("cargo::rustc-link-arg=-Wl,--wrap=ggml_graph_plan");
    if target("ARCH") == "x86_64" {
        println!("cargo::rustc-link-arg=-Wl,--wrap=llamafile_sgemm");
    }
}
