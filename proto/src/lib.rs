//! Generated code for the `.proto` files, a module per package and version.
//!
//! The files are the documentation; nothing here is written by hand but the module tree.
#![allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::use_self,
    reason = "generated code"
)]

macro_rules! packages {
    ($($name:ident => $package:literal),* $(,)?) => {$(
        /// Package of the same name.
        pub mod $name {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!($package);
            }
        }
    )*};
}

packages!(
    admin => "tercet.admin.v1",
    coordinator => "tercet.coordinator.v1",
    coupon => "tercet.coupon.v1",
    coupon_template => "tercet.coupon_template.v1",
    events => "tercet.events.v1",
    log => "tercet.log.v1",
    order => "tercet.order.v1",
    participant => "tercet.participant.v1",
    stock => "tercet.stock.v1",
    store => "tercet.store.v1",
);

/// The encoded `FileDescriptorSet` of all packages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
