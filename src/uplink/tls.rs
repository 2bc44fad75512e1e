//! TLS to the broker: TLS 1.3 and 1.2 with ring, a private CA or the host's, a client certificate.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::agent::Mqtt;
use crate::config::authorities::{self, Authorities};
use crate::config::certs::{CertsError, read_certificates, read_key};

/// A certificate or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] CertsError),
    /// It can, and does not serve.
    #[error("`{path}`: {text}")]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
}

/// The client's TLS settings for a broker. A private CA stands alone; the host's are read with each connection.
pub fn client(mqtt: &Mqtt) -> Result<Arc<ClientConfig>, TlsError> {
    let unfit = |path: &Option<PathBuf>, text: String| TlsError::Unfit {
        path: path.clone().unwrap_or_else(|| PathBuf::from("(TLS)")),
        text,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = match &mqtt.ca {
        Some(path) => Authorities::new(provider.clone(), read_certificates(path)?, Vec::new()),
        None => Authorities::new(provider.clone(), Vec::new(), authorities::bundles()),
    };
    let verifier = verifier.map_err(|e| unfit(&mqtt.ca, format!("is not a CA certificate: {e}")))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&None, e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&mqtt.cert, &mqtt.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(read_certificates(cert)?, read_key(key)?)
            .map_err(|e| unfit(&mqtt.cert, format!("does not fit the key: {e}")))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = mqtt.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    Ok(Arc::new(config))
}
