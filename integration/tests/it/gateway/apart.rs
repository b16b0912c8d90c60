//! The services as processes on a real MariaDB, with a real Kafka between them, and a gateway before them.

use std::net::SocketAddr;

use sqlx::{MySql, Pool};
use tempfile::TempDir;
use tercet::fence::Dialect as _;
use tercet_events::event::Topic;
use tercet_events::settings::Kafka;
use tercet_integration::processes::{Coordinator, Process, Spec, free_port};
use tercet_integration::servers;
use tokio::time::{Duration, Instant, sleep};

use super::stage::{Ask, Asks, Keys, Told, send};

/// Databases and tables of the coupons.
const SHARDS: &str = "2x4";

/// All of it. Killed when it is dropped.
pub(super) struct Apart {
    pub(super) keys: Keys,
    pub(super) kafka: Kafka,
    pub(super) coordinator: Coordinator,
    pub(super) issuing: Process,
    /// Of the first database of the coupons.
    pub(super) home: String,
    gateway: SocketAddr,
    _others: Vec<Process>,
    _folder: TempDir,
}

impl Apart {
    /// `None` where there is no MariaDB, or no Kafka.
    pub(super) async fn start() -> Option<Self> {
        let (address, prefix) = servers::kafka()?;
        let mut urls = Vec::new();
        for _ in 0..4 {
            urls.push(servers::mariadb().await.expect("the server answers")?);
        }
        let [stock, template, first, second] = &urls[..] else { panic!("four") };
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        // Few, since each of them costs the broker files.
        let kafka = Kafka { prefix, partitions: Topic::ALL.map(|topic| (topic, 2)).into(), ..Kafka::at(&address) };
        let partitions: Vec<_> = Topic::ALL.iter().map(|topic| format!("{}=2", topic.name())).collect();
        let coordinator = Coordinator::start(at).await.expect("it starts");
        let port = || format!("127.0.0.1:{}", free_port().expect("there is one"));
        let (at_template, at_issuing, gateway) = (port(), port(), port());
        let spec = |name: &str, database: &str| {
            let program = format!("tercet-{name}");
            let spec = Spec::new(name, &program, &program, at).expect("it is built");
            spec.with("--coordinator", &coordinator.url).with("--database", database).with("--log-filter", "warn")
        };
        let told = |spec: Spec| {
            let spec = spec.with("--kafka", &address).with("--kafka-prefix", &kafka.prefix);
            // A consumer of this name has its place back at once when it was killed.
            let name = format!("group.instance.id={}", spec.name);
            spec.with("--kafka-partitions", partitions.join(",")).with("--kafka-option", name)
        };
        let shards = format!("{first},{second}");
        let of_coupons = |name: &str| told(spec(name, &shards)).with("--shards", SHARDS);
        let mut participants =
            vec![spec("stock", stock).start().expect("it starts"), of_coupons("coupon").start().expect("it starts")];
        let template = spec("coupon-template", template).with("--listen", &at_template).start().expect("it starts");
        let issuing = of_coupons("issuing").with("--templates", format!("http://{at_template}"));
        let issuing = issuing.with("--listen", &at_issuing).start().expect("it starts");
        let keys = Keys::new(at.join("jwks.json"), "first");
        let before = Spec::new("gateway", "tercet-gateway", "tercet-gateway", at).expect("it is built").word("serve");
        let before = before.with("--listen", &gateway).with("--jwks", &keys.path).with("--log-filter", "warn");
        let before = before
            .with("--template", format!("http://{at_template}"))
            .with("--issuing", format!("http://{at_issuing}"));
        coordinator.wait_for(&mut participants).await.expect("they have sessions");
        participants.extend([template, before.start().expect("it starts")]);
        let (gateway, home) = (gateway.parse().expect("an address"), first.clone());
        let apart = Self { keys, kafka, coordinator, issuing, home, gateway, _others: participants, _folder: folder };
        apart.ready().await;
        Some(apart)
    }

    async fn ready(&self) {
        let (ann, begun) = (self.keys.operator("ann"), Instant::now());
        for path in ["/v1/operator/templates", "/v1/operator/coupons"] {
            loop {
                let connects = tokio::net::TcpStream::connect(self.gateway).await.is_ok();
                if connects && self.ask(Ask::get(path).by(&ann)).await.status == 200 {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(40), "{path} does not answer");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The first database of the coupons.
    pub(super) async fn home(&self) -> Pool<MySql> {
        MySql::open(&self.home).await.expect("it is there")
    }
}

impl Asks for Apart {
    async fn ask(&self, ask: Ask) -> Told {
        send(self.gateway, ask).await
    }
}
