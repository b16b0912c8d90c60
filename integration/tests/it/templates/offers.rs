//! What users are offered, and the versions that they have had.

use tercet_coupon_template::store::Store;
use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Code, Fault};

use super::{START_MS, Stage, change, create, gray, promote, rules};

/// In pages, and of templates that have ended.
pub(super) async fn offers_and_versions_are_told_whoever_asks<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let (tried, all) = (gray(client, "a").await.template_id, gray(client, "b").await.template_id);
    promote(client, all, 1).await;
    let ask = |user_id, claimable_at_ms, after| pb::ListOffersRequest {
        user_id,
        claimable_at_ms,
        limit: 1,
        after,
        ..pb::ListOffersRequest::default()
    };
    for (user_id, at_ms, wanted) in [(42, START_MS, &[tried, all][..]), (43, START_MS, &[all]), (42, START_MS - 1, &[])]
    {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = client.list_offers(ask(user_id, at_ms, after)).await.expect("a page").into_inner();
            found.extend(page.offers.iter().map(|offer| offer.template_id));
            after = page.next;
            if after.is_empty() {
                break;
            }
        }
        assert_eq!(found, wanted, "{user_id} {at_ms}");
    }
    client.end(pb::EndRequest { template_id: all, change: change(3) }).await.expect("it lives");
    let key = |template_id, version| pb::VersionKey { template_id, version };
    // Nobody has had a draft yet, and what is tried somebody may have.
    let draft = create(client, "c", START_MS).await.template_id;
    let versions = vec![key(all, 1), key(all, 2), key(77_777, 1), key(draft, 1), key(tried, 1)];
    let mut told =
        client.get_versions(pb::GetVersionsRequest { versions }).await.expect("an answer").into_inner().versions;
    told.sort_unstable_by_key(|named| named.template_id);
    let wanted = [tried, all].map(|template_id| {
        let release = Some(pb::Release { version: 1, rules: Some(rules(500, START_MS)) });
        pb::NamedVersion { template_id, name: "新人券".to_owned(), release }
    });
    assert_eq!(told, wanted);
    let twice = pb::GetVersionsRequest { versions: vec![key(all, 1), key(all, 2), key(all, 1)] };
    let status = client.get_versions(twice).await.expect_err("one of them is named again");
    let fault = Fault::from_status(&status).expect("it is of the catalogue");
    assert_eq!((fault.code, fault.argument("field")), (Code::Invalid, Some("versions[2]")));
}
