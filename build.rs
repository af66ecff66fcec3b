//! Link options: see `src/models/conv_float32.rs`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // GNU ld, lld, gold and mold know the option; other platforms' linkers do not.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-link-arg=-Wl,--wrap=ggml_conv_1d_ph");
    }
}
