//! The platform as it is deployed: each service a process of its own, on a MariaDB server with as many databases as
//! there are shards, and with Kafka between them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, Connection as _, MySql, MySqlConnection};
use tercet::fence::Dialect as _;
use tercet_coupon::Shards;
use tercet_shards::{SLOTS, ShardMap};

use super::Place;
use super::site::Held;
use crate::host;
use crate::processes::{Coordinator, Process, Spec, free_address};

/// Services that have one database, in this order before those of the shards.
const SINGLE: [&str; 4] = ["stock", "order", "coupon_template", "business_log"];

/// All of it. Killed when it is dropped.
pub(super) struct Sharded {
    pub(super) gateway: SocketAddr,
    coordinator: Coordinator,
    participants: Vec<Process>,
    others: Vec<Process>,
    map: ShardMap,
    databases: Databases,
    /// What moves slots to all databases.
    mover: Spec,
}

/// Databases of this run alone on somebody's server.
struct Databases {
    server: String,
    names: Vec<String>,
}

impl Databases {
    async fn make(server: &str, shards: usize, run: &str) -> anyhow::Result<Self> {
        let own = SINGLE.iter().map(|service| format!("load_{run}_{service}"));
        let names: Vec<_> = own.chain((0..shards).map(|at| format!("load_{run}_coupon_{at}"))).collect();
        let databases = Self { server: server.into(), names };
        databases.each("CREATE DATABASE").await?;
        Ok(databases)
    }

    async fn drop(&self) -> anyhow::Result<()> {
        self.each("DROP DATABASE").await
    }

