//! Who may call: the file of tokens, and what each is for.
//!
//! A line is `NAME initiator HASH`, `NAME participant SERVICE,SERVICE HASH KEY` or `NAME operator LEVEL HASH`; what
//! follows a # is left out. The file holds no secret that a coordinator would let in, only its hash. It does hold the
//! keys that calls are signed with, so nobody else should read it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use clap::ValueEnum;
use tercet_secure::Error;
use tercet_secure::files::{Source, Watched};
use tercet_secure::sign::Key;
use tercet_secure::token::{PART_BYTES, hash, part};

use crate::limits;
use crate::plan::check_name;

/// What an operator may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Look.
    View,
    /// Retry, park, resume, drain, limit.
    Operate,
    /// Decide instead of the machine.
    Force,
}

/// What a token is for.
#[derive(Clone, Debug)]
pub enum Role {
    /// Begins transactions and asks how they stand.
    Initiator,
    /// Registers as one of these services.
    Participant {
        /// Their names.
        services: Vec<String>,
        /// What its calls are signed with, if they are.
        key: Option<Key>,
    },
    /// Uses the admin port.
    Operator(Level),
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Identity {
    /// By name.
    pub name: String,
    /// As what.
    pub role: Role,
}

/// All tokens. They are found by their hash: how long that takes tells of hashes, from which no secret follows.
#[derive(Debug, Default)]
pub struct Tokens(HashMap<[u8; PART_BYTES], Arc<Identity>>);

impl Tokens {
    /// Reads the file, and again when it changes.
    ///
    /// # Errors
    /// When it can not be read, or a line has another form.
    pub fn watch(path: &Path) -> Result<Watched<Self>, Error> {
        let source = Source { setting: "tokens", path: path.to_owned() };
        Watched::load(vec![source], |sources, bytes| {
            Self::parse(&String::from_utf8_lossy(&bytes[0])).map_err(|fault| sources[0].invalid(fault))
        })
    }

    /// Reads lines.
    ///
    /// # Errors
    /// The first fault, with its line's number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let (hash, identity) = entry(&words).map_err(|fault| format!("line {}: {fault}", at + 1))?;
            if tokens.insert(hash, Arc::new(identity)).is_some() {
                return Err(format!("line {}: another line has the same hash", at + 1));
            }
        }
        // Such as a file that is just being written.
        if tokens.is_empty() { Err("holds no token".into()) } else { Ok(Self(tokens)) }
    }

    /// Whose bearer token this is.
    pub fn find(&self, bearer: &str) -> Option<Arc<Identity>> {
        self.0.get(&hash(bearer)).cloned()
    }
}

fn entry(words: &[&str]) -> Result<([u8; PART_BYTES], Identity), String> {
    let (name, role, hash) = match *words {
        [name, "initiator", hash] => (name, Role::Initiator, hash),
        [name, "participant", services, hash] => (name, participant(services, None)?, hash),
        [name, "participant", services, hash, key] => (name, participant(services, Some(key))?, hash),
        [name, "operator", level, hash] => {
            let level = Level::from_str(level, false).map_err(|_| format!("{level:?} is no view, operate or force"))?;
            (name, Role::Operator(level), hash)
        }
        _ => {
            let forms = "NAME initiator HASH, NAME participant SERVICES HASH [KEY] or NAME operator LEVEL HASH";
            return Err(format!("not of the form {forms}"));
        }
    };
    if name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(format!("the name is not at most {} visible ASCII characters", limits::NAME_BYTES_MAX));
    }
    let hash = part(hash).ok_or("the hash is not 64 hexadecimal digits")?;
    Ok((hash, Identity { name: name.to_owned(), role }))
}

fn participant(services: &str, key: Option<&str>) -> Result<Role, String> {
    let services: Vec<String> = services.split(',').map(str::to_owned).collect();
    for service in &services {
        check_name(service, || "service".into()).map_err(|_| format!("{service:?} is no service's name"))?;
    }
    let key = key.map(|key| part(key).map(Key::new).ok_or("the key is not 64 hexadecimal digits"));
    Ok(Role::Participant { services, key: key.transpose()? })
}

#[cfg(test)]
mod tests {
    use tercet_secure::token::hex;

    use super::*;

    #[test]
    fn each_line_says_who_it_is_and_what_for_and_a_fault_names_its_line() {
        let hashes = ["a", "b", "c"].map(|bearer| hex(&hash(bearer)));
        let [a, b, c] = &hashes;
        let text = format!(
            "# ours\nshop initiator {a}\n\nstock participant stock,depot {b} {a} # both\nann operator view {c}"
        );
        let tokens = Tokens::parse(&text).unwrap();
        assert!(matches!(tokens.find("a").unwrap().role, Role::Initiator));
        let Role::Participant { services, key } = &tokens.find("b").unwrap().role else { panic!("it is one") };
        assert_eq!((services.join(" "), key.is_some()), ("stock depot".to_owned(), true));
        assert!(matches!(tokens.find("c").unwrap().role, Role::Operator(Level::View)));
        assert!(tokens.find("d").is_none());
        for (line, fault) in [
            ("shop".to_owned(), "line 2: not of the form"),
            (format!("é initiator {b}"), "line 2: the name is not"),
            (format!("shop initiator {}", &a[1..]), "line 2: the hash is not 64"),
            (format!("ann operator all {b}"), "line 2: \"all\" is no view"),
            (format!("s participant Stock {b}"), "line 2: \"Stock\" is no service's name"),
            (format!("s participant s {b} key"), "line 2: the key is not 64"),
            (format!("twice initiator {a}"), "line 2: another line has the same hash"),
        ] {
            let told = Tokens::parse(&format!("shop initiator {a}\n{line}")).unwrap_err();
            assert!(told.starts_with(fault), "{told}");
        }
    }
}
