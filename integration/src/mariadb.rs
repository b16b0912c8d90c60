//! MariaDB servers of a run's own: made, started, killed and started again.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::{Connection as _, MySqlConnection};

use crate::processes::{Process, Spec, free_address};

/// How long a server may take until it answers; after a kill it recovers first.
const READY_MAX: Duration = Duration::from_secs(60);

/// Of its log, which is made once and whole.
const LOG_SIZE: &str = "--innodb-log-file-size=16M";

/// The users' `PATH` may not lead to where a distribution puts servers.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];

/// A server with one database, which has the server's name.
#[derive(Debug)]
pub struct Server {
    /// Its process, called `NAME-db`.
    pub process: Process,
    /// `mysql://…`, the same after every start.
    pub url: String,
}

impl Server {
    /// Starts a server with its data in `folder/NAME-db`. What is there from an earlier one stays.
    ///
    /// # Errors
    /// When MariaDB is not installed, or does not start.
    pub async fn start(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let data = folder.join(format!("{name}-db"));
        if !data.exists() {
            copy(&template(folder)?, &data)?;
        }
        let port = free_address()?.port();
        let spec = Spec {
            name: format!("{name}-db"),
            program: program("mariadbd")?,
            arguments: vec!["--no-defaults".into()],
            environment: Vec::new(),
            log: folder.join(format!("{name}-db.log")),
        };
        let argument = |flag: &str, value: &str| format!("{flag}={value}");
        let mut spec = spec
            .word(&argument("--datadir", &data.to_string_lossy()))
            .word(&argument("--socket", &data.join("socket").to_string_lossy()))
            .word(&argument("--pid-file", &data.join("pid").to_string_lossy()))
            .word(&argument("--port", &port.to_string()))
            .word("--bind-address=127.0.0.1")
            .word("--skip-name-resolve")
            .word("--max-connections=300")
            .word("--innodb-buffer-pool-size=32M")
            .word("--innodb-flush-log-at-trx-commit=1")
            .word(LOG_SIZE);
        if let Some(user) = own_user()? {
            spec = spec.word(user);
        }
        let root = format!("mysql://root@127.0.0.1:{port}/");
        let mut server = Self { process: spec.start()?, url: format!("{root}mysql") };
        let mut connection = server.wait_ready().await?;
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{name}`");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
        server.url = format!("{root}{name}");
        Ok(server)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it has ended, or a minute is not enough.
    pub async fn wait_ready(&mut self) -> anyhow::Result<MySqlConnection> {
        let begun = Instant::now();
        loop {
            let error = match tokio::time::timeout(READY_MAX, MySqlConnection::connect(&self.url)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => bail!("{} does not answer", self.process.name()),
            };
            self.process.check()?;
            if begun.elapsed() > READY_MAX {
                return Err(error).with_context(|| format!("{} does not get ready", self.process.name()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A data folder as the installer leaves it, made once for all servers of `folder`: it takes seconds.
fn template(folder: &Path) -> anyhow::Result<PathBuf> {
    let template = folder.join("mariadb");
    if template.exists() {
        return Ok(template);
    }
    let log = folder.join("mariadb-install.log");
    let status = Command::new(program("mariadb-install-db")?)
        .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", LOG_SIZE])
        .arg(format!("--datadir={}", template.display()))
        .args(own_user()?)
        .stdin(Stdio::null())
        .stdout(File::create(&log)?)
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("mariadb-install-db: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }
    Ok(template)
}

/// A server refuses to be root's unless it is told so; another user it finds out by itself.
fn own_user() -> anyhow::Result<Option<&'static str>> {
    let root = std::fs::metadata("/proc/self")?.uid() == 0;
    Ok(root.then_some("--user=root"))
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let found = PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed: Debian's package is mariadb-server"))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
