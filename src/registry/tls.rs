//! TLS of the registry client: whom to trust, whom to show a certificate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::error::RegistryError;
use crate::config::authorities::Authorities;
use crate::config::certs::CertPlaces;
use crate::types::bounds::REGISTRY_HOSTS;

/// The TLS settings of each host, made once and kept.
#[derive(Debug)]
pub(crate) struct Tls {
    places: CertPlaces,
    provider: Arc<CryptoProvider>,
    made: Mutex<HashMap<(String, bool), Arc<ClientConfig>>>,
}

impl Tls {
    pub(crate) fn new(places: CertPlaces) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self {
            places,
            provider,
            made: Mutex::default(),
        }
    }

    /// Whether certs.d knows `host` (as written in references).
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.places.folder(host).is_some()
    }

    /// The settings for `host` (as written in references). Unverified ones are for registries listed as insecure.
    pub(crate) fn config(&self, host: &str, verified: bool) -> Result<Arc<ClientConfig>, RegistryError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), verified);
        if let Some(config) = made.get(&key) {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(host, verified)?);
        if made.len() >= REGISTRY_HOSTS {
            made.clear();
        }
        made.insert(key, config.clone());
        Ok(config)
    }

    fn make(&self, host: &str, verified: bool) -> Result<ClientConfig, RegistryError> {
        let failed = |detail: String| RegistryError::Tls {
            host: host.to_owned(),
            detail,
        };
        let certs = self.places.read(host)?;
        let verifier: Arc<dyn ServerCertVerifier> = if verified {
            Authorities::new(self.provider.clone(), certs.authorities, self.places.bundles.clone())
                .map_err(|error| failed(format!("an authority in certs.d is not usable: {error}")))?
        } else {
            Arc::new(Unverified {
                provider: self.provider.clone(),
            })
        };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match certs.client {
            Some(client) => builder
                .with_client_auth_cert(client.chain, client.key)
                .map_err(|error| failed(format!("the client certificate in certs.d is not usable: {error}")))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Accepts every certificate whose key the server holds; only for registries that are listed as insecure.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
