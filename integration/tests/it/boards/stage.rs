//! A coordinator in trouble: of its participants one is well, one falters, one is gone, one refuses what it may not,
//! one hangs, one answers nothing any more, and of one somebody has changed a row. A gateway whose services are gone.
//! And a whole platform that is well, with users who claim coupons.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::Sqlite;
use tercet::action::{Action, Message, Tcc};
use tercet::client::{Client, Options, Wait};
use tercet::fence::Dialect as _;
use tercet::plan;
use tercet_gateway::token::{self, Bearer, Role};
use tercet_integration::noop::{self, HOLD, NOTHING, STEP};
use tercet_integration::platform::Platform;
use tercet_integration::processes::{Coordinator, Process, Spec, free_address};
use tercet_proto::stock::v1::Reserve as Nothing;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Refuses every confirm.
const REFUSED: Action<Tcc, Nothing> = Action::tcc("d", "hold");
/// Its service hangs.
const HUNG: Action<Tcc, Nothing> = Action::tcc("e", "hold");
/// Its service is gone.
const MISSED: Action<Message, Nothing> = Action::message("c", "tell");

/// Servers, and somebody who begins transactions all the time.
pub(super) struct Stage {
    /// Where the coordinator shows its metrics.
    pub(super) metrics: SocketAddr,
    /// And where the gateway shows its own.
    pub(super) gateway_metrics: SocketAddr,
    /// And the platform.
    pub(super) platform_metrics: SocketAddr,
    _platform: Platform,
    coordinator: Coordinator,
    _participants: Vec<Process>,
    stop: watch::Sender<bool>,
    load: JoinHandle<anyhow::Result<()>>,
}

impl Stage {
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let metrics = free_address()?;
        let coordinator = Coordinator::start_as(folder, |spec| spec.with("--metrics", metrics.to_string())).await?;
        let start = |(service, habit): (&str, &str)| {
            let spec = noop::spec("load", folder, &coordinator.url, &[service], false)?;
            spec.with("--habit", habit).start()
        };
        let habits = [("a", "agrees"), ("b", "falters"), ("d", "refuses"), ("e", "hangs"), ("c", "agrees")];
        let mut participants: Vec<_> = habits.into_iter().map(start).collect::<Result<_, _>>()?;
        participants.insert(0, stock(folder, &coordinator.url).await?);
        participants.insert(0, silent(folder, &coordinator.url)?);
        coordinator.wait_for(&mut participants).await?;
        drop(participants.pop());
        let (gateway, process) = Gateway::start(folder).await?;
        participants.push(process);
        let gateway_metrics = gateway.metrics;
        let (platform, users) = platform(&folder.join("platform")).await?;
        participants.push(users);
        let (stop, stopped) = watch::channel(false);
        let platform_metrics = platform.addresses.metrics;
        let well =
            Gateway::of(&std::fs::read_to_string(platform.jwks())?, platform.addresses.gateway, platform_metrics)?;
        let load = tokio::spawn(load(coordinator.url.clone(), gateway, well, stopped));
        Ok(Self {
            metrics,
            gateway_metrics,
            platform_metrics,
            _platform: platform,
            coordinator,
            _participants: participants,
            stop,
            load,
        })
    }

    /// Branches that wait for a person, as operators are told.
    pub(super) async fn parked(&self) -> anyhow::Result<u64> {
        Ok(self.coordinator.statistics().await?.compensations_failed)
    }

    /// Ends it.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.send(true).context("the load has ended")?;
        self.load.await?
    }
}

/// A gateway and somebody who asks it.
struct Gateway {
    listen: SocketAddr,
    metrics: SocketAddr,
    user: String,
    shop: String,
    consent: String,
}

/// A token by these keys.
fn mint(keys: &str, role: Role, subject: &str, shop_id: Option<i64>) -> anyhow::Result<String> {
    let bearer = Bearer {
        role,
        subject: subject.to_owned(),
        shop_id,
        order_id: None,
        groups: Vec::new(),
        issuer: None,
        audience: None,
    };
    Ok(token::mint(keys.as_bytes(), bearer, Duration::from_secs(3_600))?)
}

