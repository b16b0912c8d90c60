//! The gateway as a process, and what makes keys and tokens to try it with.
#![allow(clippy::print_stdout, reason = "it is a command line")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use tercet::bootstrap;
use tercet_gateway::Within;
use tercet_gateway::config::Config;
use tercet_gateway::token::{self, Role};
use tokio::sync::oneshot;
use tracing::{error, info};

/// The gateway of the coupon platform.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Serves the API
    Serve(Box<Config>),
    /// Writes a set with one new secret, to be kept in a file: where no service signs tokens
    Keys {
        /// The secret's name
        #[arg(long, default_value = "first")]
        kid: String,
    },
    /// Writes a token that is signed with the last secret of a set
    Token(Token),
}

/// What the token says.
#[derive(Args, Debug)]
struct Token {
    /// The set, a file
    #[arg(long, env = "TERCET_JWKS", value_name = "FILE")]
    jwks: PathBuf,
    /// What its bearer may do
    role: Role,
    /// A user's number, or the name of a person of a shop or of the platform
    subject: String,
    /// The shop of a person of a shop
    #[arg(long, required_if_eq("role", "shop"))]
    shop: Option<i64>,
    /// The shop that may use a user's coupons with it, as its header x-user-authorization
    #[arg(long, value_name = "SHOP")]
    for_shop: Option<i64>,
    /// The order of that shop that it is good for alone; any of its orders without it
    #[arg(long, value_name = "ORDER", requires = "for_shop", value_parser = clap::value_parser!(i64).range(1..))]
    for_order: Option<i64>,
    /// Groups that a user is a member of, with commas between them
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// Its issuer
    #[arg(long)]
    issuer: Option<String>,
    /// Whom it is for
    #[arg(long)]
    audience: Option<String>,
    /// How long it lasts
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Serve(config) => return serve(*config).await,
        Command::Keys { kid } => token::new_keys(&kid).map_err(anyhow::Error::from).map(|keys| print!("{keys}")),
        Command::Token(wanted) => mint(wanted).map(|token| println!("{token}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tercet-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn mint(wanted: Token) -> anyhow::Result<String> {
    let shop_id = match (wanted.role, wanted.shop, wanted.for_shop) {
        (Role::User, None, for_shop) => for_shop,
        (Role::Shop, shop, None) => shop,
        (Role::Operator, None, None) => None,
        (Role::User | Role::Shop | Role::Operator, _, _) => {
            anyhow::bail!("--shop is of a person of a shop, and --for-shop of a user")
        }
    };
    let keys = std::fs::read(&wanted.jwks).map_err(|error| anyhow::anyhow!("{}: {error}", wanted.jwks.display()))?;
    let bearer = token::Bearer {
        role: wanted.role,
        subject: wanted.subject,
        shop_id,
        order_id: wanted.for_order,
        groups: wanted.groups,
        issuer: wanted.issuer,
        audience: wanted.audience,
    };
    Ok(token::mint(&keys, bearer, Duration::from_secs(wanted.minutes * 60))?)
}

async fn serve(config: Config) -> ExitCode {
    match run(config).await {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // The alternate form has the causes on the same line.
            error!("gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    bootstrap::logs(config.log, &config.log_filter)?;
    if let Some(address) = config.metrics {
        bootstrap::metrics(address, &config.own_ports).await?;
    }
    let (ready, _) = oneshot::channel();
    Ok(tercet_gateway::run(config, Within::default(), ready, bootstrap::stop_signal()?).await?)
}
