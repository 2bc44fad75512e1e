//! TLS to the broker: TLS 1.3 and 1.2 with ring, a private CA or the public ones, a client certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::agent::Mqtt;
use crate::disk::durable;
use crate::types::bounds::CONFIG_FILE_BYTES;

/// A certificate or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {text}")]
pub struct TlsError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub text: String,
}

fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    durable::read(path, CONFIG_FILE_BYTES as u64).map_err(|e| TlsError {
        path: path.to_owned(),
        text: e.to_string(),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |text: String| TlsError {
        path: path.to_owned(),
        text,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
    let found = found.map_err(|e| bad(format!("is not PEM: {e}")))?;
    if found.is_empty() {
        Err(bad("holds no certificate".into()))
    } else {
        Ok(found)
    }
}

/// The client's TLS settings for a broker.
pub fn client(mqtt: &Mqtt) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &mqtt.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| TlsError {
                    path: path.clone(),
                    text: format!("is not a CA certificate: {e}"),
                })?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let nowhere = |text: String| TlsError {
        path: PathBuf::from("(TLS)"),
        text,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| nowhere(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&mqtt.cert, &mqtt.key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let private = PrivateKeyDer::from_pem_slice(&pem(key)?).map_err(|e| TlsError {
                path: key.clone(),
                text: format!("holds no private key: {e}"),
            })?;
            builder.with_client_auth_cert(chain, private).map_err(|e| TlsError {
                path: cert.clone(),
                text: format!("does not fit the key: {e}"),
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = mqtt.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(Arc::new(config))
}
