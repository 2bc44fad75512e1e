//! Whether policy.json lets an image in: cosign's signatures with keys, checked offline, without a clock and a log.
//!
//! A signature is an attachment of the registry: a manifest under the tag `sha256-DIGEST.sig`, each of whose layers is a
//! payload that names a digest and a reference (containers-signature(5)), with the signature as an annotation. It may be one
//! of the image's manifest or of the index that the reference names, which holds the manifest's digest.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

use super::layout::Layout;
use super::pull::PullError;
use crate::config::policy::{Policy, Rule, Rules, Signed, signature_tag};
use crate::registry::{Client, Descriptor, RegistryError, Repository};
use crate::types::bounds::{IMAGE_SIGNATURES, SIGNED_PAYLOAD_BYTES};
use crate::types::digest::Digest;
use crate::types::reference::Reference;
use crate::types::{base64, read};

/// What payloads are; other layers are not looked at.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Where the signature of a payload is.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is; podman's and cosign's.
const KIND: &str = "cosign container image signature";

/// What comes before the point in a P-256 key's SubjectPublicKeyInfo (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same of an Ed25519 key (RFC 8410).
const EDWARDS: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What is asked about.
pub struct Candidate<'a> {
    /// As it was asked for.
    pub reference: &'a Reference,
    /// Where it is.
    pub repository: &'a Repository,
    /// Of the image's manifest, and of the index that it is in.
    pub digests: &'a [Digest],
}

/// Whether the policy lets in what a folder or an archive holds: signatures do not come with it.
pub fn admit_layout(policy: &Policy, layout: &Layout, tag: Option<&str>) -> Result<(), PullError> {
    let (transport, path) = layout.place();
    let rules = policy.of_path(transport, path, tag);
    let why = "it comes from a file, which has no signatures that could be checked";
    let name = format!("{transport}:{}", path.display());
    each(policy, &rules, &name, |_| Some(why.to_owned()))
}

/// Whether the policy refuses a reference whatever is signed: told before anything is asked of a registry.
pub fn refused_at_once(policy: &Policy, reference: &Reference) -> Result<(), PullError> {
    each(policy, &policy.of_reference(reference), &reference.to_string(), |_| {
        None
    })
}

/// Refuses by the first rule that is not fulfilled; `signed` says in what way one of signatures is not.
fn each(
    policy: &Policy,
    rules: &Rules<'_>,
    name: &str,
    signed: impl Fn(&Signed) -> Option<String>,
) -> Result<(), PullError> {
    for (number, rule) in rules.rules.iter().enumerate() {
        let why = match rule {
            Rule::Accept => None,
            Rule::Reject => Some("no image from there is accepted".to_owned()),
            Rule::NotOffered(name) => Some(format!(
                "`{name}` cannot be checked here; use `sigstoreSigned` with keys"
            )),
            Rule::Signed(rule) => signed(rule),
        };
        if let Some(why) = why {
            return Err(PullError::Refused {
                name: name.to_owned(),
                policy: policy.path.clone().unwrap_or_default(),
                rule: format!("{}[{number}]", rules.place),
                kind: rule.name().to_owned(),
                why,
            });
        }
    }
    Ok(())
}

/// Whether the policy lets an image of a registry in that [`refused_at_once`] has let pass; asks for its signatures where rules
/// need them.
pub async fn admit(policy: &Policy, client: &Client, candidate: &Candidate<'_>) -> Result<(), PullError> {
    let name = candidate.reference.to_string();
    let rules = policy.of_reference(candidate.reference);
    let signatures = match rules.rules.iter().any(|rule| matches!(rule, Rule::Signed(_))) {
        true => fetch(client, candidate).await.map_err(|source| PullError::Registry {
            name: name.clone(),
            source: Box::new(source),
        })?,
        false => Vec::new(),
    };
    each(policy, &rules, &name, |rule| {
        is_signed(rule, candidate, &signatures).err()
    })
}

