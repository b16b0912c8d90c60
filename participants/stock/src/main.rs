//! The stock service as a process.

fn main() {}
