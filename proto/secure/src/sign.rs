//! Signed messages of a session: HMAC-SHA256 with a key that both sides derive from a shared one and a nonce of each
//! (HKDF, RFC 5869). One signature covers a whole message and its number, so what is forged, changed, repeated, left
//! out or of another session is found out.

use ring::{hkdf, hmac};

use crate::token::PART_BYTES;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;

/// A key that a participant and the coordinator share.
#[derive(Clone)]
pub struct Key([u8; PART_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Why a message is not the coordinator's next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its signature is not the session's.
    #[error("a message is forged: its signature is not the session's")]
    Forged,
    /// It came before, or one before it is missing.
    #[error("a message is replayed or out of its order: number {number} after {last}")]
    Replayed {
        /// Its number.
        number: u64,
        /// That of the last one.
        last: u64,
    },
}

impl Key {
    /// From its bytes.
    pub const fn new(bytes: [u8; PART_BYTES]) -> Self {
        Self(bytes)
    }

    /// The key of one session of a service, before its first message: from the nonces of both sides, and the time that
    /// the coordinator has told in its welcome.
    pub fn session(&self, service: &str, [participant, coordinator]: [&[u8]; 2], now_ms: u64) -> Session {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &[participant, coordinator].concat());
        let secret = salt.extract(&self.0);
        let now_ms = now_ms.to_be_bytes();
        let info = [b"tercet session 1 ", now_ms.as_slice(), service.as_bytes()];
        let key = secret.expand(&info, hmac::HMAC_SHA256).expect("a key is shorter than HKDF's limit");
        Session { key: hmac::Key::from(key), last: 0 }
    }
}

/// One end of a signed session.
#[derive(Debug)]
pub struct Session {
    key: hmac::Key,
    last: u64,
}

impl Session {
    /// The next message's number and signature.
    pub fn sign(&mut self, message: &[u8]) -> (u64, Vec<u8>) {
        self.last += 1;
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.last.to_be_bytes());
        context.update(message);
        (self.last, context.sign().as_ref().to_vec())
    }

    /// Whether this is the next message.
    ///
    /// # Errors
    /// When it is not. Nothing of it may be done.
    pub fn verify(&mut self, number: u64, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        let signed = [&number.to_be_bytes(), message].concat();
        hmac::verify(&self.key, &signed, signature).map_err(|_| Refusal::Forged)?;
        if number != self.last + 1 {
            return Err(Refusal::Replayed { number, last: self.last });
        }
        self.last = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_message_of_this_session_passes() {
        let ends = |service| [0; 2].map(|_| Key::new([7; 32]).session(service, [&[1; 16], &[2; 16]], 9));
        let [mut coordinator, mut participant] = ends("stock");
        let (number, signature) = coordinator.sign(b"confirm 1");
        assert_eq!(participant.verify(number, b"confirm 2", &signature), Err(Refusal::Forged));
        assert_eq!(participant.verify(number + 1, b"confirm 1", &signature), Err(Refusal::Forged));
        assert_eq!(participant.verify(number, b"confirm 1", &signature[1..]), Err(Refusal::Forged));
        assert_eq!(participant.verify(number, b"confirm 1", &signature), Ok(()));
        let replayed = Refusal::Replayed { number: 1, last: 1 };
        assert_eq!(participant.verify(number, b"confirm 1", &signature), Err(replayed));
        coordinator.sign(b"left out");
        let (number, signature) = coordinator.sign(b"later");
        let gap = Refusal::Replayed { number: 3, last: 1 };
        assert_eq!(participant.verify(number, b"later", &signature), Err(gap));
        let (number, signature) = ends("coupon")[0].sign(b"confirm 1");
        assert_eq!(ends("stock")[1].verify(number, b"confirm 1", &signature), Err(Refusal::Forged));
        for (nonce, now_ms) in [([3; 16], 9), ([2; 16], 8)] {
            let mut other = Key::new([7; 32]).session("stock", [&[1; 16], &nonce], now_ms);
            let (number, signature) = other.sign(b"confirm 1");
            assert_eq!(ends("stock")[1].verify(number, b"confirm 1", &signature), Err(Refusal::Forged));
        }
    }
}
