//! Compiles the `.proto` files without a system protoc.

use prost::Message as _;

const FILES: [&str; 14] = [
    "tercet/admin/v1/admin.proto",
    "tercet/coordinator/v1/coordinator.proto",
    "tercet/coupon/v1/coupon.proto",
    "tercet/coupon/v1/issuing.proto",
    "tercet/coupon/v1/occasion.proto",
    "tercet/coupon/v1/redemption.proto",
    "tercet/coupon_template/v1/coupon_template.proto",
    "tercet/events/v1/events.proto",
    "tercet/log/v1/log.proto",
    "tercet/order/v1/order.proto",
    "tercet/order/v1/orders.proto",
    "tercet/participant/v1/session.proto",
    "tercet/stock/v1/stock.proto",
    "tercet/store/v1/record.proto",
];

const TEMPLATE: &str = ".tercet.coupon_template.v1";

#[allow(clippy::disallowed_methods, reason = "cargo tells a build script where to write by environment variables only")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=tercet");
    let descriptors = protox::compile(FILES, ["."])?;
    let out_dir = std::env::var("OUT_DIR")?;
    std::fs::write(format!("{out_dir}/descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Maps in order, so that the same content always has the same bytes.
        .btree_map(".")
        // Bodies are handed from hop to hop without a copy.
        .bytes(".tercet")
        // The rules of coupons are JSON in the database too: a field that nobody knows is a mistake, never ignored.
        .message_attribute(TEMPLATE, "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(TEMPLATE, "#[serde(default, deny_unknown_fields)]")
        .enum_attribute(
            TEMPLATE,
            "#[derive(serde::Serialize, serde::Deserialize)] #[serde(rename_all = \"snake_case\")]",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
