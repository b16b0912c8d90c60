//! The template service: kinds of coupons with their rules, the versions of these rules, and how a new version reaches
//! its users.
//!
//! The rules themselves are values of [`tercet_rules`]; here is their life ([`lifecycle`]), what can be done with them
//! ([`templates`]) and where they are kept ([`store`]). The service takes part in no transaction of the coordinator: a
//! change of a template is one local transaction.

use std::sync::Arc;

use tercet::service::Service;
use tercet::tables;
use tercet_events::bus::Bus;
use tercet_events::consumer::Consuming;
use tercet_events::outbox::Outbox;
use tercet_events::relayed;
use tercet_proto::coupon_template::v1::coupon_templates_server::CouponTemplatesServer;
use tonic::service::Routes;

pub mod api;
pub mod lifecycle;
pub mod limits;
pub mod store;
pub mod template;
pub mod templates;
pub mod usage;

use store::Store;
use templates::Templates;

/// The service's name.
pub const SERVICE: &str = "coupon_template";

/// The service over this database, whose tables are made where they are missing. With a bus it tells what operators
/// change, and counts what is done with coupons.
///
/// # Errors
/// When the tables can not be made, or are not those of this version.
pub async fn service<Db: Store>(pool: sqlx::Pool<Db>, bus: Option<&Bus>) -> Result<Service<Db>, tables::Error> {
    Db::migrate(&pool).await?;
    let outbox = match bus {
        Some(_) => Outbox::open(std::slice::from_ref(&pool)).await?,
        None => Outbox::off(),
    };
    let templates = Templates::new(pool.clone(), outbox.clone());
    let server = CouponTemplatesServer::from_arc(Arc::new(api::Api::new(templates)));
    let server = server.max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
    let routes = Routes::new(server);
    let service = Service::new(SERVICE, [pool.clone()]).routes(routes, tercet_proto::DESCRIPTORS);
    Ok(match bus {
        Some(bus) => {
            let counting = Consuming::new(usage::Counting::<Db>::default(), [pool.clone()], bus.clone());
            let service = service.beside("usage", |stop| counting.run(stop));
            relayed(service, SERVICE, &[pool], &outbox, bus)
        }
        None => service,
    })
}
