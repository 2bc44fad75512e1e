//! Sealing for one receiver: HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. Only the
//! holder of the receiver's private key opens what is sealed; who sealed it, the signature around it says.
//!
//! Sealed bytes are the 32 bytes of the sender's fresh public key and then the ciphertext with its 16 bytes of proof.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

/// Bytes that sealing adds.
pub const OVERHEAD: usize = 32 + 16;

/// What the bytes of a secret are bound to, beside their place.
pub const SECRET: &[u8] = b"dunlin secret v1";

/// The place that a sealed secret is bound to: whose, which, and of which generation.
pub fn place(audience: &str, name: &str, generation: u64) -> String {
    format!("{audience}/{name}/{generation}")
}

const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";

/// Why something cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, changed, or for another key or another place.
    #[error("it was not sealed for this key and this place, or it was changed")]
    Wrong,
    /// The public key is none that anything can be sealed for.
    #[error("the receiver's key is not usable")]
    Key,
}

/// The public key of a private one.
pub fn public(private: &[u8; 32]) -> [u8; 32] {
    // The plain ladder also for the base point: tables for that would cost more room than time.
    x25519(*private, X25519_BASEPOINT_BYTES)
}

/// Seals for the holder of `receiver`'s private key. `random` must be fresh; `info` and `aad` bind the text to its place.
pub fn seal(receiver: &[u8; 32], random: [u8; 32], info: &[u8], aad: &[u8], text: &[u8]) -> Result<Vec<u8>, SealError> {
    let sent = public(&random);
    let shared = x25519(random, *receiver);
    if is_zero(&shared) {
        return Err(SealError::Key);
    }
    let (key, nonce) = schedule(&shared, &sent, receiver, info);
    let mut bytes = text.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut bytes)
        .map_err(|_| SealError::Wrong)?;
    Ok([&sent[..], &bytes].concat())
}

/// Opens what was sealed for this private key.
pub fn open(private: &[u8; 32], info: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let (sent, text) = sealed.split_first_chunk::<32>().ok_or(SealError::Wrong)?;
    let shared = x25519(*private, *sent);
    if is_zero(&shared) {
        return Err(SealError::Wrong);
    }
    let (key, nonce) = schedule(&shared, sent, &public(private), info);
    let mut bytes = text.to_vec();
    let length = key
        .open_in_place(nonce, Aad::from(aad), &mut bytes)
        .map_err(|_| SealError::Wrong)?
        .len();
    bytes.truncate(length);
    Ok(bytes)
}

/// A point of small order: everybody would know what is shared (RFC 9180, 7.1.4). Looks at every byte, whatever they are.
fn is_zero(shared: &[u8; 32]) -> bool {
    shared.iter().fold(0, |all, byte| all | byte) == 0
}

/// HMAC-SHA256 over parts.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn extract(suite: &[u8], salt: &[u8], label: &[u8], text: &[u8]) -> [u8; 32] {
    // An empty salt and one of 32 zeros are the same key to HMAC.
    mac(salt, &[b"HPKE-v1", suite, label, text])
}

/// At most 32 bytes, so one block of HKDF's expansion.
fn expand(suite: &[u8], key: &[u8], label: &[u8], info: &[&[u8]], length: u8) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = Vec::from([&[0][..]]);
    let length = [length];
    parts.extend([&length[..], b"HPKE-v1", suite, label]);
    parts.extend(info);
    parts.push(&[1]);
    mac(key, &parts)
}

fn schedule(shared: &[u8; 32], sent: &[u8; 32], receiver: &[u8; 32], info: &[u8]) -> (LessSafeKey, Nonce) {
    let prk = extract(KEM, &[], b"eae_prk", shared);
    let shared = expand(KEM, &prk, b"shared_secret", &[sent, receiver], 32);
    let id = extract(SUITE, &[], b"psk_id_hash", &[]);
    let info = extract(SUITE, &[], b"info_hash", info);
    let context: [&[u8]; 3] = [&[0], &id, &info];
    let secret = extract(SUITE, &shared, b"secret", &[]);
    let key = expand(SUITE, &secret, b"key", &context, 32);
    let base = expand(SUITE, &secret, b"base_nonce", &context, 12);
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&base[..12]);
    // A key of 32 bytes is what the algorithm takes.
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("32 bytes");
    (LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn key(hex: &str) -> [u8; 32] {
        bytes(hex).try_into().unwrap()
    }

    /// RFC 9180, appendix A.2.1.
    #[test]
    fn the_vector_of_the_specification() {
        let ephemeral = key("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600");
        let private = key("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
        let receiver = key("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let text = bytes("4265617574792069732074727574682c20747275746820626561757479");
        let aad = bytes("436f756e742d30");
        let expected = bytes(concat!(
            "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
        ));
        assert_eq!(public(&private), receiver);
        assert_eq!(seal(&receiver, ephemeral, &info, &aad, &text).unwrap(), expected);
        assert_eq!(open(&private, &info, &aad, &expected).unwrap(), text);
    }

    #[test]
    fn only_the_receiver_opens_it_and_only_in_its_place() {
        let (private, other) = ([7; 32], [8; 32]);
        let sealed = seal(&public(&private), [9; 32], b"i", b"a", b"text").unwrap();
        assert_eq!(sealed.len(), 4 + OVERHEAD);
        assert_eq!(open(&private, b"i", b"a", &sealed).unwrap(), b"text");
        assert_eq!(open(&other, b"i", b"a", &sealed), Err(SealError::Wrong));
        assert_eq!(open(&private, b"j", b"a", &sealed), Err(SealError::Wrong));
        assert_eq!(open(&private, b"i", b"b", &sealed), Err(SealError::Wrong));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&private, b"i", b"a", &changed), Err(SealError::Wrong), "byte {at}");
        }
        for length in 0..OVERHEAD {
            assert_eq!(
                open(&private, b"i", b"a", &sealed[..length]),
                Err(SealError::Wrong),
                "{length} bytes"
            );
        }
        assert_eq!(
            seal(&[0; 32], [9; 32], b"", b"", b""),
            Err(SealError::Key),
            "a point of small order"
        );
    }
}
