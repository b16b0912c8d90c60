//! The units of goods, and the orders that they went to.
//!
//! An order is placed and its units are issued by the confirms of one transaction, whichever comes first; a refund
//! moves the order and gives its units back after that. So what an order that was placed before has is issued or
//! reserved, unless the order was refunded since; and what is issued is in an order that stands, or is about to. While
//! a refund is between its two steps more is issued than orders have, which is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use tercet_platform::flows::template_item;

use super::reader::list;
use super::sums::{Units, broken_units};
use super::{Books, Finding, Suspect};

/// Units of a product in orders.
#[derive(Clone, Copy, Debug, Default)]
struct Sold {
    frozen: i64,
    standing: i64,
    refunded: i64,
}

impl Books {
    /// The units of all goods, or of these.
    pub(super) async fn goods(&mut self, only: Option<&BTreeSet<i64>>) -> anyhow::Result<Vec<Finding>> {
        let before = self.sold(only).await?;
        let mut stock = self.stocked(&format!("item < {}", template_item(0))).await?;
        let after = self.sold(only).await?;
        if let Some(only) = only {
            stock.retain(|product_id, _| only.contains(product_id));
        }
        let products: BTreeSet<i64> = before.keys().chain(stock.keys()).chain(after.keys()).copied().collect();
        let mut findings = Vec::new();
        for product_id in products {
            let of = |sold: &BTreeMap<i64, Sold>| sold.get(&product_id).copied().unwrap_or_default();
            let units = stock.get(&product_id).copied().unwrap_or_default();
            let texts = [broken_units(&units), broken_sales(&units, of(&before), of(&after))];
            let finding = |text: String| Finding {
                suspect: Suspect::Product(product_id),
                text: format!("product {product_id}: {text}"),
            };
            findings.extend(texts.into_iter().flatten().map(finding));
        }
        Ok(findings)
    }

    async fn sold(&mut self, only: Option<&BTreeSet<i64>>) -> anyhow::Result<BTreeMap<i64, Sold>> {
        let only =
            only.map_or_else(|| "item > 0".to_owned(), |only| format!("item IN ({})", list(only.iter().copied())));
        let sum = |statuses| format!("CAST(SUM(CASE WHEN status IN ({statuses}) THEN n ELSE 0 END) AS SIGNED)");
        let (frozen, standing, refunded) = (sum("0"), sum("1, 3"), sum("4"));
        let sql = format!(
            "SELECT item, {frozen}, {standing}, {refunded} FROM (
                SELECT item, status, count AS n FROM orders WHERE item > 0
                UNION ALL SELECT l.product_id AS item, o.status, l.quantity AS n
                FROM basket_line l JOIN orders o ON o.order_id = l.order_id AND o.shop_id = l.shop_id) AS s
             WHERE {only} GROUP BY item"
        );
        let rows = self.order.numbers::<4>(sql).await?;
        let sold = |row: [Option<i64>; 4]| {
            let [product_id, frozen, standing, refunded] = row.map(Option::unwrap_or_default);
            (product_id, Sold { frozen, standing, refunded })
        };
        Ok(rows.into_iter().map(sold).collect())
    }
}

/// `before` and `after` the stock was read.
fn broken_sales(&Units { reserved, issued, .. }: &Units, before: Sold, after: Sold) -> Option<String> {
    let since = (after.refunded - before.refunded).max(0);
    if before.standing - since > reserved + issued {
        let sold = before.standing;
        Some(format!("orders have {sold} units, and {issued} are issued and {reserved} reserved"))
    } else if issued > after.standing + after.frozen + since {
        let sold = after.standing + after.frozen;
        Some(format!("{issued} units are issued, and orders have {sold}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_orders_have_is_issued_and_nothing_else() {
        let units = |reserved, issued| Units { total: 100, free: 100 - reserved - issued, reserved, issued };
        let sold = |frozen, standing, refunded| Sold { frozen, standing, refunded };
        let still = sold(0, 7, 2);
        assert_eq!(broken_sales(&units(0, 7), still, still), None);
        assert!(broken_sales(&units(0, 6), still, still).is_some(), "one is free again");
        assert!(broken_sales(&units(0, 8), still, still).is_some(), "one went nowhere");
        // One is being placed, and another was refunded between the looks.
        assert_eq!(broken_sales(&units(1, 6), sold(1, 7, 2), sold(1, 6, 3)), None);
        assert_eq!(broken_sales(&units(0, 8), sold(1, 7, 2), sold(0, 8, 2)), None);
    }
}
