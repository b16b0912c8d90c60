//! Templates that are paused while a version of them is tried.

use tercet_coupon_template::store::Store;
use tercet_proto::coupon_template::v1 as pb;
use tercet_rules::{Code, Refusal};

use super::{START_MS, Stage, change, code, gray, promote, roll_back, rules, start_gray, versions};

pub(super) async fn what_is_tried_is_paused_and_goes_on_as_it_was<Db: Store>(mut stage: Stage<Db>) {
    let client = &mut stage.client;
    let mut tried = gray(client, "a").await;
    let template_id = tried.template_id;
    // The first version alone, and then the second beside it.
    for wanted in [[Ok(1), Err(Refusal::NotOffered)], [Ok(2), Ok(1)]] {
        assert_eq!(versions(client, template_id).await, wanted);
        let request = pb::PauseRequest { template_id, change: change(tried.revision) };
        let paused = client.pause(request).await.expect("it is tried").into_inner().template.expect("a template");
        assert_eq!((paused.status(), &paused.audience), (pb::Status::Paused, &tried.audience));
        assert_eq!(versions(client, template_id).await, [Err(Refusal::Paused); 2], "nobody gets any");
        let written = Some(rules(1, START_MS));
        let set = pb::SetRulesRequest { template_id, rules: written, change: change(paused.revision) };
        assert_eq!(code(client.set_rules(set).await), Code::NotAllowed, "users have it");
        let request = pb::ResumeRequest { template_id, change: change(paused.revision) };
        let resumed = client.resume(request).await.expect("it is paused").into_inner().template.expect("a template");
        let pb::Template { revision, updated_ms, .. } = resumed;
        assert_eq!(resumed, pb::Template { revision, updated_ms, ..tried.clone() });
        assert_eq!(versions(client, template_id).await, wanted);
        if tried.live_version == 0 {
            let (published, _) = promote(client, template_id, 1).await;
            let rules = Some(rules(600, START_MS));
            let set = pb::SetRulesRequest { template_id, rules, change: change(published.revision) };
            let second = client.set_rules(set).await.expect("published").into_inner().template.expect("a template");
            tried = start_gray(client, &second).await;
        }
    }
    // What is at fault may be dropped while it is paused, and the other one goes on.
    let found = client.get_template(pb::GetTemplateRequest { template_id }).await.expect("it exists").into_inner();
    let revision = found.template.expect("a template").revision;
    client.pause(pb::PauseRequest { template_id, change: change(revision) }).await.expect("it is tried");
    let (dropped, _) = roll_back(client, template_id, 2).await;
    assert_eq!((dropped.status(), dropped.audience.is_none()), (pb::Status::Paused, true));
    let request = pb::ResumeRequest { template_id, change: change(dropped.revision) };
    client.resume(request).await.expect("it is paused");
    assert_eq!(versions(client, template_id).await, [Ok(1), Ok(1)]);
}
