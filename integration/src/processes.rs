//! Servers as processes of their own: started, waited for, signalled, measured and ended.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tercet_proto::admin::v1::GetStatisticsRequest;
use tercet_proto::admin::v1::GetStatisticsResponse as Statistics;
use tercet_proto::admin::v1::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};

/// How long a program may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(30);

/// How to start a program, any number of times.
#[derive(Clone, Debug)]
pub struct Spec {
    /// What people call it.
    pub name: String,
    /// The file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// All of its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where its standard error goes, one start after another.
    pub log: PathBuf,
}

impl Spec {
    /// A program that lies beside the one that is running.
    ///
    /// # Errors
    /// When it was not built; the error says how.
    pub fn new(name: &str, program: &str, package: &str, folder: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("the own program can not be found")?;
        // A test's own program lies one folder deeper.
        let folders = own.ancestors().skip(1).take(2);
        let Some(program) = folders.map(|folder| folder.join(program)).find(|path| path.is_file()) else {
            bail!(
                "{program} is not built: run `cargo build --release -p {package}`, or without --release for a debug run"
            )
        };
        let log = folder.join(format!("{name}.log"));
        Ok(Self { name: name.into(), program, arguments: Vec::new(), environment: Vec::new(), log })
    }

    /// Adds a flag and its value.
    #[must_use]
    pub fn with(mut self, flag: &str, value: impl Into<OsString>) -> Self {
        self.arguments.extend([flag.into(), value.into()]);
        self
    }

    /// Adds a word.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.arguments.push(word.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the system does not start it.
    pub fn start(&self) -> anyhow::Result<Process> {
        Ok(Process { spec: self.clone(), child: self.spawn()? })
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        Command::new(&self.program)
            .args(&self.arguments)
            // Settings of the caller's must not reach what is measured.
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", self.program.display()))
    }
}

/// A running program. Killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Child,
}

impl Process {
    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Changes the value of a flag, for when it is started again.
    pub fn change(&mut self, flag: &str, value: impl Into<OsString>) {
        let at = self.spec.arguments.iter().position(|argument| argument == flag);
        if let Some(own) = at.and_then(|at| self.spec.arguments.get_mut(at + 1)) {
            *own = value.into();
        }
    }

    /// Starts another one of the same.
    ///
    /// # Errors
    /// When the system does not start it.
    pub fn twin(&self) -> anyhow::Result<Self> {
        self.spec.start()
    }