    async fn each(&self, what: &str) -> anyhow::Result<()> {
        let mut connection = MySqlConnection::connect(&self.server).await.context("the MariaDB server")?;
        for name in &self.names {
            sqlx::raw_sql(AssertSqlSafe(format!("{what} {name}"))).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    /// The URLs of all, those of the shards last.
    fn urls(&self) -> Vec<String> {
        let end = self.server.rfind('/').map_or(self.server.len(), |slash| slash + 1);
        self.names.iter().map(|name| format!("{}{name}", &self.server[..end])).collect()
    }
}

impl Sharded {
    /// Starts it all; logs go to `folder`. Makes the tables of all shards before, since services wait for them no
    /// longer than half a minute.
    ///
    /// # Errors
    /// When a program is not built, or a server does not do its part.
    pub(super) async fn start(
        place: &Place,
        [mariadb, kafka]: [&str; 2],
        folder: &Path,
        jwks: &Path,
        run: &str,
    ) -> anyhow::Result<Self> {
        let all = place.grow_to.unwrap_or(place.databases);
        let databases = Databases::make(mariadb, all, run).await?;
        let urls = databases.urls();
        let (single, sharded) = urls.split_at(SINGLE.len());
        let spread = format!("{all}x{}", place.tables);
        // Slots stay where the first map spreads them.
        for count in [place.databases, all] {
            let map = format!("{count}x{}", place.tables).parse()?;
            let shards = Shards::<MySql>::open(map, &sharded[..count]).await?;
            shards.migrate().await?;
            for pool in shards.pools() {
                pool.close().await;
            }
        }
        let map: ShardMap = spread.parse()?;
        let coordinator = Coordinator::start(folder).await?;
        let sharded = sharded.join(",");
        let mover = Spec::new("slots", "tercet-slots", "tercet-coupon", folder)?.word("move");
        let mover = mover.with("--database", &sharded).with("--shards", &spread);
        let batch_max = place.batch_max.to_string();
        let spec = |name: &str, database: &str| {
            let program = format!("tercet-{}", name.replace('_', "-"));
            let spec = Spec::new(name, &program, &program, folder)?.with("--coordinator", &coordinator.url);
            let spec = spec.with("--database", database).with("--batch-max", &batch_max);
            anyhow::Ok(spec.with("--log-filter", "warn"))
        };
        let prefix = format!("load.{run}.");
        let told = |spec: Spec| spec.with("--kafka", kafka).with("--kafka-prefix", &prefix);
        let mut participants = vec![
            spec("stock", &single[0])?.start()?,
            told(spec("coupon", &sharded)?).with("--shards", &spread).start()?,
            told(spec("order", &single[1])?).start()?,
        ];
        let address = || anyhow::Ok(free_address()?.to_string());
        let [template, log, issuing, redemption, gateway] =
            [address()?, address()?, address()?, address()?, address()?];
        let [templates, issues, redeems, logs] =
            [&template, &issuing, &redemption, &log].map(|address| format!("http://{address}"));
        let of_coupons =
            |name| anyhow::Ok(spec(name, &sharded)?.with("--shards", &spread).with("--templates", &templates));
        let spec_gateway = Spec::new("gateway", "tercet-gateway", "tercet-gateway", folder)?
            .word("serve")
            .with("--listen", &gateway)
            .with("--jwks", jwks)
            .with("--template", &templates)
            .with("--issuing", &issues)
            .with("--redemption", &redeems)
            .with("--business-log", &logs)
            .with("--address-per-second", "0")
            .with("--log-filter", "warn");
        let others = vec![
            told(spec("coupon_template", &single[2])?).with("--listen", &template).start()?,
            told(spec("business_log", &single[3])?).with("--listen", &log).start()?,
            told(of_coupons("issuing")?).with("--listen", &issuing).start()?,
            of_coupons("redemption")?.with("--listen", &redemption).start()?,
            spec_gateway.start()?,
        ];
        coordinator.wait_for(&mut participants).await?;
        Ok(Self { gateway: gateway.parse()?, coordinator, participants, others, map, databases, mover })
    }

    /// Its processes, and the servers where they are on this machine.
    pub(super) fn pids(&self) -> Vec<(String, u32)> {
        let own = self.coordinator.process.iter().chain(&self.participants).chain(&self.others);
        let port = self.databases.server.rsplit(':').next().and_then(|rest| rest.split('/').next()?.parse().ok());
        let mariadb = port.and_then(host::listener).map(|pid| ("mariadb".to_owned(), pid));
        own.map(|process| (process.name().to_owned(), process.pid())).chain(mariadb).collect()
    }

    /// An error when one of them has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        let own = self.coordinator.process.iter_mut().chain(&mut self.participants).chain(&mut self.others);
        own.into_iter().try_for_each(Process::check)
    }

    /// The coordinator.
    pub(super) const fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Moves slots to all databases, and returns what is said of it, line by line.
    pub(super) async fn move_slots(&self) -> anyhow::Result<Vec<String>> {
        let Spec { program, arguments, .. } = self.mover.clone();
        let moved = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).output()).await??;
        ensure!(moved.status.success(), "slots do not move: {}", String::from_utf8_lossy(&moved.stderr));
        Ok(String::from_utf8(moved.stdout)?.lines().map(str::to_owned).collect())
    }

    /// Puts so many rows of transactions that ended into the fences of the databases that have slots at first.
    pub(super) async fn fill_fences(&self, rows: u64, databases: usize) -> anyhow::Result<()> {
        let urls = self.databases.urls();
        for (at, url) in urls[SINGLE.len()..].iter().take(databases).enumerate() {
            let mut connection = MySqlConnection::connect(url).await?;
            let each = rows / databases as u64;
            let sql = format!(
                "INSERT INTO tercet_fence(xid, branch, state, part)
                 SELECT CONCAT(UNHEX(LPAD(HEX(1700000000000 + seq * 10), 12, '0')), LEFT(UNHEX(MD5(seq)), 10)), 1, 2,
                    (seq % {SLOTS}) DIV {databases} * {databases} + {at} FROM seq_1_to_{each}"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
            connection.close().await?;
        }
        Ok(())
    }

    /// What the databases hold.
    pub(super) async fn held(&self) -> anyhow::Result<Held> {
        let urls = self.databases.urls();
        let stock = MySql::open(&urls[0]).await?;
        Held::read(&stock, &Shards::<MySql>::open(self.map.clone(), &urls[SINGLE.len()..]).await?).await
    }

    /// Stops it and drops its databases. The topics of a run stay with the broker.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        drop((self.others, self.participants, self.coordinator));
        self.databases.drop().await
    }
}
