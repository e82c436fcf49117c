//! BPF program.

fn main() {}
