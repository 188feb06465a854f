//! Compiles the library's sources for loom.

fn main() {
    println!("cargo::rustc-cfg=tidegate_loom");
    println!("cargo::rerun-if-changed=build.rs");
}