    /// Whether it has ended by itself, and well.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> anyhow::Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        // Of one that is gone already there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the same again, after [`Process::kill`].
    ///
    /// # Errors
    /// When the system does not start it.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.child = self.spec.spawn()?;
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When the signal can not be sent.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the signal can not be sent.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The standard library sends SIGKILL only; the shell has the others built in.
        let status = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status()?;
        if status.success() { Ok(()) } else { bail!("SIG{name} did not reach {}", self.name()) }
    }

    /// An error with the end of its log when it has ended by itself.
    ///
    /// # Errors
    /// That one.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.spec.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        let end: Vec<_> = lines.into_iter().rev().collect();
        bail!("{} ended with {status}:\n{}", self.spec.name, end.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports of servers, below those that the system gives to outgoing connections: one that starts again must find its own
/// free.
const PORTS: Range<u16> = 20_000..32_000;
/// How many of them a process takes at a time.
const BLOCK: u16 = 100;

/// The ports that this process hands out.
struct Ports {
    /// Each listens on the first port of a block, by which no other process takes it.
    taken: Vec<TcpListener>,
    left: Range<u16>,
}

impl Ports {
    /// One that was not handed out before, while there are any.
    fn next(&mut self) -> Option<u16> {
        for _ in PORTS {
            match self.left.next() {
                Some(port) if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() => return Some(port),
                Some(_) => (),
                None => self.left = self.take()?,
            }
        }
        None
    }

    /// Another block, or the first once more where all are taken.
    fn take(&mut self) -> Option<Range<u16>> {
        let mut firsts = PORTS.step_by(BLOCK.into());
        let block = |first: u16| first + 1..first + BLOCK;
        if let Some(listener) = firsts.find_map(|first| TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()) {
            let first = listener.local_addr().ok()?.port();
            self.taken.push(listener);
            return Some(block(first));
        }
        Some(block(self.taken.first()?.local_addr().ok()?.port()))
    }
}

/// A port of loopback that nobody listens on, and that nobody else who asks here is given, in this process or another
/// one: two servers that start at a time would else take the same now and then.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static OWN: Mutex<Ports> = Mutex::new(Ports { taken: Vec::new(), left: 0..0 });
    let port = OWN.lock().unwrap_or_else(PoisonError::into_inner).next();
    let port = port.with_context(|| format!("there is no free port from {} to {}", PORTS.start, PORTS.end - 1))?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

/// A coordinator: its own process, or one that was running before.
#[derive(Debug)]
pub struct Coordinator {
    /// `None` when somebody else started it.
    pub process: Option<Process>,
    /// `http://host:port`
    pub url: String,
    admin: AdminClient<Channel>,
}

impl Coordinator {
    /// How to start one with its data in `folder`, and where it listens for participants and for operators.
    ///
    /// # Errors
    /// When the program was not built, or there is no port.
    pub fn spec(folder: &Path) -> anyhow::Result<(Spec, String, String)> {
        let (address, admin) = (free_address()?.to_string(), free_address()?.to_string());
        let spec = Spec::new("coordinator", "tercet", "tercet-coordinator", folder)?
            .word("serve")
            .with("--listen", &address)
            .with("--admin-listen", &admin)
            .with("--data", folder.join("coordinator"))
            // What has ended is looked at afterwards.
            .with("--retention-seconds", "86400")
            .with("--retention-max", "100000000")
            .with("--log-filter", "warn");
        Ok((spec, format!("http://{address}"), format!("http://{admin}")))
    }

    /// Starts one with its data in `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_as(folder, |spec| spec).await
    }

    /// The same, with what `adapt` adds to its settings.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start_as(folder: &Path, adapt: impl FnOnce(Spec) -> Spec) -> anyhow::Result<Self> {
        let (spec, url, admin) = Self::spec(folder)?;
        let spec = adapt(spec);
        let mut coordinator = Self::connect(&url, &admin)?;
        coordinator.process = Some(spec.start()?);
        coordinator.wait_ready().await?;
        Ok(coordinator)
    }

    /// The one at these addresses, each `host:port` or a URL.
    ///
    /// # Errors
    /// When an address can not be read.
    pub fn connect(address: &str, admin: &str) -> anyhow::Result<Self> {
        let url = |text: &str| if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let endpoint = Endpoint::from_shared(url(admin)).with_context(|| format!("the address {admin:?}"))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(5));
        Ok(Self { process: None, url: url(address), admin: AdminClient::new(endpoint.connect_lazy()) })
    }

    /// Waits until it answers, and says how long that took.
    ///
    /// # Errors
    /// When it has ended, or half a minute is not enough.
    pub async fn wait_ready(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let Err(error) = self.statistics().await else { return Ok(begun.elapsed()) };
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if begun.elapsed() > READY_MAX {
                return Err(error.context("the coordinator does not get ready"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until all of these services have a session with it.
    ///
    /// # Errors
    /// When one of the processes has ended, or half a minute is not enough.
    pub async fn wait_for(&self, services: &mut [Process]) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let statistics = self.statistics().await?;
            let here = |name: &str| statistics.participants.iter().any(|participant| participant.service == name);
            if services.iter().all(|service| here(service.name())) {
                return Ok(());
            }
            services.iter_mut().try_for_each(Process::check)?;
            if begun.elapsed() > READY_MAX {
                bail!("of the services only these have a session: {:?}", statistics.participants);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until it drives nothing any more.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn wait_idle(&self, patience: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let live = self.statistics().await?.live;
            if live == 0 {
                return Ok(());
            }
            if begun.elapsed() > patience {
                bail!("{live} transactions have not ended after {patience:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it is doing.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn statistics(&self) -> anyhow::Result<Statistics> {
        let answer = self.admin.clone().get_statistics(GetStatisticsRequest::default()).await;
        Ok(answer.context("the coordinator does not answer")?.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{BLOCK, Ports};

    #[test]
    fn no_port_is_handed_out_twice() {
        let ports = || Ports { taken: Vec::new(), left: 0..0 };
        let (mut one, mut other) = (ports(), ports());
        let handed: Vec<_> = (0..3 * BLOCK).flat_map(|_| [one.next(), other.next()]).collect();
        let different: HashSet<_> = handed.iter().map(|port| port.expect("there is one")).collect();
        assert_eq!(different.len(), handed.len());
    }
}
