//! A redemption: priced, written down, submitted, and looked up.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prost::Message as _;
use tercet::action::Tcc;
use tercet::client::{Error, Outcome, View, Wait};
use tercet::fence::Dialect;
use tercet::plan::{self, Plan};
use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::get_redemption_request::By;
use tercet_proto::order::v1::{BasketCoupon, Line, PlaceBasket};
use tercet_proto::stock::v1::Reserve;
use tercet_rules::{Cents, Code, Fault, Invalid, Limit, Set};
use tercet_shards::Slot;
use tracing::{error, warn};

use super::limits::{AGAIN_MS, AWAY_PAUSE, DEADLINE, FIRST_DUE_MS, LOOK_TIMEOUT, LOOKS_MAX};
use super::trial::{basket, busy, combination, database, of_coupon};
use super::{Redemption, fields};
use crate::store::redemptions::{Change, Redemption as Row, Redemptions, State};
use crate::{HONOUR, REDEEM, metrics, order, stock};

/// Who wants a redemption submitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Its caller, who waits for it.
    Caller,
    /// The job, for whoever asks later.
    Later,
}

impl<Db: Redemptions + Dialect> Redemption<Db> {
    /// Uses coupons for an order.
    ///
    /// # Errors
    /// Why not; [`Code::SystemBusy`] where nothing is known to have happened: the same again finds it.
    pub(super) async fn redeem(&self, request: &pb::RedeemRequest) -> Result<pb::RedemptionView, Fault> {
        let order = fields::redeem(request)?;
        let digest = fields::digest(request);
        let priced = match self.settled(request.user_id, || self.price(request, &order)).await {
            Ok(_) if self.is_away() && self.is_full(request.user_id) => Err(busy()),
            priced => priced,
        };
        let combination = match priced {
            Ok(combination) => combination,
            // The same again may find that it has its coupons already.
            Err(fault) => {
                return match self.by_key(request.user_id, (request.shop_id, &request.idempotency_key)).await? {
                    Some(row) => self.again(row, &digest).await,
                    None => Err(fault),
                };
            }
        };
        let row = self.written(request, digest, combination).await?;
        match row {
            Ok(row) => self.submit(&row, For::Caller).await,
            Err((row, digest)) => self.again(row, &digest).await,
        }
    }

