//! The coupon service as a process.

fn main() {}
