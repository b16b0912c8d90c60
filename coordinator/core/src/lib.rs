//! coordinator/core.
