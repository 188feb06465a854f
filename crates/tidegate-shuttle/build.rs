//! Compiles the library's sources for shuttle.

fn main() {
    println!("cargo::rustc-cfg=tidegate_shuttle");
    println!("cargo::rerun-if-changed=build.rs");
}
