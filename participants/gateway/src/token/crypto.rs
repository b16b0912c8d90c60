//! What tokens are signed and checked with: `ring`, as everything here.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use ring::{hmac, signature};

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes it the process's, whose there is one.
pub(super) fn install() {
    // The second time it is there already.
    let _ = PROVIDER.install_default();
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    if *algorithm == Algorithm::HS256 && key.family() == AlgorithmFamily::Hmac {
        return Ok(Box::new(Shared(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()))));
    }
    Err(new_error(ErrorKind::InvalidAlgorithm))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "these three are known here, and no other ever will be by itself")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    Ok(match (algorithm, key.family(), key.kind()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) => {
            Box::new(Shared(hmac::Key::new(hmac::HMAC_SHA256, secret)))
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => {
            Box::new(Point(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.clone())))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Box::new(Modulus(RsaPublicKeyComponents { n: n.clone(), e: e.clone() }))
        }
        _ => return Err(new_error(ErrorKind::InvalidAlgorithm)),
    })
}

/// HS256.
struct Shared(hmac::Key);
/// ES256.
struct Point(UnparsedPublicKey<Vec<u8>>);
/// RS256.
struct Modulus(RsaPublicKeyComponents<Vec<u8>>);

type Verified = std::result::Result<(), Error>;

fn verified(result: std::result::Result<(), ring::error::Unspecified>) -> Verified {
    result.map_err(|_| Error::new())
}

impl Signer<Vec<u8>> for Shared {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Shared {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Shared {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verified {
        verified(hmac::verify(&self.0, message, signature))
    }
}

impl JwtVerifier for Shared {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Point {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verified {
        verified(self.0.verify(message, signature))
    }
}

impl JwtVerifier for Point {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

impl Verifier<Vec<u8>> for Modulus {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Verified {
        let algorithm: &signature::RsaParameters = &RSA_PKCS1_2048_8192_SHA256;
        verified(self.0.verify(algorithm, message, signature))
    }
}

impl JwtVerifier for Modulus {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}