    /// How a redemption stands.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(super) async fn get(&self, request: &pb::GetRedemptionRequest) -> Result<pb::RedemptionView, Fault> {
        let user_id = fields::id("user_id", request.user_id)?;
        let shop_id = fields::id("shop_id", request.shop_id)?;
        let missing = |id: String| Code::NotFound.fault([("what", "redemption".to_owned()), ("id", id)]);
        let found = match request.by.as_ref().ok_or_else(|| Invalid::new("by", Limit::Given))? {
            By::IdempotencyKey(key) => {
                self.by_key(user_id, (shop_id, fields::key(key)?)).await?.ok_or_else(|| missing(key.clone()))?
            }
            By::OrderId(order_id) => {
                let order_id = fields::id("order_id", *order_id)?;
                self.by_order(user_id, (shop_id, order_id)).await?.ok_or_else(|| missing(order_id.to_string()))?
            }
        };
        view(&self.promised(found).await?)
    }

    /// What the coupons take off, each of them and all together.
    async fn price(&self, request: &pb::RedeemRequest, order: &tercet_rules::Order) -> Result<pb::Combination, Fault> {
        let tried = match &*request.coupon_ids {
            // An order without any, and not whatever its user has.
            [] => Vec::new(),
            named => self.try_on(order, request.user_id, named).await?,
        };
        if let Some((coupon_id, fault)) =
            tried.iter().find_map(|tried| Some((tried.coupon_id, tried.verdict.as_ref().err()?)))
        {
            let mut arguments = fault.arguments().clone();
            arguments.entry("coupon_id".to_owned()).or_insert_with(|| coupon_id.to_string());
            return Err(Fault::new(fault.code, arguments));
        }
        let basket = basket(order, &tried);
        let all = Set::first(tried.len());
        if !basket.agree(all) {
            let agreed = (1..=tried.len()).find(|count| !basket.agree(Set::first(*count))).unwrap_or(tried.len());
            return Err(of_coupon(Code::NotStackable, tried[agreed - 1].coupon_id));
        }
        let combination = combination(order, &basket, all);
        if let Some(idle) = combination.deductions.iter().find(|own| own.discount_cents == 0) {
            return Err(of_coupon(Code::NoGain, idle.coupon_id));
        }
        match request.discount_cents {
            Some(shown) if shown != combination.discount_cents => {
                let discount = Cents::new("discount_cents", combination.discount_cents)?;
                Err(Code::AmountChanged.fault([("discount", discount.to_string())]))
            }
            Some(_) | None => Ok(combination),
        }
    }

    /// Writes it down; or the row of its key that somebody else wrote meanwhile.
    async fn written(
        &self,
        request: &pb::RedeemRequest,
        digest: String,
        combination: pb::Combination,
    ) -> Result<Result<Row, (Row, String)>, Fault> {
        let &pb::RedeemRequest { user_id, shop_id, order_id, .. } = request;
        let redemption_id = self.ids.next(Slot::of_user(user_id)).await.map_err(|error| {
            warn!(%error, "no id for a redemption");
            busy()
        })?;
        let now_ms = self.ids.clock_ms().ok_or_else(busy)?;
        let (lines, operator, pay_within_s) = (request.lines.clone(), request.operator.clone(), request.pay_within_s);
        let content = pb::KeptRedemption { lines, combination: Some(combination), operator, pay_within_s };
        let (content, key) = (content.encode_to_vec(), request.idempotency_key.clone());
        let (due_ms, created_ms) = (now_ms + FIRST_DUE_MS, now_ms);
        let kept = Row::kept(redemption_id, user_id, (shop_id, order_id), key);
        let row = Row { digest, content, due_ms, created_ms, ..kept };
        if self.change(user_id, redemption_id, Change::Keep(&row, FIRST_DUE_MS)).await? {
            return Ok(Ok(row));
        }
        let found = self.by_key(user_id, (shop_id, &row.idempotency_key)).await?;
        Ok(Err((found.ok_or_else(busy)?, row.digest)))
    }

    /// Submits what is kept, and tells how it stands then.
    ///
    /// # Errors
    /// Why it came to nothing; [`Code::SystemBusy`] also where it is not kept any longer, and nothing was done.
    pub(super) async fn submit(&self, row: &Row, wanted: For) -> Result<pb::RedemptionView, Fault> {
        if self.is_away() {
            return self.keep(row, wanted).await;
        }
        let plan = match plan(row) {
            Ok(plan) => plan,
            Err(error) => {
                error!(%error, "a redemption is no plan");
                return self.refused(row, busy()).await;
            }
        };
        match self.client.submit(plan, Wait::Ended).await {
            Ok(view) => self.came(row, &view, wanted).await,
            Err(Error::Overloaded { .. }) if wanted == For::Caller => self.forget(row).await,
            Err(Error::Refused(error)) => {
                error!(%error, "a redemption is beyond a limit of the coordinator");
                self.refused(row, busy()).await
            }
            Err(error) => {
                warn!(%error, "a redemption of unknown outcome");
                self.in_doubt(row, wanted).await
            }
        }
    }

    /// What has not ended in time. A participant may be slow, or the coordinator be away: then nobody waits for it for
    /// a while.
    async fn in_doubt(&self, row: &Row, wanted: For) -> Result<pb::RedemptionView, Fault> {
        let key = transaction(row);
        if let Ok(Ok(view)) = tokio::time::timeout(LOOK_TIMEOUT, self.client.find(&key)).await {
            return self.came(row, &view, wanted).await;
        }
        // What it has begun it was there for.
        let now = self.by_key(row.user_id, (row.shop_id, &row.idempotency_key)).await?.ok_or_else(busy)?;
        if now.state != State::Kept {
            return self.again(now, &row.digest).await;
        }
        self.now_away();
        self.keep(row, wanted).await
    }

    /// What became of a transaction, as far as it has come.
    async fn came(&self, row: &Row, view: &View, wanted: For) -> Result<pb::RedemptionView, Fault> {
        match view.outcome() {
            Some(Outcome::Confirmed) => {
                let ended_ms = Some(self.ids.clock_ms().unwrap_or(row.created_ms));
                self::view(&Row { state: State::Done, ended_ms, ..row.clone() })
            }
            Some(Outcome::Cancelled) => match view.refusal() {
                Some(refusal) => {
                    let branches = &view.details().branches;
                    let said = branches.iter().find_map(|branch| Fault::from_reason(&branch.reason));
                    let said = said.or_else(|| Fault::from_reason(&refusal.reason)).unwrap_or_else(|| {
                        // In words that are for people who look after the system.
                        error!(reason = view.reason(), redemption = row.redemption_id, "a redemption is refused");
                        busy()
                    });
                    self.refused(row, said).await
                }
                // It took too long. While it holds the order or a coupon another one would be refused for it, so that
                // waits for a later look.
                None if !view.ended() => self.keep(row, wanted).await,
                None => {
                    let again = Change::Again { attempt: row.attempt, due_after_ms: AGAIN_MS.0 };
                    self.change(row.user_id, row.redemption_id, again).await?;
                    self.keep(row, wanted).await
                }
            },
            None => self::view(&self.promised(Row { state: State::Submitted, ..row.clone() }).await?),
        }
    }

    /// Writes down why its transaction came to nothing: what was promised is owed from then on.
    async fn refused(&self, row: &Row, fault: Fault) -> Result<pb::RedemptionView, Fault> {
        let refuse = Change::Refuse { attempt: row.attempt, refusal: &fault.reason() };
        if self.change(row.user_id, row.redemption_id, refuse).await? && row.is_promised {
            metrics::given_up(metrics::GivenUp::Refused);
        }
        Err(fault)
    }

    /// Leaves it to the job, if there is room for it.
    async fn keep(&self, row: &Row, wanted: For) -> Result<pb::RedemptionView, Fault> {
        if wanted == For::Caller {
            if self.is_past_full(row.user_id) {
                return self.forget(row).await;
            }
            self.kept[self.place(row.user_id)].fetch_add(1, Ordering::Relaxed);
            metrics::kept();
            return view(&self.promised(row.clone()).await?);
        }
        view(row)
    }

    /// What the same key answers again.
    async fn again(&self, row: Row, digest: &str) -> Result<pb::RedemptionView, Fault> {
        if row.digest != digest {
            return Err(Code::KeyReused.fault([]));
        }
        let row = self.promised(row).await?;
        if is_refused(&row) { Err(why(&row)) } else { view(&row) }
    }

    /// As it stands, to be shown: what is under way is promised by that, so nobody forgets it from then on.
    ///
    /// # Errors
    /// [`Code::SystemBusy`] where somebody has forgotten it just now.
    async fn promised(&self, mut row: Row) -> Result<Row, Fault> {
        for _ in 0..LOOKS_MAX {
            if row.is_promised || !matches!(row.state, State::Kept | State::Submitted) {
                return Ok(row);
            }
            if self.change(row.user_id, row.redemption_id, Change::Promise).await? {
                return Ok(Row { is_promised: true, ..row });
            }
            // It has ended, or was forgotten, and perhaps written by another call, which may forget it again.
            row = self.by_key(row.user_id, (row.shop_id, &row.idempotency_key)).await?.ok_or_else(busy)?;
        }
        Err(busy())
    }

    /// Drops what nobody was promised, unless it has begun.
    async fn forget(&self, row: &Row) -> Result<pb::RedemptionView, Fault> {
        if self.change(row.user_id, row.redemption_id, Change::Forget).await? {
            return Err(busy());
        }
        let now = self.by_key(row.user_id, (row.shop_id, &row.idempotency_key)).await?;
        self.again(now.ok_or_else(busy)?, &row.digest).await
    }

    /// Nobody waits for the coordinator for a while.
    pub(super) fn now_away(&self) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn is_away(&self) -> bool {
        let away = *self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.is_some_and(|since| since.elapsed() < AWAY_PAUSE)
    }

    fn is_full(&self, user_id: i64) -> bool {
        self.kept[self.place(user_id)].load(Ordering::Relaxed) >= self.settings.kept_max.into()
    }

    /// The same for one that is written down, and may have been counted.
    fn is_past_full(&self, user_id: i64) -> bool {
        let most = i64::from(self.settings.kept_max);
        most == 0 || self.kept[self.place(user_id)].load(Ordering::Relaxed) > most
    }

    async fn by_key(&self, user_id: i64, key: (i64, &str)) -> Result<Option<Row>, Fault> {
        let mut connection = self.connection(user_id).await?;
        Db::by_key(&mut connection, user_id, key).await.map_err(database)
    }

    pub(super) async fn by_order(&self, user_id: i64, order: (i64, i64)) -> Result<Option<Row>, Fault> {
        let mut connection = self.connection(user_id).await?;
        Db::by_order(&mut connection, user_id, order).await.map_err(database)
    }
}

