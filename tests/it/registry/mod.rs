//! The registry client against a real docker-registry and against a server that misbehaves.

mod access;
mod faults;
pub mod faulty;
pub mod guarded;
pub mod proxy;
mod real;
mod tags;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use dunlin::config::auth::AuthPlaces;
use dunlin::config::certs::CertPlaces;
use dunlin::config::registries::Registries;
use dunlin::registry::{BlobStream, Client, Descriptor, Limits, RegistryError, Settings};
use dunlin::types::digest::Digest;
use dunlin::types::reference::Reference;

/// Settings without any file of the machine, with short time-outs.
pub fn settings() -> Settings {
    let mut settings = Settings::new(Registries::default(), AuthPlaces::default(), CertPlaces::default());
    settings.limits = Limits {
        connect: Duration::from_secs(5),
        tls: Duration::from_secs(5),
        head: Duration::from_secs(1),
        stall: Duration::from_millis(400),
        small: Duration::from_secs(5),
        attempts: 4,
        pause: Duration::from_millis(4),
        pause_max: Duration::from_millis(20),
        retry_after_max: Duration::from_secs(3),
    };
    settings
}

/// The same with a registries.conf.
fn settings_with(registries: &str) -> Settings {
    let mut settings = settings();
    settings
        .registries
        .merge(registries, Path::new("registries.conf"))
        .unwrap();
    settings
}

fn client() -> Client {
    Client::new(settings())
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Bytes that repeat nowhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn descriptor(blob: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".into(),
        digest: Digest::of(blob),
        size: blob.len() as u64,
    }
}

async fn read(stream: &mut BlobStream) -> Result<Vec<u8>, RegistryError> {
    let mut all = Vec::new();
    while let Some(data) = stream.next().await? {
        assert!(!data.is_empty());
        all.extend_from_slice(&data);
        assert_eq!(stream.offset(), all.len() as u64);
    }
    Ok(all)
}
