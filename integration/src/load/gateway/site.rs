//! Where requests go: servers of this run, or a gateway that runs already.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use sqlx::{Pool, Sqlite};
use tempfile::TempDir;
use tercet::fence::Dialect as _;
use tercet::service::BATCH_CALLS_MAX;
use tercet_coupon::Shards;
use tercet_gateway::token::{self, Bearer, Role};
use tercet_rules::limits::CENTS_MAX;
use tokio::time::Instant;

use super::http::Http;
use super::sharded::Sharded;
use crate::host;
use crate::platform::Platform;

/// How long tokens last: longer than any run.
const TOKENS_LAST: Duration = Duration::from_secs(86_400);

/// For services that connect, and for what is under way when the time is up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most users and coupons of one batch.
const BATCH_USERS: u64 = 50_000;
const BATCH_COUPONS: u64 = 1_000_000;

/// Where it is.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// A gateway that runs already, host:port; else the embedded default is started, in a folder of its own
    #[arg(long, requires = "jwks", conflicts_with = "mariadb")]
    pub gateway: Option<SocketAddr>,
    /// The keys that sign the tokens of its users, a file with a secret
    #[arg(long, requires = "gateway")]
    pub jwks: Option<PathBuf>,
    /// A MariaDB server, such as mysql://root@127.0.0.1:3306/mysql: each service is a process of its own, with
    /// databases of this run there
    #[arg(long, requires = "kafka")]
    pub mariadb: Option<String>,
    /// The broker that events of these services go through, host:port
    #[arg(long, requires = "mariadb")]
    pub kafka: Option<String>,
    /// Databases that users are spread over there
    #[arg(long, requires = "mariadb", default_value_t = 10)]
    pub databases: usize,
    /// Tables of users' coupons in each of them
    #[arg(long, requires = "mariadb", default_value_t = 100)]
    pub tables: usize,
    /// Most calls of the coordinator that a service executes in one local transaction: with 1, nothing goes in batches
    #[arg(long, default_value_t = BATCH_CALLS_MAX, conflicts_with = "gateway",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_CALLS_MAX)))]
    pub batch_max: u32,
    /// Databases that users are spread over in the end.
    #[arg(skip)]
    pub grow_to: Option<usize>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            gateway: None,
            jwks: None,
            mariadb: None,
            kafka: None,
            databases: 10,
            tables: 100,
            batch_max: BATCH_CALLS_MAX,
            grow_to: None,
        }
    }
}

enum Servers {
    Embedded(Box<Platform>),
    Apart(Box<Sharded>),
    Elsewhere(SocketAddr),
}

/// All of it. What was started is killed when it is dropped.
pub(super) struct Site {
    pub(super) http: Http,
    servers: Servers,
    keys: String,
    operator: String,
    /// Sets what this run makes apart from what others made on the same servers.
    run: String,
    _folder: TempDir,
}

/// What the services hold when nothing is under way.
pub(super) struct Held {
    pub(super) stock: tercet_stock::store::Totals,
    pub(super) coupons: tercet_coupon::store::Totals,
}

impl Held {
    pub(super) async fn read<Db: tercet_stock::store::Store + tercet_coupon::store::Store>(
        stock: &Pool<Db>,
        shards: &Shards<Db>,
    ) -> anyhow::Result<Self> {
        Ok(Self { stock: tercet_stock::audit(stock).await?, coupons: tercet_coupon::audit(shards).await? })
    }
}