/// One signature: the manifest that it is attached to, what is signed, and by what.
struct Signature {
    of: Digest,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

async fn fetch(client: &Client, candidate: &Candidate<'_>) -> Result<Vec<Signature>, RegistryError> {
    let mut all = Vec::new();
    for (number, digest) in candidate.digests.iter().enumerate() {
        if candidate.digests[..number].contains(digest) {
            continue;
        }
        let attached = client.attachment(candidate.repository, &signature_tag(digest)).await?;
        let Some((bytes, repository)) = attached else {
            continue;
        };
        let layers = read::json_any(&bytes).ok();
        let layers = layers.as_ref().and_then(|manifest| manifest.get("layers")?.as_array());
        for layer in layers.into_iter().flatten() {
            let Some((descriptor, signature)) = described(layer) else {
                continue;
            };
            if all.len() == IMAGE_SIGNATURES {
                return Ok(all);
            }
            match client.fetch_small(&repository, &descriptor, SIGNED_PAYLOAD_BYTES).await {
                Ok(payload) => all.push(Signature {
                    of: *digest,
                    payload: payload.to_vec(),
                    signature,
                }),
                // One that is broken does not hide a good one.
                Err(RegistryError::TooLarge { .. } | RegistryError::Digest { .. } | RegistryError::NotFound { .. }) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

fn described(layer: &Value) -> Option<(Descriptor, Vec<u8>)> {
    let text = |key: &str| layer.get(key).and_then(Value::as_str);
    let signature = base64::decode(layer.get("annotations")?.get(SIGNATURE)?.as_str()?)?;
    let descriptor = Descriptor {
        media_type: text("mediaType").filter(|kind| *kind == PAYLOAD)?.to_owned(),
        digest: text("digest")?.parse().ok()?,
        size: layer.get("size")?.as_u64()?,
    };
    Some((descriptor, signature))
}

/// Whether one of the signatures is by one of the keys, of this image, in its name. Fails with what came closest.
fn is_signed(rule: &Signed, candidate: &Candidate<'_>, signatures: &[Signature]) -> Result<(), String> {
    let keys = rule.keys().map_err(|error| error.to_string())?;
    let keys = keys.iter().map(|pem| Key::of_pem(pem));
    let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
    let mut why = match signatures {
        [] => format!(
            "it is not signed: there is no `{}`",
            signature_tag(&candidate.digests[0])
        ),
        _ => "none of its signatures is by a key of the rule".to_owned(),
    };
    let by_a_key = signatures.iter().filter(|signature| {
        let verifies = |key: &Key| key.verifies(&signature.payload, &signature.signature);
        keys.iter().any(verifies)
    });
    for signature in by_a_key {
        match names(&signature.payload) {
            None => why = "what is signed cannot be read".to_owned(),
            Some((digest, _)) if digest != signature.of => {
                why = format!("the signature is of another image, `{digest}`");
            }
            Some((_, identity)) if !rule.identity.matches(candidate.reference, &identity) => {
                why = format!("the signature is for `{identity}`");
            }
            Some(_) => return Ok(()),
        }
    }
    Err(why)
}

/// Digest and reference of a payload, of which everything that is critical is understood.
fn names(payload: &[u8]) -> Option<(Digest, String)> {
    let payload = read::json_any(payload).ok()?;
    let text = |path: &str| payload.pointer(path).and_then(Value::as_str);
    let only = |path: &str, known: &[&str]| {
        let map = payload.pointer(path).and_then(Value::as_object);
        map.is_some_and(|map| map.keys().all(|key| known.contains(&key.as_str())))
    };
    let known = only("", &["critical", "optional"])
        && only("/critical", &["type", "image", "identity"])
        && only("/critical/image", &["docker-manifest-digest"])
        && only("/critical/identity", &["docker-reference"])
        && text("/critical/type") == Some(KIND);
    let digest = text("/critical/image/docker-manifest-digest")?.parse().ok()?;
    let identity = text("/critical/identity/docker-reference")?.to_owned();
    known.then_some((digest, identity))
}

/// A public key.
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

impl Key {
    fn of_pem(pem: &[u8]) -> Result<Key, String> {
        let unusable = || "a key of the rule is not a public key of ECDSA P-256 or Ed25519 in PEM".to_owned();
        let text = std::str::from_utf8(pem).map_err(|_| unusable())?;
        let inside = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"));
        let (inside, _) = inside.ok_or_else(unusable)?;
        let digits: String = inside.split_ascii_whitespace().collect();
        let der = base64::decode(&digits).ok_or_else(unusable)?;
        let (algorithm, bytes): (&'static dyn VerificationAlgorithm, _) =
            match (der.strip_prefix(&P256), der.strip_prefix(&EDWARDS)) {
                (Some(point), _) if point.len() == 65 => (&ECDSA_P256_SHA256_ASN1, point),
                (_, Some(key)) if key.len() == 32 => (&ED25519, key),
                _ => return Err(unusable()),
            };
        Ok(Key {
            algorithm,
            bytes: bytes.to_vec(),
        })
    }

    fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.algorithm, &self.bytes);
        key.verify(payload, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_understood_whole_or_not_at_all() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let payload = |kind: &str, more: &str, critical: &str| {
            format!(
                r#"{{"critical":{{"identity":{{"docker-reference":"r.example/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"{critical}}},"optional":null{more}}}"#
            )
        };
        let good = payload(KIND, "", "");
        assert_eq!(
            names(good.as_bytes()),
            Some((digest.parse().unwrap(), "r.example/a".to_owned()))
        );
        for bad in [
            payload("atomic container signature", "", ""),
            payload(KIND, r#","more":1"#, ""),
            payload(KIND, "", r#","must":1"#),
            payload(KIND, r#","optional":{}"#, ""),
            good.replace("sha256:", "md5:"),
            good.replace("docker-reference", "reference"),
            String::new(),
            "[]".to_owned(),
        ] {
            assert_eq!(names(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn keys_are_of_two_kinds() {
        let pem = |der: &[u8]| {
            format!(
                "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
                base64::encode(der)
            )
        };
        let with = |prefix: &[u8], bytes: usize| [prefix, &vec![4; bytes][..]].concat();
        assert!(Key::of_pem(pem(&with(&P256, 65)).as_bytes()).is_ok());
        assert!(Key::of_pem(pem(&with(&EDWARDS, 32)).as_bytes()).is_ok());
        for bad in [
            pem(&with(&P256, 64)),
            pem(&with(&EDWARDS, 33)),
            pem(&[0x30]),
            pem(&with(&P256, 65)).replace("PUBLIC", "PRIVATE"),
            String::new(),
        ] {
            assert!(Key::of_pem(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
