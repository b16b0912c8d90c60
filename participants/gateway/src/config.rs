//! The settings of the gateway: flags, or environment variables.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::Resettable;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use tercet::bootstrap::LogFormat;
use tercet_secure::{client, server};

/// All settings.
#[derive(Clone, Debug, Parser)]
pub struct Config {
    /// Own address for HTTP
    #[arg(long, env = "TERCET_LISTEN", default_value = "127.0.0.1:7080")]
    pub listen: SocketAddr,
    /// Address for Prometheus to read metrics from; none when left out
    #[arg(long, env = "TERCET_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// URL of the template service
    #[arg(long, env = "TERCET_TEMPLATE", default_value = "http://127.0.0.1:7074")]
    pub template: String,
    /// URL of the issuing service
    #[arg(long, env = "TERCET_ISSUING", default_value = "http://127.0.0.1:7076")]
    pub issuing: String,
    /// URL of the business log
    #[arg(long, env = "TERCET_BUSINESS_LOG", default_value = "http://127.0.0.1:7075")]
    pub business_log: String,
    /// URL of the redemption service
    #[arg(long, env = "TERCET_REDEMPTION", default_value = "http://127.0.0.1:7077")]
    pub redemption: String,
    /// URL of the order service
    #[arg(long, env = "TERCET_ORDER", default_value = "http://127.0.0.1:7073")]
    pub order: String,
    /// URL of the stock service
    #[arg(long, env = "TERCET_STOCK", default_value = "http://127.0.0.1:7071")]
    pub stock: String,
    /// Who callers are.
    #[command(flatten)]
    pub tokens: Tokens,
    /// How much callers may ask.
    #[command(flatten)]
    pub rates: Rates,
    /// Requests at a time; further ones are told to come again
    #[arg(long, env = "TERCET_CONCURRENCY", default_value_t = 2_048)]
    pub concurrency: usize,
    /// Milliseconds until an answer that services have not given by then is given up
    #[arg(long, env = "TERCET_TIMEOUT_MS", default_value_t = 5_000)]
    pub timeout_ms: u64,
    /// Milliseconds that a client has for the head of a request, and again for its body
    #[arg(long, env = "TERCET_CLIENT_TIMEOUT_MS", default_value_t = 10_000)]
    pub client_timeout_ms: u64,
    /// Milliseconds that requests under way have when the process stops
    #[arg(long, env = "TERCET_STOP_GRACE_MS", default_value_t = 5_000)]
    pub stop_grace_ms: u64,
    /// Where pages may come from that call this API, such as https://shop.example, with commas between them; * for all
    #[arg(long, env = "TERCET_CORS_ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// How the own ports are secured.
    #[command(flatten)]
    pub own_ports: server::Settings,
    /// How the connections to services are.
    #[command(flatten)]
    pub security: client::Settings,
    /// Text for people, JSON for machines
    #[arg(long, env = "TERCET_LOG", value_enum, default_value_t = LogFormat::Text)]
    pub log: LogFormat,
    /// What is logged: a level, or directives such as info,hyper=warn
    #[arg(long, env = "TERCET_LOG_FILTER", default_value = "info")]
    pub log_filter: String,
}

impl Config {
    /// Of these flags and the defaults alone, whatever the environment says: for a process that is more than a gateway.
    ///
    /// # Errors
    /// When a flag is none, or lacks its value.
    pub fn from_flags(flags: &[&str]) -> Result<Self, clap::Error> {
        let command = Self::command().no_binary_name(true).mut_args(|flag| flag.env(Resettable::Reset));
        Self::from_arg_matches(&command.try_get_matches_from(flags)?)
    }
}

/// Which tokens are taken.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Tokens of callers")]
pub struct Tokens {
    /// The keys that sign tokens, a JWK set: a file, or an http or https URL. Both are read again when they change
    #[arg(long, env = "TERCET_JWKS", value_name = "FILE|URL")]
    pub jwks: String,
    /// Certificates of whoever signs the certificate of an https URL, PEM
    #[arg(long, env = "TERCET_JWKS_CA", value_name = "FILE")]
    pub jwks_ca: Option<PathBuf>,
    /// Read keys from another machine without https
    #[arg(long, env = "TERCET_INSECURE_JWKS")]
    pub insecure_jwks: bool,
    /// Seconds between two looks at a URL; one more follows when a token names an unknown key
    #[arg(long, env = "TERCET_JWKS_REFRESH_SECONDS", default_value_t = 300)]
    pub jwks_refresh_seconds: u64,
    /// Tokens that are refused before their time is over, a file that is read again when it changes
    #[arg(long, env = "TERCET_REVOKED", value_name = "FILE")]
    pub revoked: Option<PathBuf>,
    /// The issuers that are trusted, with commas between them; any when left out
    #[arg(long = "token-issuer", env = "TERCET_TOKEN_ISSUER", value_delimiter = ',')]
    pub issuer: Vec<String>,
    /// The audiences that this system is, with commas between them; any when left out
    #[arg(long = "token-audience", env = "TERCET_TOKEN_AUDIENCE", value_delimiter = ',')]
    pub audience: Vec<String>,
    /// Seconds that the clocks of issuers may be off
    #[arg(long = "token-leeway-seconds", env = "TERCET_TOKEN_LEEWAY_SECONDS", default_value_t = 5)]
    pub leeway_seconds: u64,
}

/// How much is taken. 0 means no limit.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Limits of callers")]
pub struct Rates {
    /// Claims of a user in a minute
    #[arg(long, env = "TERCET_CLAIMS_PER_MINUTE", default_value_t = 10)]
    pub claims_per_minute: u32,
    /// Requests of an address in a second; of a /64 network where it is one of IPv6
    #[arg(long, env = "TERCET_ADDRESS_PER_SECOND", default_value_t = 500)]
    pub address_per_second: u32,
    /// Requests in a second
    #[arg(long, env = "TERCET_REQUESTS_PER_SECOND", default_value_t = 50_000)]
    pub requests_per_second: u32,
    /// Proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8, with commas between them
    #[arg(long, env = "TERCET_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<Network>,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: u128,
    /// Bits of the beginning, of 128.
    bits: u32,
}

impl Network {
    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = wide(address) ^ self.first;
        differs.leading_zeros() >= self.bits
    }
}

/// Addresses of both kinds as one: those of IPv4 as IPv6 maps them.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, or one with the bits that count, such as 10.0.0.0/8")]
pub struct ParseNetworkError;

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, ParseNetworkError> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ParseNetworkError)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.parse::<u32>().map_err(|_| ParseNetworkError))?;
        if bits > all {
            return Err(ParseNetworkError);
        }
        Ok(Self { first: wide(address), bits: 128 - all + bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_that_begin_like_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.6"),
            ("0.0.0.0/0", "255.255.255.255", "2001:db8::1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ] {
            let parsed: Network = network.parse().expect(network);
            assert!(parsed.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
        for wrong in ["", "10.0.0/8", "10.0.0.0/33", "10.0.0.0/", "::/129"] {
            assert_eq!(wrong.parse::<Network>(), Err(ParseNetworkError), "{wrong:?}");
        }
    }
}
