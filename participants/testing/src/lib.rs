//! participants/testing.