impl Site {
    /// Starts what has to be started, and waits until it answers.
    ///
    /// # Errors
    /// When a server does not get ready.
    pub(super) async fn start(place: &Place) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let run = format!("{:08x}", RandomState::new().hash_one(0) as u32);
        let mut jwks = folder.path().join("jwks.json");
        let (servers, gateway) = match (place.gateway, &place.mariadb, &place.kafka) {
            (Some(gateway), ..) => {
                jwks = place.jwks.clone().context("--jwks is missing")?;
                (Servers::Elsewhere(gateway), gateway)
            }
            (None, Some(mariadb), Some(kafka)) => {
                std::fs::write(&jwks, token::new_keys("load")?)?;
                let sharded = Sharded::start(place, [mariadb, kafka], folder.path(), &jwks, &run).await?;
                let gateway = sharded.gateway;
                (Servers::Apart(Box::new(sharded)), gateway)
            }
            (None, ..) => {
                let batch_max = place.batch_max.to_string();
                let platform = Platform::start(folder.path(), &["--batch-max", &batch_max]).await?;
                let gateway = platform.addresses.gateway;
                (Servers::Embedded(Box::new(platform)), gateway)
            }
        };
        let keys = std::fs::read_to_string(&jwks).with_context(|| jwks.display().to_string())?;
        let operator = bearer(&keys, Role::Operator, "load")?;
        let mut site = Self { http: Http::new(gateway), servers, keys, operator, run, _folder: folder };
        site.wait_ready().await?;
        Ok(site)
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for path in ["/v1/operator/templates?limit=1", "/v1/operator/coupons?limit=1"] {
            loop {
                let answer = self.http.get(path, &self.operator).await;
                let Err(error) = answer.and_then(|answer| answer.good()) else { break };
                self.check()?;
                if begun.elapsed() > PATIENCE {
                    return Err(error.context("the services do not get ready"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The header of a user's token.
    pub(super) fn user(&self, user_id: u64) -> anyhow::Result<String> {
        bearer(&self.keys, Role::User, &user_id.to_string())
    }

    /// A template that everyone may claim, with so many coupons in all and for each user, each good for a yuan.
    pub(super) async fn publish(&self, name: &str, coupons: u64, per_user: u64) -> anyhow::Result<String> {
        let (discount, stacking) = (json!({ "universal": { "off_cents": 100 } }), json!({ "alone": {} }));
        self.publish_as(name, [coupons, per_user], &discount, &stacking).await
    }

    /// The same, with what its coupons take off and beside which they are used.
    pub(super) async fn publish_as(
        &self,
        name: &str,
        [coupons, per_user]: [u64; 2],
        discount: &Value,
        stacking: &Value,
    ) -> anyhow::Result<String> {
        let rules = json!({
            "discount": discount,
            "validity": { "utc_offset_minutes": 480, "days_from_claim": 7 },
            "scope": { "all": {} },
            "quota": { "per_user": per_user, "per_user_day": per_user },
            "stacking": stacking,
            "budget": { "coupons": coupons, "cents": CENTS_MAX },
            "claim": { "start_ms": 1, "end_ms": 32_503_680_000_000_i64 },
        });
        let (templates, key) = ("/v1/operator/templates".to_owned(), format!("{} {name}", self.run));
        let change = json!({ "reason": "load" });
        let made = json!({ "name": name, "rules": rules, "change": change });
        let made = self.order(&templates, Some(&key), &made).await?;
        let id = made["template"]["template_id"].as_str().context("a template has an id")?.to_owned();
        let change = json!({ "expected_revision": 1, "reason": "load" });
        let gray = json!({ "audience": { "basis_points": 10_000 }, "change": change });
        self.order(&format!("{templates}/{id}/gray"), None, &gray).await?;
        let promote = json!({ "change": { "reason": "load" } });
        self.order(&format!("{templates}/{id}/versions/1/promote"), None, &promote).await?;
        Ok(id)
    }

    async fn order(&self, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<Value> {
        self.http.post(path, &self.operator, key, &body.to_string()).await?.good()
    }

    /// Issues so many coupons of the template to each of the users from 1 to this, in as many batches as it takes. Says
    /// how long each of them took.
    pub(super) async fn issue(&self, template: &str, users: u64, each: u64) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        let size = BATCH_USERS.min(BATCH_COUPONS / each.max(1)).max(1);
        for first in (1..=users).step_by(size as usize) {
            let batch_users = first..=users.min(first + size - 1);
            let coupons = each * (batch_users.end() - first + 1);
            let user_ids: Vec<_> = batch_users.map(|user_id| user_id.to_string()).collect();
            let batch = json!({
                "batch_id": format!("{} {template} {first}", self.run),
                "template_id": template,
                "user_ids": user_ids,
                "coupons_per_user": each,
                "reason": "load",
            });
            let (body, begun) = (batch.to_string(), Instant::now());
            let answer = self.http.post("/v1/operator/batches", &self.operator, None, &body).await?;
            let last = answer.body.rsplit(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
            let told: Value = serde_json::from_slice(last).unwrap_or_default();
            if told["state"] != "done" || told["issued"] != coupons {
                bail!("a batch did not come to its end: {} {}", answer.status, String::from_utf8_lossy(last));
            }
            took.push(begun.elapsed());
        }
        Ok(took)
    }

    /// The processes that do the work, as far as they are on this machine.
    pub(super) fn pids(&self) -> Vec<(String, u32)> {
        match &self.servers {
            Servers::Embedded(platform) => vec![("platform".into(), platform.process.pid())],
            Servers::Apart(sharded) => sharded.pids(),
            Servers::Elsewhere(address) => {
                host::listener(address.port()).map(|pid| ("gateway".to_owned(), pid)).into_iter().collect()
            }
        }
    }

    /// In words.
    pub(super) fn name(&self, place: &Place) -> String {
        let name = match &self.servers {
            Servers::Embedded(_) => "embedded default".into(),
            Servers::Apart(_) => format!("MariaDB {}x{} and Kafka", place.databases, place.tables),
            Servers::Elsewhere(address) => address.to_string(),
        };
        match place.batch_max {
            BATCH_CALLS_MAX => name,
            most => format!("{name}, batches of at most {most}"),
        }
    }

    /// The services, where each is a process of its own.
    pub(super) const fn sharded(&self) -> Option<&Sharded> {
        match &self.servers {
            Servers::Apart(sharded) => Some(sharded),
            Servers::Embedded(_) | Servers::Elsewhere(_) => None,
        }
    }

    /// An error when one of the servers has ended.
    ///
    /// # Errors
    /// That one.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match &mut self.servers {
            Servers::Embedded(platform) => platform.process.check(),
            Servers::Apart(sharded) => sharded.check(),
            Servers::Elsewhere(_) => Ok(()),
        }
    }

    /// What the services hold once nothing is under way; `None` where it is not this run alone that they work for.
    ///
    /// # Errors
    /// When something does not end, or a database does not answer.
    pub(super) async fn held(&self) -> anyhow::Result<Option<Held>> {
        match &self.servers {
            Servers::Embedded(platform) => {
                platform.coordinator.wait_idle(PATIENCE).await?;
                let stock = Sqlite::open(&platform.database(tercet_stock::SERVICE)).await?;
                let coupons = Sqlite::open(&platform.database(tercet_coupon::SERVICE)).await?;
                Ok(Some(Held::read(&stock, &Shards::one(coupons)).await?))
            }
            Servers::Apart(sharded) => {
                sharded.coordinator().wait_idle(PATIENCE).await?;
                Ok(Some(sharded.held().await?))
            }
            Servers::Elsewhere(_) => Ok(None),
        }
    }

    /// Stops what was started, and takes back what it left on somebody's servers.
    ///
    /// # Errors
    /// When the databases can not be dropped.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self.servers {
            Servers::Apart(sharded) => sharded.end().await,
            Servers::Embedded(_) | Servers::Elsewhere(_) => Ok(()),
        }
    }
}

fn bearer(keys: &str, role: Role, subject: &str) -> anyhow::Result<String> {
    let subject = subject.to_owned();
    let bearer =
        Bearer { role, subject, shop_id: None, order_id: None, groups: Vec::new(), issuer: None, audience: None };
    let token = token::mint(keys.as_bytes(), bearer, TOKENS_LAST)?;
    Ok(format!("Bearer {token}"))
}