fn is_refused(row: &Row) -> bool {
    matches!(row.state, State::Refused | State::GivenUp)
}

fn why(row: &Row) -> Fault {
    Fault::from_reason(&row.refusal).unwrap_or_else(busy)
}

pub(super) fn content(row: &Row) -> Result<pb::KeptRedemption, Fault> {
    pb::KeptRedemption::decode(&*row.content).map_err(|error| {
        error!(%error, redemption = row.redemption_id, "a redemption is not what this version writes");
        busy()
    })
}

fn view(row: &Row) -> Result<pb::RedemptionView, Fault> {
    let state = match row.state {
        State::Kept => pb::RedemptionState::Kept,
        State::Submitted => pb::RedemptionState::Submitted,
        State::Done => pb::RedemptionState::Done,
        State::Refused | State::GivenUp => pb::RedemptionState::Refused,
        State::Refunding => pb::RedemptionState::Refunding,
        State::Refunded => pb::RedemptionState::Refunded,
    };
    Ok(pb::RedemptionView {
        idempotency_key: row.idempotency_key.clone(),
        user_id: row.user_id,
        order_id: row.order_id,
        state: state.into(),
        refusal: is_refused(row).then(|| fields::refusal(&why(row))),
        combination: content(row)?.combination,
        created_ms: row.created_ms,
        updated_ms: row.refunded_ms.or(row.ended_ms).unwrap_or(row.created_ms),
    })
}

