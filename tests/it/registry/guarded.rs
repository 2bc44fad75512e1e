//! A real docker-registry that wants tokens, behind a proxy that speaks TLS, is its token server, and does harm as told.

use super::faulty::{Asked, Faulty, Told};
use super::proxy::pass;
use super::settings;
use crate::fixture::images::Image;
use crate::fixture::pki::{Identity, Pki};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;
use dunlin::config::auth::AuthPlaces;
use dunlin::config::certs::CertPlaces;
use dunlin::registry::{Client, Settings};
use dunlin::types::base64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// What becomes of a request for a blob: the request, how many there were for that blob before, and the registry itself.
pub type Harm = dyn Fn(&Asked, usize, &dyn Fn(&Asked) -> Told) -> Told + Send + Sync;

const USER: &str = "tester";
const PASSWORD: &str = "s3cret";

pub struct Guarded {
    pub server: Faulty,
    scratch: Scratch,
    harm: Arc<Mutex<Arc<Harm>>>,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    pki: Pki,
    _registry: Registry,
}

impl Guarded {
    /// One that has this image as `app:1`.
    pub fn new(image: &Image) -> Guarded {
        let scratch = Scratch::new("guarded");
        let pki = Pki::new(&scratch.join("pki"));
        let mut registry = Registry::plain();
        registry.push_image("app", "1", image);
        // Known once it has been started again.
        let port = Arc::new(AtomicU16::new(0));
        let harm: Arc<Mutex<Arc<Harm>>> = Arc::new(Mutex::new(Arc::new(|asked, _, pass| pass(asked))));
        let seen: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let signer = pki.server("tokens");
        let server = Faulty::start_tls(&pki.server("proxy"), {
            let (harm, seen, port) = (harm.clone(), seen.clone(), port.clone());
            move |asked, _| {
                if asked.path.starts_with("/token?") {
                    return token(asked, &signer);
                }
                let port = port.load(Ordering::Relaxed);
                if !asked.path.contains("/blobs/") {
                    return pass(port, asked);
                }
                let harm = harm.lock().unwrap().clone();
                let before = {
                    let mut seen = seen.lock().unwrap();
                    let count = seen.entry(asked.path.clone()).or_default();
                    *count += 1;
                    *count - 1
                };
                harm(asked, before, &|asked| pass(port, asked))
            }
        });
        registry.want_tokens(format!("https://{}/token", server.host()), pki.ca());
        port.store(registry.port(), Ordering::Relaxed);
        let guarded = Guarded {
            server,
            scratch,
            harm,
            seen,
            pki,
            _registry: registry,
        };
        guarded.trust(&guarded.server);
        guarded
    }

    /// Another server that the client trusts.
    pub fn other(&self, handler: impl Fn(&Asked, usize) -> Told + Send + Sync + 'static) -> Faulty {
        let server = Faulty::start_tls(&self.pki.server("other"), handler);
        self.trust(&server);
        server
    }

    fn trust(&self, server: &Faulty) {
        let folder = self.scratch.folder(&format!("certs.d/{}", server.host()));
        std::fs::copy(self.pki.ca(), folder.join("ca.crt")).unwrap();
    }

    /// From now on does this, and counts anew.
    pub fn set(&self, harm: impl Fn(&Asked, usize, &dyn Fn(&Asked) -> Told) -> Told + Send + Sync + 'static) {
        *self.harm.lock().unwrap() = Arc::new(harm);
        self.seen.lock().unwrap().clear();
        self.server.forget();
    }

    /// The name of the image.
    pub fn name(&self) -> String {
        format!("{}/app:1", self.server.host())
    }

    /// A client that trusts it, knows the password, and waits for nothing long.
    pub fn client(&self) -> Client {
        let auth = AuthPlaces {
            files: vec![self.scratch.join("auth.json")],
            ..Default::default()
        };
        auth.store(&self.server.host(), USER, PASSWORD).unwrap();
        let certs = CertPlaces {
            folders: vec![self.scratch.join("certs.d")],
            ..Default::default()
        };
        Client::new(Settings {
            auth,
            certs,
            ..settings()
        })
    }

    /// Tokens that were given out.
    pub fn tokens(&self) -> usize {
        self.server.count("/token?")
    }
}

/// What a token server answers (Docker Registry v2 authentication, token): a token for what is asked for, to whom knows the password.
fn token(asked: &Asked, signer: &Identity) -> Told {
    let basic = format!("Basic {}", base64::encode(format!("{USER}:{PASSWORD}").as_bytes()));
    if asked.header("authorization") != Some(&basic) {
        return Told::new(401, r#"{"details":"who are you?"}"#);
    }
    let query = asked.path.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    let scope = query.split('&').find_map(|part| part.strip_prefix("scope="));
    let access = scope.map(|scope| {
        let mut parts = scope.split(':');
        let mut next = || parts.next().unwrap();
        serde_json::json!({"type": next(), "name": next(), "actions": next().split(',').collect::<Vec<_>>()})
    });
    let certificate = CertificateDer::from_pem_file(&signer.cert).unwrap();
    let head = serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [base64::encode(&certificate)]});
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let claims = serde_json::json!({
        "iss": "test", "sub": USER, "aud": "test", "nbf": now - 10, "iat": now, "exp": now + 300,
        "jti": format!("{:?}", SystemTime::now()), "access": access.into_iter().collect::<Vec<_>>(),
    });
    let text = format!(
        "{}.{}",
        url_safe(head.to_string().as_bytes()),
        url_safe(claims.to_string().as_bytes())
    );
    let key = PrivateKeyDer::from_pem_file(&signer.key).unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der(), &random).unwrap();
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    let token = format!("{text}.{}", url_safe(signature.as_ref()));
    Told::new(200, serde_json::json!({"token": token, "expires_in": 300}).to_string())
}

fn url_safe(bytes: &[u8]) -> String {
    base64::encode(bytes)
        .replace('+', "-")
        .replace('/', "_")
        .trim_end_matches('=')
        .to_owned()
}
