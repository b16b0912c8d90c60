//! Those who claim, buy and return by transactions of their own, and remember what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use tercet::client::{Client, Outcome, Wait};
use tercet::plan::Plan;
use tercet_platform::flows;
use tercet_proto::coupon::v1 as coupons;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tercet_proto::order::v1::Place;
use tercet_rules::{Code, Fault};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::stage::{ITEM, Market, PATIENCE, PAUSE};

/// Who claim and buy.
const CLIENTS: i64 = 6;

/// Asks until the outcome is known: whether it is confirmed.
pub(super) async fn submit<M: Clone>(client: &Client, plan: Plan<M>) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let view = client.submit(plan.clone(), Wait::Ended).await;
        if let Some(outcome) = view.ok().and_then(|view| view.outcome()) {
            return outcome == Outcome::Confirmed;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("in vain: it ends");
}

/// What clients have done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The coupons that they were told they have.
    pub(super) claimed: Vec<i64>,
    pub(super) orders: i64,
    pub(super) refunds: i64,
    /// Where each order can stand, by what its client was told.
    told: BTreeMap<i64, &'static [i64]>,
}

/// Where an order stands: it was closed, or never came to anything; it is placed; it was refunded.
const CLOSED: i64 = 2;
const PLACED: i64 = 1;
const REFUNDED: i64 = 4;

impl Done {
    /// Compares what clients were told with what the databases hold, when nothing is under way any more.
    pub(super) async fn agrees(&self, market: &Market) {
        assert!(self.orders > 0 && self.refunds > 0, "{self:?}");
        let coupons = market.coupons().await;
        assert!(self.claimed.iter().all(|coupon_id| coupons.contains_key(coupon_id)), "a coupon is lost");
        let mut orders = market.connect("orders").await;
        let sql = "SELECT order_id, CAST(status AS SIGNED) FROM orders WHERE coupon_id IS NOT NULL";
        let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&mut orders).await.expect("the table is there");
        let rows: BTreeMap<i64, i64> = rows.into_iter().collect();
        for (order_id, can) in &self.told {
            let is = rows.get(order_id).unwrap_or(&CLOSED);
            assert!(can.contains(is), "order {order_id} has status {is}, and its client was told {can:?}");
        }
        assert!(rows.keys().all(|order_id| self.told.contains_key(order_id)), "an order that nobody asked for");
    }
}

/// Clients that claim, buy with what they have claimed, and return every third order, until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Done>>,
}

impl Load {
    pub(super) fn start(market: &Market, template_id: i64) -> Self {
        let (stop, orders) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let client = |user_id: i64| {
            let (stop, orders) = (Arc::clone(&stop), Arc::clone(&orders));
            let (mut issuing, coordinator) = (market.issuing(), market.client());
            tokio::spawn(async move {
                let mut done = Done::default();
                while !stop.load(Ordering::Relaxed) {
                    let order_id = orders.fetch_add(1, Ordering::Relaxed) + 1;
                    let coupon_id = claim(&mut issuing, user_id + order_id * CLIENTS, template_id).await;
                    done.claimed.push(coupon_id);
                    let order = Place {
                        order_id,
                        user_id: user_id + order_id * CLIENTS,
                        item: ITEM,
                        count: 1,
                        coupon_id,
                        amount_cents: 2_000,
                        discount_cents: 500,
                    };
                    // While a service is away, its time may run out.
                    if !submit(&coordinator, flows::checkout(&order).expect("it is sound")).await {
                        done.told.insert(order_id, &[CLOSED]);
                        continue;
                    }
                    done.orders += 1;
                    done.told.insert(order_id, &[PLACED]);
                    if order_id % 3 == 0 {
                        let refunded = submit(&coordinator, flows::refund(&order).expect("it is sound")).await;
                        done.refunds += i64::from(refunded);
                        // Without a key: where it is not known how it ended, the same again may find it done.
                        done.told.insert(order_id, if refunded { &[REFUNDED] } else { &[PLACED, REFUNDED] });
                    }
                }
                done
            })
        };
        let clients = (1..=CLIENTS).map(client).collect();
        Self { stop, clients }
    }

    pub(super) async fn stop(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        for client in self.clients {
            let done = client.await.expect("nothing is refused");
            all.claimed.extend(done.claimed);
            all.told.extend(done.told);
            (all.orders, all.refunds) = (all.orders + done.orders, all.refunds + done.refunds);
        }
        all
    }
}

async fn claim(issuing: &mut IssuingClient<Channel>, user_id: i64, template_id: i64) -> i64 {
    let request = coupons::ClaimRequest { user_id, template_id, idempotency_key: "k".into(), groups: Vec::new() };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match issuing.claim(request.clone()).await {
            Ok(answer) => return answer.into_inner().coupon.expect("a coupon").coupon_id,
            Err(status) => {
                let fault = Fault::from_status(&status);
                assert!(fault.is_none_or(|fault| fault.code == Code::SystemBusy), "{status:?}");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("in vain: a claim is answered");
}
