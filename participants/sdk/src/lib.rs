//! participants/sdk.