impl Gateway {
    fn of(keys: &str, listen: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Self> {
        let (user, shop) = (mint(keys, Role::User, "42", None)?, mint(keys, Role::Shop, "bob", Some(1))?);
        Ok(Self { listen, metrics, user, shop, consent: mint(keys, Role::User, "42", Some(1))? })
    }

    async fn start(folder: &Path) -> anyhow::Result<(Self, Process)> {
        let (listen, metrics) = (free_address()?, free_address()?);
        let nowhere = format!("http://{}", free_address()?);
        let (keys, jwks) = (token::new_keys("first")?, folder.join("jwks.json"));
        std::fs::write(&jwks, &keys)?;
        let spec = Spec::new("gateway", "tercet-gateway", "tercet-gateway", folder)?.word("serve");
        let services = ["--template", "--issuing", "--redemption"];
        let spec = services.into_iter().fold(spec.with("--jwks", jwks), |spec, service| spec.with(service, &nowhere));
        let spec = spec.with("--listen", listen.to_string()).with("--metrics", metrics.to_string());
        let mut process = spec.with("--claims-per-minute", "0").start()?;
        while TcpStream::connect(listen).await.is_err() {
            process.check()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok((Self::of(&keys, listen, metrics)?, process))
    }

    /// A claim and a redemption, which nobody can carry out.
    async fn refused(&self) -> anyhow::Result<()> {
        let lines = r#"[{"product_id":"1","category_id":"1","shop_id":"1","price_cents":1,"quantity":1}]"#;
        let redemption = format!(r#"{{"order_id":"1","coupon_ids":["1"],"lines":{lines}}}"#);
        self.post("/v1/coupons", &self.user, r#"{"template_id":"7"}"#).await?;
        self.post("/v1/shop/redemptions", &self.shop, &redemption).await
    }

    async fn post(&self, path: &str, token: &str, body: &str) -> anyhow::Result<()> {
        let told = self.ask("POST", path, token, body).await?;
        anyhow::ensure!(told.starts_with("HTTP/1.1 503 ") && told.contains("SYSTEM_BUSY"), "{told}");
        Ok(())
    }

    /// A redemption that there is not, which its service says.
    async fn missing(&self) -> anyhow::Result<()> {
        let told = self.ask("GET", "/v1/shops/1/orders/404/redemption", &self.user, "").await?;
        anyhow::ensure!(told.starts_with("HTTP/1.1 404 ") && told.contains("NOT_FOUND"), "{told}");
        Ok(())
    }

    async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> anyhow::Result<String> {
        let consent = &self.consent;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}");
        let kind =
            format!("content-type: application/json\r\nidempotency-key: k\r\nx-user-authorization: Bearer {consent}");
        let text = format!("{head}\r\n{kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut socket = TcpStream::connect(self.listen).await?;
        socket.write_all(text.as_bytes()).await?;
        let mut told = String::new();
        socket.read_to_string(&mut told).await?;
        Ok(told)
    }
}

/// A platform, and somebody who claims coupons there all the time.
async fn platform(folder: &Path) -> anyhow::Result<(Platform, Process)> {
    std::fs::create_dir(folder)?;
    let platform = Platform::start(folder, &[]).await?;
    let spec = Spec::new("users", "load", "tercet-integration", folder)?.word("claims");
    let spec = spec.with("--gateway", platform.addresses.gateway.to_string()).with("--jwks", platform.jwks());
    let spec = spec.with("--rate", "20").with("--users", "200").with("--warmup", "0").with("--seconds", "600");
    Ok((platform, spec.start()?))
}

/// The stock service, one of whose units somebody has taken by hand.
async fn stock(folder: &Path, coordinator: &str) -> anyhow::Result<Process> {
    let url = format!("sqlite://{}", folder.join("stock.db").display());
    let pool = Sqlite::open(&url).await?;
    drop(tercet_stock::service(pool.clone(), None).await?);
    tercet_stock::seed(&pool, &[(1, 100)]).await?;
    sqlx::raw_sql("UPDATE stock SET free = free - 1, issued = issued + 1 WHERE item = 1").execute(&pool).await?;
    pool.close().await;
    let spec = Spec::new(tercet_stock::SERVICE, "tercet-stock", "tercet-stock", folder)?;
    spec.with("--coordinator", coordinator).with("--database", url).start()
}

/// Answers heartbeats and no call.
fn silent(folder: &Path, coordinator: &str) -> anyhow::Result<Process> {
    let spec = Spec::new("f", "load", "tercet-integration", folder)?.word("rogue").with("--coordinator", coordinator);
    spec.with("--service", "f").with("--how", "silent").start()
}

/// Some of everything, some fifty times a second.
async fn load(
    url: String,
    gateway: Gateway,
    platform: Gateway,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let client = Client::connect([url], Options::default())?;
    for turn in 0_u64.. {
        gateway.refused().await?;
        platform.missing().await?;
        let [well, falters, gone] = &HOLD;
        let mut held = plan::tcc();
        held.branch(well.with(&NOTHING)?);
        held.branch(falters.with(&NOTHING)?);
        client.submit(held.build()?, Wait::Accepted).await?;
        match turn % 8 {
            1 => {
                let mut refused = plan::tcc();
                refused.branch(REFUSED.with(&NOTHING)?);
                client.submit(refused.build()?, Wait::Accepted).await?;
            }
            3 => {
                let mut missed = plan::message();
                missed.branch(MISSED.with(&NOTHING)?);
                client.submit(missed.build()?, Wait::Accepted).await?;
            }
            5 => {
                let mut late = plan::tcc().deadline(Duration::from_millis(300));
                late.branch(well.with(&NOTHING)?);
                late.branch(gone.with(&NOTHING)?);
                client.submit(late.build()?, Wait::Accepted).await?;
            }
            // Refused once it is known to hang.
            6 => {
                let mut hung = plan::tcc().deadline(Duration::from_secs(5));
                hung.branch(HUNG.with(&NOTHING)?);
                drop(client.submit(hung.build()?, Wait::Accepted).await);
            }
            7 => {
                let mut steps = plan::saga();
                steps.branch(STEP[0].with(&NOTHING)?);
                client.submit(steps.build()?, Wait::Accepted).await?;
            }
            _ => {}
        }
        if tokio::time::timeout(Duration::from_millis(20), stopped.changed()).await.is_ok() {
            break;
        }
    }
    Ok(())
}
