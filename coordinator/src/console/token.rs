//! `tercet token`: makes a secret, and the line that lets it in.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tercet_secure::token::{PART_BYTES, hash, hex, random};

use crate::tokens::{Level, Tokens};

/// Whom to make a secret for.
#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Who it is, for logs and the audit log; no spaces
    name: String,
    /// New file for the secret, which only its owner may read
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    #[command(subcommand)]
    role: Role,
}

/// What it is for.
#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// Begins transactions
    Initiator,
    /// Registers as these services, and takes only calls that are signed for it
    Participant {
        /// Their names, with commas between them
        services: String,
    },
    /// Uses the admin port
    Operator {
        /// What it may do there
        #[arg(value_enum)]
        level: Level,
    },
}

/// Writes the secret to its file and the line for the file of tokens to `out`.
pub(super) fn run(options: &Options, out: &mut impl Write) -> anyhow::Result<()> {
    let bearer = hex(&random::<PART_BYTES>()?);
    let (name, hash) = (&options.name, hex(&hash(&bearer)));
    let (line, secret) = match &options.role {
        Role::Initiator => (format!("{name} initiator {hash}"), bearer),
        Role::Participant { services } => {
            let key = hex(&random::<PART_BYTES>()?);
            (format!("{name} participant {services} {hash} {key}"), format!("{bearer}.{key}"))
        }
        Role::Operator { level } => {
            let level = clap::ValueEnum::to_possible_value(level).expect("every level has a name");
            (format!("{name} operator {} {hash}", level.get_name()), bearer)
        }
    };
    // A coordinator would refuse the whole file for it.
    Tokens::parse(&line).map_err(|fault| anyhow::anyhow!("{}", fault.trim_start_matches("line 1: ")))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&options.secret);
    let write = file.and_then(|mut file| writeln!(file, "{secret}"));
    write.map_err(|error| anyhow::anyhow!("--secret: can not write {}: {error}", options.secret.display()))?;
    Ok(writeln!(out, "{line}")?)
}
