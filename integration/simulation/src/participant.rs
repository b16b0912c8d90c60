//! Participants: processes with the SDK's executor, and so its fence, on their service's database. They hold a session
//! with the coordinator that runs, crash, freeze, and answer garbage.

use std::time::Duration;

use sqlx::Sqlite;
use tercet::batch::Executor;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::participant::v1::{
    Calls, Forget, Heartbeat, OpenRequest, OpenResponse, Register, Registered, Replies, Reply, reply,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::Victim;
use crate::check;
use crate::database::block_on;
use crate::faults::Fault;
use crate::network::carry;
use crate::world::{Direction, World};

/// From the first packet to the coordinator's welcome.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// Messages that wait for the connection.
const QUEUE: usize = 64;

type FromCoordinator = mpsc::Receiver<Result<OpenResponse, Status>>;

/// Starts the processes of an instance one after the other, the first one after `late`.
pub(crate) async fn keep(world: World, instance: usize, late: Duration) {
    let victim = Victim::Participant(instance);
    sleep(late).await;
    loop {
        world.revive(victim);
        let process = Process::start(&world, instance);
        tokio::select! {
            biased;
            () = world.crashed(victim) => {}
            () = process.run() => {}
        }
        drop(process);
        world.count(Fault::ParticipantCrashed);
        sleep(world.restart_delay(3_000)).await;
    }
}

struct Process {
    world: World,
    instance: usize,
    executor: Executor<Sqlite>,
}

/// Why a session is over.
struct Over;

impl Process {
    fn start(world: &World, instance: usize) -> Self {
        let service = world.databases()[world.instances()[instance]].service(world, instance);
        let executor = block_on(service.executor(), || false).expect("nobody stops a start");
        let executor = executor.expect("the service is put together as it must be");
        world.log(Victim::Participant(instance), format_args!("starts, of {}", world.instances()[instance]));
        Self { world: world.clone(), instance, executor }
    }

    fn victim(&self) -> Victim {
        Victim::Participant(self.instance)
    }

    /// One session after the other, until it crashes.
    async fn run(&self) {
        loop {
            if let Some((up, mut down, welcome)) = self.connect().await {
                let Err(Over) = self.serve(&up, &mut down, &welcome).await;
                self.world.log(self.victim(), format_args!("has no session any more"));
            }
            sleep(Duration::from_millis(50) + self.world.ms_below(400)).await;
        }
    }

    async fn connect(&self) -> Option<(mpsc::Sender<OpenRequest>, FromCoordinator, Registered)> {
        let front = self.world.front()?;
        let (up, from_us) = mpsc::channel(QUEUE);
        let (to_coordinator, arrives) = mpsc::channel(QUEUE);
        let (to_us, mut down) = mpsc::channel(QUEUE);
        let world = &self.world;
        let register = Register {
            instance: self.instance.to_string(),
            version: "simulated".into(),
            window: 1,
            ..self.executor.register()
        };
        self.send(&up, Up::Register(register)).ok()?;
        let from_us = tokio_stream::StreamExt::map(ReceiverStream::new(from_us), Ok);
        let way = (self.instance, Direction::Up);
        tokio::spawn(carry(world.clone(), way, Duration::ZERO, from_us, to_coordinator));
        let opened = timeout(OPEN_MAX, front.session(ReceiverStream::new(arrives))).await;
        let opened = opened.ok()?.ok()?;
        let slow = world.fault(Fault::LinkSlow, 8);
        let latency = if slow { Duration::from_secs(1) + world.ms_below(15_000) } else { Duration::ZERO };
        tokio::spawn(carry(world.clone(), (self.instance, Direction::Down), latency, opened, to_us));
        let welcome = timeout(OPEN_MAX + latency, down.recv()).await.ok()??.ok()?.message;
        let Some(Down::Registered(welcome)) = welcome else { return None };
        self.executor.greet(welcome.now_ms);
        world.log(self.victim(), format_args!("has a session"));
        Some((up, down, welcome))
    }

    /// From the welcome until the session breaks. One message after the other, as the one writer of SQLite wants it.
    async fn serve(
        &self,
        up: &mpsc::Sender<OpenRequest>,
        down: &mut FromCoordinator,
        welcome: &Registered,
    ) -> Result<std::convert::Infallible, Over> {
        let silence_max = Duration::from_millis(welcome.silence_max_ms.into());
        let mut beats = interval(Duration::from_millis(welcome.heartbeat_ms.into()));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let broken = self.world.broken_link(self.instance);
        loop {
            tokio::select! {
                biased;
                () = broken.notified() => return Err(Over),
                message = down.recv() => {
                    heard = Instant::now();
                    match message.and_then(Result::ok).ok_or(Over)?.message {
                        Some(Down::Calls(calls)) => self.answer(up, calls).await?,
                        Some(Down::Forget(forget)) => self.forget(forget).await,
                        Some(Down::Heartbeat(heartbeat)) => self.executor.hear(heartbeat.now_ms),
                        Some(Down::Registered(_) | Down::Audit(_) | Down::Signed(_)) | None => {}
                    }
                }
                _ = beats.tick() => {
                    self.world.thawed(self.instance).await;
                    self.send(up, Up::Heartbeat(Heartbeat::default()))?;
                }
                () = sleep_until(heard + silence_max) => return Err(Over),
            }
        }
    }

    fn send(&self, up: &mpsc::Sender<OpenRequest>, message: Up) -> Result<(), Over> {
        up.try_send(OpenRequest { message: Some(message) }).map_err(|_| Over)
    }

    async fn answer(&self, up: &mpsc::Sender<OpenRequest>, Calls { batch, calls }: Calls) -> Result<(), Over> {
        let world = &self.world;
        check::decided_before(world, &calls);
        // With the calls in its hands.
        self.world.thawed(self.instance).await;
        world.pass(self.victim(), "with calls that it has not begun").await;
        if world.fault(Fault::ParticipantSlow, 5) {
            sleep(world.ms_below(900)).await;
        }
        let count = calls.len();
        let Some(replies) = block_on(self.executor.run(calls), || world.doomed(self.victim())) else {
            // In the middle of a local transaction; the database rolls it back.
            return std::future::pending().await;
        };
        world.log(self.victim(), format_args!("ran batch {batch}: {}", Shown(&replies)));
        world.pass(self.victim(), "with answers that it has not sent").await;
        self.world.thawed(self.instance).await;
        let replies = self.spoil(up, Replies { batch, replies }, count)?;
        self.send(up, Up::Replies(replies))?;
        world.pass(self.victim(), "with answers that it has sent").await;
        Ok(())
    }

    /// What a faulty participant makes of its answers.
    fn spoil(&self, up: &mpsc::Sender<OpenRequest>, mut replies: Replies, count: usize) -> Result<Replies, Over> {
        let world = &self.world;
        let unknown = |text: &str| Reply { answer: Some(reply::Answer::Unknown(text.into())) };
        if world.fault(Fault::LocalUnknown, 2) {
            replies.replies = vec![unknown("COMMIT of unknown result"); count];
        }
        if world.fault(Fault::WrongBatch, 1) {
            replies.batch += 1 + world.below(3);
        }
        if world.fault(Fault::TooFewAnswers, 1) {
            replies.replies.pop();
        }
        if world.fault(Fault::TooManyAnswers, 1) {
            replies.replies.push(unknown("nobody asked"));
        }
        if world.fault(Fault::EmptyAnswer, 1) {
            replies.replies = vec![Reply::default(); count];
        }
        if world.fault(Fault::GarbageBytes, 1) {
            let bytes: Vec<u8> = (0..world.below(9_000)).map(|at| (at * 31 + 7) as u8).collect();
            for reply in &mut replies.replies {
                // The words of a result are anyone's; whether there is one is not.
                if let Some(reply::Answer::Done(result)) = &mut reply.answer {
                    *result = bytes.clone().into();
                }
            }
        }
        if world.fault(Fault::GarbageMessage, 1) {
            let message = if world.percent(50) { Some(Up::Register(Register::default())) } else { None };
            up.try_send(OpenRequest { message }).map_err(|_| Over)?;
        }
        Ok(replies)
    }

    async fn forget(&self, Forget { floor_ms, xids }: Forget) {
        self.world.thawed(self.instance).await;
        self.world.pass(self.victim(), "before it raises its floor").await;
        let xids = xids.iter().filter_map(|xid| tercet::xid::Xid::from_slice(xid)).collect();
        block_on(self.executor.forget(floor_ms, xids), || false);
        self.world.log(self.victim(), format_args!("has its floor at {floor_ms}"));
        self.world.pass(self.victim(), "after it has raised its floor").await;
    }
}

/// Answers, in short.
struct Shown<'a>(&'a [Reply]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for reply in self.0 {
            match &reply.answer {
                Some(reply::Answer::Done(_)) => f.write_str(" done")?,
                Some(reply::Answer::Refused(reason)) => write!(f, " refused ({reason})")?,
                Some(reply::Answer::NotNowMs(ms)) => write!(f, " not now ({ms} ms)")?,
                Some(reply::Answer::Unknown(reason)) => write!(f, " unknown ({reason})")?,
                None => f.write_str(" nothing")?,
            }
        }
        Ok(())
    }
}