/// The idempotency key of its transaction.
fn transaction(row: &Row) -> String {
    format!("redeem/{}/{}", row.redemption_id, row.attempt)
}

fn plan(row: &Row) -> anyhow::Result<Plan<Tcc>> {
    let &Row { redemption_id, user_id, shop_id, order_id, attempt, .. } = row;
    let kept = pb::KeptRedemption::decode(&*row.content)?;
    let pb::Combination { deductions, amount_cents, discount_cents } = kept.combination.unwrap_or_default();
    let mut plan = plan::tcc().idempotency_key(transaction(row)).deadline(DEADLINE);
    let honour = HONOUR.with(&pb::Honour { redemption_id, attempt })?;
    plan.branch(honour.business_key(format!("redemption/{redemption_id}")));
    let mut coupons = Vec::with_capacity(deductions.len());
    for pb::Deduction { coupon_id, discount_cents } in deductions {
        let operator = kept.operator.clone();
        let redeem = pb::Redeem { coupon_id, user_id, order_id, amount_cents, discount_cents, shop_id, operator };
        plan.branch(REDEEM.with(&redeem)?.business_key(format!("coupon/{coupon_id}")));
        coupons.push(BasketCoupon { coupon_id, discount_cents });
    }
    let order_key = format!("order/{shop_id}/{order_id}");
    for (item, count) in fields::units(&kept.lines) {
        plan.branch(stock::RESERVE.with(&Reserve { item, count })?.business_key(&order_key));
    }
    let count = kept.lines.iter().map(|line| line.quantity).sum();
    let line = |&pb::OrderLine { product_id, price_cents, quantity, .. }: &pb::OrderLine| Line {
        product_id,
        price_cents,
        quantity,
    };
    let lines = kept.lines.iter().map(line).collect();
    let pay_within_s = kept.pay_within_s.unwrap_or_default();
    let place =
        PlaceBasket { order_id, user_id, count, coupons, amount_cents, discount_cents, lines, shop_id, pay_within_s };
    plan.branch(order::PLACE_BASKET.with(&place)?.business_key(&order_key));
    Ok(plan.build()?)
}
