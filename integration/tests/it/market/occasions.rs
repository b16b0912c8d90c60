//! An occasion in the market: users register while everything is killed in turn, and are told of twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tercet_proto::coupon::v1 as pb;
use tercet_proto::coupon::v1::issuing_client::IssuingClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Between two who register.
const PAUSE: Duration = Duration::from_millis(100);
/// Far from those who claim.
const FIRST: i64 = 1_000_000;

pub(super) struct Welcome {
    issuing: IssuingClient<Channel>,
    occasion_id: i64,
    stop: Arc<AtomicBool>,
    told: JoinHandle<u64>,
}

impl Welcome {
    /// From now on whoever registers gets two coupons of the template, and somebody always does.
    pub(super) async fn start(mut issuing: IssuingClient<Channel>, template_id: i64) -> Self {
        let request = pb::CreateOccasionRequest {
            on: Some(pb::create_occasion_request::On::Registered(pb::OnRegistered::default())),
            template_id,
            coupons_per_user: 2,
            operator: "ann".into(),
            reason: "welcome".into(),
            idempotency_key: "welcome".into(),
        };
        let begun = Instant::now();
        let occasion_id = loop {
            // It may not listen yet.
            match issuing.create_occasion(request.clone()).await {
                Ok(made) => break made.into_inner().occasion.expect("an occasion").occasion_id,
                Err(status) => assert!(begun.elapsed() < Duration::from_secs(30), "{status}"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let stop = Arc::new(AtomicBool::new(false));
        let told = tokio::spawn(tell(issuing.clone(), Arc::clone(&stop)));
        Self { issuing, occasion_id, stop, told }
    }

    /// Nobody registers any more: waits until everybody has his.
    pub(super) async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let users = self.told.await.expect("it does not panic");
        assert!(users > 0);
        let begun = Instant::now();
        loop {
            let request = pb::GetOccasionRequest { occasion_id: self.occasion_id };
            let found = self.issuing.get_occasion(request).await;
            let counts = found.ok().and_then(|found| found.into_inner().occasion);
            let counts = counts.map(|own| (own.users, own.given, own.refused));
            if counts == Some((users, users, 0)) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(90), "{users} users: {counts:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Returns how many have registered.
async fn tell(mut issuing: IssuingClient<Channel>, stop: Arc<AtomicBool>) -> u64 {
    let mut users = 0;
    while !stop.load(Ordering::SeqCst) {
        let user_id = FIRST + i64::try_from(users).expect("they are few");
        let request = pb::TellRegisteredRequest { user_id, groups: Vec::new(), operator: "signup".into() };
        // Whoever is told nothing tells it again: at least twice.
        let mut times = 0;
        while times < 2 {
            times += u32::from(issuing.tell_registered(request.clone()).await.is_ok());
            tokio::time::sleep(PAUSE).await;
        }
        users += 1;
    }
    users
}
