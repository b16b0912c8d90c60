//! A participant that breaks the rules: it answers garbage, nothing at all, or comes and goes.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use tercet_proto::participant::v1 as pb;
use tercet_proto::participant::v1::open_request::Message as Up;
use tercet_proto::participant::v1::open_response::Message as Down;
use tercet_proto::participant::v1::sessions_client::SessionsClient;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

/// How it breaks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Answers calls with nothing, with too few and too many replies, with huge words, and batches that there are not
    Garbage,
    /// Takes calls and is gone, again and again
    Flaps,
    /// Takes calls and answers nothing but heartbeats
    Silent,
}

/// Its settings.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Its service
    #[arg(long)]
    service: String,
    /// URL of the coordinator
    #[arg(long)]
    coordinator: String,
    /// How it breaks the rules
    #[arg(long, value_enum)]
    how: How,
}

/// Runs it until the process is killed.
///
/// # Errors
/// None that ends it: it comes again.
pub async fn run(config: Config) -> anyhow::Result<()> {
    for round in 0_u64.. {
        // Whatever ends a session is what it wanted.
        drop(session(&config, round).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn session(config: &Config, round: u64) -> anyhow::Result<()> {
    let (up, messages) = mpsc::channel(64);
    let send = |message| {
        up.try_send(pb::OpenRequest { message: Some(message) })
            .map_err(|_| anyhow::anyhow!("the session takes nothing"))
    };
    let action = pb::Action { name: crate::noop::HOLD[0].name().into(), operations: vec![1, 2, 3] };
    send(Up::Register(pb::Register {
        service: config.service.clone(),
        instance: format!("rogue-{round}"),
        actions: vec![action],
        // That of a service without a fence.
        fence_id: Bytes::from_static(&[0; 16]),
        window: 16,
        ..pb::Register::default()
    }))?;
    let mut client = SessionsClient::connect(config.coordinator.clone()).await?;
    let mut down = client.open(ReceiverStream::new(messages)).await?.into_inner();
    let mut batches = 0_u64;
    while let Some(message) = down.next().await {
        match message?.message {
            Some(Down::Calls(calls)) => match config.how {
                How::Garbage => {
                    batches += 1;
                    send(Up::Replies(garbage(&calls, round + batches)))?;
                }
                How::Flaps => return Ok(()),
                How::Silent => {}
            },
            Some(Down::Heartbeat(beat)) => send(Up::Heartbeat(beat))?,
            Some(Down::Registered(_) | Down::Forget(_) | Down::Audit(_) | Down::Signed(_)) | None => {}
        }
    }
    Ok(())
}

fn garbage(calls: &pb::Calls, number: u64) -> pb::Replies {
    let count = calls.calls.len();
    let empty = pb::Reply::default();
    let words = pb::Reply { answer: Some(pb::reply::Answer::Unknown("x".repeat(4_096))) };
    let (batch, replies) = match number % 5 {
        0 => (calls.batch, Vec::new()),
        1 => (calls.batch, vec![empty; count]),
        2 => (calls.batch, vec![empty; 2 * count + 1]),
        3 => (calls.batch, vec![words; count]),
        _ => (calls.batch + 1_000, vec![empty; count]),
    };
    pb::Replies { batch, replies }
}
