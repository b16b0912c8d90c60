//! Each action for the conformance suite: on SQLite in this crate's tests, on MariaDB in `integration`.

use sqlx::Pool;
use tercet::action::{Action, Message, Request, Saga, Tcc};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::order::v1::Paid;
use tercet_testing::{Database, Mode, Suite};

use super::store::{Claim, Move, Status, Store, Template, Totals};
use super::{CLAIM, GIVE_BACK, PAID, REDEEM, audit, seed_coupons, seed_templates, service};

/// Template 1, two for each user, 500 off from 2,000. Of user 7 coupons 1 and 2 are issued; of user 8 coupons 3 and 4
/// are used, by orders 103 and 104.
async fn rows<Db: Store>(pool: Pool<Db>) -> sqlx::Result<()> {
    let template = Template {
        template_id: 1,
        per_user_limit: 2,
        valid_ms: 3_600_000,
        minimum_spend_cents: 2_000,
        discount_cents: 500,
    };
    seed_templates(&pool, &[template]).await?;
    let coupon = |coupon_id, user_id| Claim { coupon_id, template_id: 1, user_id };
    seed_coupons(&pool, &[coupon(1, 7), coupon(2, 7), coupon(3, 8), coupon(4, 8)]).await?;
    let mut db_tx = pool.begin().await?;
    for (from, to) in [(Status::Issued, Status::Locked), (Status::Locked, Status::Used)] {
        let steps = [3, 4].map(|coupon_id| Move { coupon_id, from, to, order_id: Some(100 + coupon_id) });
        Db::advance(&mut db_tx, &steps).await?;
    }
    db_tx.commit().await
}

async fn counted<Db: Store>(pool: Pool<Db>) -> Result<(), String> {
    let totals = audit(&pool).await.map_err(|error| error.to_string())?;
    let Totals { miscounted, over_limit, .. } = totals;
    if (miscounted, over_limit) == (0, 0) { Ok(()) } else { Err(format!("{totals:?}")) }
}

fn suite<Db: Store + Database, M: Mode, R: Request>(action: Action<M, R>) -> Suite<Db, M, R> {
    Suite::new(action, service::<Db>).seed(rows::<Db>).invariant(counted::<Db>).ignoring(&["valid_until_ms"])
}

pub(crate) fn claim<Db: Store + Database>() -> Suite<Db, Tcc, pb::Claim> {
    let claim = |coupon_id, template_id, user_id| pb::Claim { coupon_id, template_id, user_id };
    // The row that counts a user's claims stays, with one claim less.
    suite(CLAIM)
        .granting([claim(11, 1, 9), claim(12, 1, 10), claim(13, 1, 9)])
        .refusing([claim(14, 1, 9), claim(11, 1, 10), claim(15, 1, 7), claim(16, 2, 9), claim(0, 1, 9)])
        .cancel_leaves_traces_in(&["user_template"])
}

pub(crate) fn redeem<Db: Store + Database>() -> Suite<Db, Tcc, pb::Redeem> {
    let redeem = |coupon_id, user_id, order_id| pb::Redeem {
        coupon_id,
        user_id,
        order_id,
        amount_cents: 2_000,
        discount_cents: None,
    };
    suite(REDEEM).granting([redeem(1, 7, 100), redeem(2, 7, 101)]).refusing([
        redeem(1, 7, 102),
        redeem(3, 8, 105),
        redeem(2, 8, 106),
        redeem(9, 7, 107),
    ])
}

pub(crate) fn give_back<Db: Store + Database>() -> Suite<Db, Saga, pb::GiveBack> {
    let give_back = |coupon_id, order_id| pb::GiveBack { coupon_id, order_id };
    suite(GIVE_BACK).granting([give_back(3, 103), give_back(4, 104)]).refusing([
        give_back(3, 103),
        give_back(4, 103),
        give_back(1, 100),
    ])
}

pub(crate) fn paid<Db: Store + Database>() -> Suite<Db, Message, Paid> {
    let paid = |order_id, paid_cents| Paid { order_id, user_id: 7, paid_cents };
    suite(PAID).granting([paid(2, 1_500), paid(1, 0)])
}
