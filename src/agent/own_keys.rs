//! The device's own keys: one to sign what it says, one that secrets are sealed for. Made on the device, and never leave it.

use std::path::Path;

use crate::disk::DiskError;
use crate::disk::doubled::{self, Doubled, Found};
use crate::disk::record::kinds;
use crate::sys::clock;
use crate::types::base64;
use crate::uplink::dsse::{self, Kind, SigningKey};
use crate::uplink::seal;

/// The algorithm's object identifier, 1.3.101.112, in DER.
const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];

/// As they are kept.
#[derive(Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Kept {
    /// PKCS#8.
    signing: Vec<u8>,
    sealing: [u8; 32],
}

impl doubled::Body for Kept {
    const KIND: u16 = kinds::DEVICE_KEYS;
}

/// The keys.
pub struct OwnKeys {
    signing: SigningKey,
    sealing: [u8; 32],
    kept: Doubled<Kept>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The system or the file's content.
    #[error("the device's keys: {0}")]
    Made(String),
}

impl OwnKeys {
    /// Reads them, or makes them where there are none or none can be read: then what was sealed for the old ones has to be sent again.
    pub fn open(dir: &Path, device: &str) -> Result<OwnKeys, KeysError> {
        let (kept, found) = Doubled::open(&dir.join("device-keys"))?;
        match found {
            Found::Good(keys) => match OwnKeys::of(&keys, device) {
                Ok((signing, sealing)) => {
                    return Ok(OwnKeys { signing, sealing, kept });
                }
                Err(error) => crate::error!("{error}; new ones are made"),
            },
            Found::Nothing => {}
            Found::Unreadable(text) => crate::error!("the device's keys: {text}; new ones are made"),
        }
        OwnKeys::make(kept, device)
    }

    fn of(keys: &Kept, device: &str) -> Result<(SigningKey, [u8; 32]), KeysError> {
        let signing = SigningKey::from_pkcs8(device, &keys.signing).map_err(|e| KeysError::Made(e.to_string()))?;
        Ok((signing, keys.sealing))
    }

    fn make(mut kept: Doubled<Kept>, device: &str) -> Result<OwnKeys, KeysError> {
        let signing = SigningKey::generate(device).map_err(|e| KeysError::Made(e.to_string()))?;
        let mut keys = Kept {
            signing: signing.pkcs8().to_vec(),
            sealing: [0; 32],
        };
        clock::random(&mut keys.sealing).map_err(|e| KeysError::Made(format!("random bytes: {e}")))?;
        kept.write(&keys)?;
        Ok(OwnKeys {
            signing,
            sealing: keys.sealing,
            kept,
        })
    }

    /// Nothing that was sealed for this device can be opened any more.
    pub fn forget(&mut self) -> Result<(), KeysError> {
        let mut keys = Kept {
            signing: self.signing.pkcs8().to_vec(),
            sealing: [0; 32],
        };
        clock::random(&mut keys.sealing).map_err(|e| KeysError::Made(format!("random bytes: {e}")))?;
        self.kept.write(&keys)?;
        self.sealing = keys.sealing;
        Ok(())
    }

    /// The public key that signatures of this device are judged with, in base64.
    pub fn signing_public(&self) -> String {
        base64::encode(&self.signing.public().bytes)
    }

    /// The private key that it signs with, PKCS#8 in PEM, as its TLS certificate needs it.
    pub fn signing_pem(&self) -> String {
        // Its first version (RFC 8410), which everybody reads: without the public half, which stands behind the private one.
        let private = self.signing.pkcs8().get(16..48).unwrap_or_default();
        let content = der(0x04, &[&der(0x04, &[private])]);
        pem(
            "PRIVATE KEY",
            &der(0x30, &[&[0x02, 1, 0], &der(0x30, &[ED25519]), &content]),
        )
    }

    /// A request for a certificate (PKCS#10 in PEM; RFC 2986, RFC 8410) for this device, in its name and for the key that it signs
    /// with.
    pub fn certificate_request(&self, device: &str) -> String {
        let algorithm = der(0x30, &[ED25519]);
        let bits = |bytes: &[u8]| der(0x03, &[&[0], bytes]);
        let common_name = der(0x30, &[&[0x06, 3, 0x55, 4, 3], &der(0x0c, &[device.as_bytes()])]);
        let information = der(
            0x30,
            &[
                &[0x02, 1, 0],
                &der(0x30, &[&der(0x31, &[&common_name])]),
                &der(0x30, &[&algorithm, &bits(&self.signing.public().bytes)]),
                &[0xa0, 0],
            ],
        );
        let signature = bits(&self.signing.sign_bytes(&information));
        pem(
            "CERTIFICATE REQUEST",
            &der(0x30, &[&information, &algorithm, &signature]),
        )
    }

    /// The public key that secrets are sealed for, in base64.
    pub fn sealing_public(&self) -> String {
        base64::encode(&seal::public(&self.sealing))
    }

    /// The private half of that.
    pub fn sealing(&self) -> &[u8; 32] {
        &self.sealing
    }

    /// A document of this device in an envelope that it signs.
    pub fn sign(&self, kind: Kind, document: &[u8]) -> Vec<u8> {
        let mut envelope = dsse::wrap(kind, document);
        // The payload was just encoded, and envelopes hold only text: neither fails.
        let signed = self.signing.sign(&mut envelope).map_err(|e| e.to_string());
        let text = signed.and_then(|()| serde_json::to_vec(&envelope).map_err(|e| e.to_string()));
        text.unwrap_or_else(|error| {
            crate::error!("{error}");
            document.to_vec()
        })
    }
}

/// One element of DER: its tag, its length in up to three bytes, its content.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..=0x7f => bytes.push(length as u8),
        0x80..=0xff => bytes.extend([0x81, length as u8]),
        _ => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend(content);
    bytes
}

fn pem(label: &str, content: &[u8]) -> String {
    let digits = base64::encode(content);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in digits.as_bytes().chunks(64) {
        text += &String::from_utf8_lossy(line);
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
