//! Whom to believe that a server is who it says: its own authorities, and the host's bundle of public ones. The bundle is read when
//! a server shows a certificate that its own authorities do not explain, and not kept: parsed it takes more memory than an idle agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::env;
use crate::disk::durable;
use crate::types::bounds::AUTHORITIES_BYTES;

/// Files where distributions keep the authorities that the host trusts, in the order in which Go's programs look for them.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the host's bundle may be: the file of `SSL_CERT_FILE`, else the usual ones. The first that exists counts.
pub fn bundles() -> Vec<PathBuf> {
    match env::get(env::SSL_CERT_FILE) {
        Some(path) => vec![path.into()],
        None => BUNDLES.map(PathBuf::from).to_vec(),
    }
}

/// The bundle that counts; none where none exists.
pub fn bundle(bundles: &[PathBuf]) -> Option<&Path> {
    bundles.iter().map(PathBuf::as_path).find(|path| path.is_file())
}

/// Judges servers' certificates.
#[derive(Debug)]
pub struct Authorities {
    provider: Arc<CryptoProvider>,
    own: Option<Arc<WebPkiServerVerifier>>,
    bundles: Vec<PathBuf>,
}

impl Authorities {
    /// The `own` ones of a server first, then those of the first of `bundles` that exists.
    ///
    /// # Errors
    /// Says why an own one cannot be used.
    pub fn new(
        provider: Arc<CryptoProvider>,
        own: Vec<CertificateDer<'static>>,
        bundles: Vec<PathBuf>,
    ) -> Result<Arc<Self>, Error> {
        let mut roots = RootCertStore::empty();
        for authority in own {
            roots.add(authority)?;
        }
        let own = match roots.is_empty() {
            true => None,
            false => Some(verifier(roots, &provider)?),
        };
        Ok(Arc::new(Self { provider, own, bundles }))
    }

    /// Those of the host, as they are now.
    fn host(&self) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let Some(path) = bundle(&self.bundles) else {
            let (first, others) = match self.bundles.as_slice() {
                [one] => (one.display().to_string(), ""),
                _ => (BUNDLES[0].to_owned(), " nor where other systems keep it"),
            };
            return Err(Error::General(format!(
                "the bundle of public authorities is missing: `{first}` is not there{others}; install the package \
                 `ca-certificates`, or give the server's own authority"
            )));
        };
        let pem = durable::read(path, AUTHORITIES_BYTES).map_err(|error| Error::General(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(Error::General(format!(
                "`{}` holds no certificate authority",
                path.display()
            )));
        }
        verifier(roots, &self.provider)
    }
}

fn verifier(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = |by: &WebPkiServerVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.own {
            None => judge(&*self.host()?),
            Some(own) => match judge(own) {
                Err(unknown @ Error::InvalidCertificate(CertificateError::UnknownIssuer)) => match self.host() {
                    Ok(host) => judge(&host),
                    Err(_) => Err(unknown),
                },
                judged => judged,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
