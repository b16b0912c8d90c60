//! Requests of every method to both ports of a running coordinator.

use std::cell::RefCell;
use std::time::Duration;

use tercet_testing::Coordinator;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::fuzz;
use super::schema::{Choices, Method, Schema};
use crate::api::garbage::Raw;

/// For an answer. What waits for participants that never come has none.
const ANSWER_MAX: Duration = Duration::from_millis(20);

/// What it was refused with, if it was.
async fn call(channel: &Channel, method: &Method, bytes: Vec<u8>) -> Option<Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("it takes connections");
    let path = method.path.parse().expect("it is a path");
    let answers = async {
        let answer = grpc.streaming(tonic::Request::new(tokio_stream::once(bytes.into())), path, Raw).await?;
        let mut answers = answer.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(ANSWER_MAX, answers).await.ok()?.err()
}

fn check(method: &Method, refused: &Status) {
    let path = &method.path;
    match refused.code() {
        Code::InvalidArgument if path.contains("Sessions") => assert!(!refused.message().is_empty(), "{path}"),
        Code::InvalidArgument => {
            let fields = refused.get_details_bad_request().map_or_else(Vec::new, |all| all.field_violations);
            assert!(!fields.is_empty(), "{path}: {refused:?}");
            assert!(
                fields.iter().all(|one| !one.field.is_empty() && !one.description.is_empty()),
                "{path}: {refused:?}"
            );
        }
        // Not even a message; it says where.
        Code::Internal => assert!(refused.message().contains("failed to decode"), "{path}: {refused:?}"),
        Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::ResourceExhausted
        | Code::DeadlineExceeded => assert!(!refused.message().is_empty(), "{path}"),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => panic!("{path}: {refused:?}"),
    }
}

/// A coordinator, and the ways to its ports.
struct World {
    _coordinator: Coordinator,
    public: Channel,
    admin: Channel,
}

impl World {
    async fn start() -> Self {
        let connect = |url: String| Endpoint::from_shared(url).expect("it is a URL").connect_lazy();
        let coordinator = Coordinator::start().await;
        let (public, admin) = (connect(coordinator.url()), connect(coordinator.admin_url()));
        Self { _coordinator: coordinator, public, admin }
    }

    fn channel(&self, method: &Method) -> &Channel {
        if method.path.contains(".admin.") { &self.admin } else { &self.public }
    }
}

#[test]
fn every_method_takes_everything() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let schema = Schema::load();
    let methods: Vec<_> = schema.methods.iter().filter(|method| served(method)).collect();
    assert!(methods.len() > 25, "all of them");
    let world = RefCell::new(runtime.block_on(World::start()));
    fuzz(8, |choices: &mut Choices<'_>| {
        let method = methods[choices.below(methods.len())];
        let mut bytes = schema.message(&method.input, choices);
        if choices.below(2) == 1 {
            bytes = choices.mutate(bytes);
        }
        let refused = runtime.block_on(call(world.borrow().channel(method), method, bytes));
        if let Some(refused) = refused {
            check(method, &refused);
        } else if ["/Drain", "/SetLimit"].iter().any(|name| method.path.ends_with(name)) {
            // One that drains, or takes next to nothing, would refuse the rest for that.
            world.replace(runtime.block_on(World::start()));
        }
    });
    let method = methods.iter().find(|method| method.path.ends_with("/GetStatistics")).expect("it is one of them");
    let alive = runtime.block_on(call(world.borrow().channel(method), method, Vec::new()));
    assert!(alive.is_none(), "{alive:?}");
}

/// Not the services of the coupon platform.
fn served(method: &Method) -> bool {
    ["coordinator", "participant", "admin"]
        .iter()
        .any(|package| method.path.starts_with(&format!("/tercet.{package}.")))
}
