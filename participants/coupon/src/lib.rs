//! The coupon service.
