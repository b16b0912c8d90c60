//! The embedded default: one process, the same outboxes, delivered within it, and killed.

use std::path::Path;

use tercet_integration::processes::{Process, Spec, free_port};
use tercet_proto::coupon_template::v1 as templates;
use tercet_proto::coupon_template::v1::coupon_templates_client::CouponTemplatesClient;
use tercet_proto::log::v1::business_log_client::BusinessLogClient;
use tercet_proto::log::v1::{Entry, SearchRequest};
use tonic::transport::Channel;

use super::stage::eventually;
use crate::templates::create_request;

struct Platform {
    process: Process,
    template: String,
    log: String,
}

impl Platform {
    fn start(folder: &Path) -> Self {
        let spec = Spec::new("platform", "tercet-platform", "tercet-platform", folder).expect("it is built");
        let mut spec = spec.with("--seconds", "0").with("--data", folder.join("data"));
        let mut addresses = Vec::new();
        for flag in
            ["coordinator", "admin", "stock", "coupon", "order", "metrics", "gateway", "template", "business-log"]
        {
            let address = format!("127.0.0.1:{}", free_port().expect("there is one"));
            spec = spec.with(&format!("--{flag}"), &address);
            addresses.push(format!("http://{address}"));
        }
        let process = spec.start().expect("it starts");
        let (log, template) = (addresses.pop().expect("nine"), addresses.pop().expect("nine"));
        Self { process, template, log }
    }

    async fn templates(&mut self) -> CouponTemplatesClient<Channel> {
        let connect = async || {
            self.process.check().expect("it runs");
            CouponTemplatesClient::connect(self.template.clone()).await.ok()
        };
        eventually("the template service answers", connect).await
    }

    /// What is logged of an operator, oldest first.
    async fn logged(&self) -> Vec<Entry> {
        let mut log =
            eventually("the log answers", async || BusinessLogClient::connect(self.log.clone()).await.ok()).await;
        let request = SearchRequest { operator: "ann".into(), limit: 100, ..SearchRequest::default() };
        let mut entries = log.search(request).await.expect("it is sound").into_inner().entries;
        entries.reverse();
        entries
    }
}

#[tokio::test]
async fn what_an_operator_does_is_logged_once_whenever_the_process_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut platform = Platform::start(folder.path());
    for round in 0..4 {
        let mut client = platform.templates().await;
        for at in 0..6 {
            client.create_template(create_request(&format!("{round}/{at}"), 1_000)).await.expect("it is sound");
        }
        // Some are published by now, and some are not.
        platform.process.restart().expect("it starts");
    }
    let mut client = platform.templates().await;
    let request = templates::ListChangesRequest { operator: "ann".into(), limit: 50, ..Default::default() };
    let mut changes = client.list_changes(request).await.expect("a page").into_inner().changes;
    changes.reverse();
    assert_eq!(changes.len(), 24);
    let all = async || Some(platform.logged().await).filter(|entries| entries.len() >= changes.len());
    let entries = eventually("all are logged", all).await;
    let key = |entry: &Entry| (entry.template_id, entry.action.clone(), entry.after.clone());
    let mut found: Vec<_> = entries.iter().map(key).collect();
    found.sort();
    let mut want: Vec<_> = changes
        .iter()
        .map(|change| (change.template_id, format!("template {}", change.action), change.after.clone()))
        .collect();
    want.sort();
    assert_eq!(found, want);
}
