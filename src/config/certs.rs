//! certs.d: the authorities and client certificates that belong to one registry.
//!
//! Source of the rules: containers-certs.d(5). The first folder that holds `HOST[:PORT]` counts, the others are not read. In it
//! every `*.crt` is an authority, every `*.cert` a client certificate with its key in `*.key` of the same name.

use crate::types::sorted::Sorted;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::authorities;
use super::folders::Folders;
use crate::disk::{DiskError, durable};
use crate::types::bounds::{CERTIFICATE_FILES, ECOSYSTEM_FILE_BYTES};

/// Where certificates are looked for. Every path may be absent.
#[derive(Debug, Clone, Default)]
pub struct CertPlaces {
    /// Folders that hold the files of one registry (`HOST[:PORT]`) directly; they are read instead of all others.
    pub given: Sorted<String, PathBuf>,
    /// Folders that hold one folder per registry, in the order in which they are asked.
    pub folders: Vec<PathBuf>,
    /// Bundles of public authorities; the first that exists counts.
    pub bundles: Vec<PathBuf>,
}

/// What one registry's folder holds.
#[derive(Debug, Default)]
pub struct HostCerts {
    /// Authorities trusted for this registry in addition to the public ones.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The chain and key that are shown to the registry.
    pub client: Option<ClientCert>,
}

/// A client certificate.
#[derive(Debug)]
pub struct ClientCert {
    /// The certificate first, then its issuers.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file or folder exists and cannot be read.
    #[error("certificates: {0}")]
    File(#[from] DiskError),
    /// A file does not hold what its name promises.
    #[error("certificates: `{}` holds no usable {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate without key or a key without certificate.
    #[error("certificates: `{}` is missing; `{}` needs it", missing.display(), path.display())]
    Unpaired {
        /// The file that exists.
        path: PathBuf,
        /// The file that should.
        missing: PathBuf,
    },
    /// More than this program reads.
    #[error("certificates: `{}` has more than {limit} {what}", path.display())]
    TooMuch {
        /// The file or folder.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

impl CertPlaces {
    /// The usual places: a named folder first, then the user's, the system's and Docker's.
    pub fn usual(named: Option<&Path>, user: &Folders) -> Self {
        let mut folders: Vec<PathBuf> = named.map(Path::to_owned).into_iter().collect();
        folders.extend(user.config.as_ref().map(|dir| dir.join("certs.d")));
        folders.push("/etc/containers/certs.d".into());
        folders.push("/etc/docker/certs.d".into());
        Self {
            folders,
            bundles: authorities::bundles(),
            ..Self::default()
        }
    }

    /// The folder for `host` (`name[:port]` as written in references), where one exists.
    pub fn folder(&self, host: &str) -> Option<PathBuf> {
        if let Some(given) = self.given.get(host) {
            return Some(given.clone());
        }
        if host.is_empty() || host.starts_with('.') || host.contains(['/', '\0']) {
            return None;
        }
        self.folders
            .iter()
            .map(|folder| folder.join(host))
            .find(|folder| folder.is_dir())
    }

    /// Reads what there is for `host`; nothing where no folder exists.
    pub fn read(&self, host: &str) -> Result<HostCerts, CertsError> {
        match self.folder(host) {
            Some(folder) => read_folder(&folder),
            None => Ok(HostCerts::default()),
        }
    }
}

/// The certificates of one PEM file, at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let content = || CertsError::Content {
        path: path.to_owned(),
        what: "certificate",
    };
    let pem = durable::read(path, ECOSYSTEM_FILE_BYTES)?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| content())?;
    if all.is_empty() { Err(content()) } else { Ok(all) }
}

/// The private key of one PEM file.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertsError> {
    let pem = durable::read(path, ECOSYSTEM_FILE_BYTES)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| CertsError::Content {
        path: path.to_owned(),
        what: "private key",
    })
}

fn read_folder(folder: &Path) -> Result<HostCerts, CertsError> {
    let read = |source| DiskError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        paths.push(entry.map_err(read)?.path());
        if paths.len() > CERTIFICATE_FILES {
            return Err(CertsError::TooMuch {
                path: folder.to_owned(),
                what: "files",
                limit: CERTIFICATE_FILES as u64,
            });
        }
    }
    paths.sort();
    let mut found = HostCerts::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.extend(read_certificates(&path)?),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(CertsError::Unpaired { path, missing: key });
                }
                if found.client.is_none() {
                    found.client = Some(ClientCert {
                        chain: read_certificates(&path)?,
                        key: read_key(&key)?,
                    });
                }
            }
            Some("key") => {
                let cert = path.with_extension("cert");
                if !cert.exists() {
                    return Err(CertsError::Unpaired { path, missing: cert });
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_folder_with_the_host_counts_and_pairs_are_checked() {
        let scratch = std::env::temp_dir().join(format!("dunlin-certs-{}", std::process::id()));
        let (one, two) = (scratch.join("one"), scratch.join("two"));
        std::fs::create_dir_all(two.join("reg.example:5000")).unwrap();
        std::fs::create_dir_all(one.join("other.example")).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["reg.example".into()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let folder = two.join("reg.example:5000");
        std::fs::write(folder.join("ca.crt"), cert.pem()).unwrap();
        std::fs::write(folder.join("client.cert"), cert.pem()).unwrap();

        let mut places = CertPlaces {
            folders: vec![one.clone(), two],
            ..Default::default()
        };
        assert!(matches!(
            places.read("reg.example:5000"),
            Err(CertsError::Unpaired { .. })
        ));
        std::fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
        let found = places.read("reg.example:5000").unwrap();
        assert_eq!(found.authorities.len(), 1);
        assert_eq!(found.client.unwrap().chain.len(), 1);
        places.given.insert("given.example".to_owned(), folder.clone());
        assert!(places.read("given.example").unwrap().client.is_some());

        assert!(places.read("unknown.example").unwrap().client.is_none());
        for host in ["", "..", ".", "../two/reg.example:5000", "a/b"] {
            assert_eq!(places.folder(host), None, "{host}");
        }

        std::fs::write(folder.join("ca.crt"), "no certificate").unwrap();
        assert!(matches!(
            places.read("reg.example:5000"),
            Err(CertsError::Content { .. })
        ));
        std::fs::create_dir(one.join("reg.example:5000")).unwrap();
        std::fs::write(one.join("reg.example:5000/alone.key"), key.serialize_pem()).unwrap();
        assert!(matches!(
            places.read("reg.example:5000"),
            Err(CertsError::Unpaired { .. })
        ));
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
