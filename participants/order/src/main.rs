//! The order service as a process.

fn main() {}
