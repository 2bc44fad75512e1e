//! Enrolment: one document makes a device's settings, its keys are made on the device, and somebody signs its certificate.
//!
//! The document is an `agent.toml` as it is to be, with places that are filled in here, and behind it the broker's CA in PEM:
//! `{serial}` and `{machine-id}` (in names), `{ca}`, `{cert}`, `{key}` (paths). Or all of this in base64 behind `dunlin:`, as it fits
//! into a QR code.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::identity::{self, device_name};
use super::own_keys::OwnKeys;
use crate::config::agent::Settings;
use crate::disk::durable;
use crate::disk::layout::Layout;
use crate::types::base64;

/// Bytes of a document at the most.
pub const DOCUMENT: usize = 16 << 10;
/// What stands before base64.
pub const MARK: &str = "dunlin:";
const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// A document whose places are filled in as far as they do not depend on where the store is.
pub struct Enrolment {
    text: String,
    ca: String,
    ca_path: PathBuf,
    config: PathBuf,
    /// As they will be, but for paths.
    pub settings: Settings,
}

impl Enrolment {
    /// Reads a document for this settings file. An error says what is wrong; nothing is written.
    pub fn read(document: &[u8], config: &Path) -> Result<Enrolment, String> {
        if document.len() > DOCUMENT {
            return Err(format!("the document has more than {DOCUMENT} bytes"));
        }
        let text = String::from_utf8(document.to_vec()).map_err(|_| "the document is not UTF-8".to_owned())?;
        let text = match text.trim().strip_prefix(MARK) {
            Some(digits) => base64::decode(digits.trim_end())
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| format!("what stands behind `{MARK}` is not base64 of a text"))?,
            None => text,
        };
        let at = text.find(PEM).unwrap_or(text.len());
        let (head, ca) = (&text[..at], text[at..].trim());
        let wants_ca = head.contains("{ca}");
        if wants_ca == ca.is_empty() {
            return Err("`{ca}` and a certificate in PEM behind the settings belong together".into());
        }
        let ca_path = config.with_file_name("broker-ca.crt");
        let mut filled = head.replace("{ca}", plain(&ca_path)?);
        if filled.contains("{serial}") {
            let serial = identity::serial().ok_or("this device tells no serial number; use `{machine-id}`")?;
            filled = filled.replace("{serial}", &name(&serial));
        }
        if filled.contains("{machine-id}") {
            let id = identity::read_line("/etc/machine-id");
            if id.is_empty() {
                return Err("this device has no /etc/machine-id; use `{serial}`".into());
            }
            filled = filled.replace("{machine-id}", &name(&id));
        }
        let settings = Settings::parse(&filled, config).map_err(|error| error.to_string())?;
        if settings.mqtt.is_none() || settings.device.name.is_none() {
            return Err("the document needs `device.name` and `[mqtt]`".into());
        }
        Ok(Enrolment {
            text: filled,
            ca: format!("{ca}\n"),
            ca_path,
            config: config.to_owned(),
            settings,
        })
    }

    /// Writes the settings and the CA, for all to read. What is there stays unless it is to be replaced.
    pub fn write(&self, layout: &Layout, replace: bool) -> Result<(), String> {
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        let ca = (self.ca.len() > 1).then_some(&self.ca_path);
        if let Some(path) = [Some(&self.config), ca].into_iter().flatten().find(|path| there(path))
            && !replace
        {
            return Err(format!("`{}` exists; --replace writes over it", path.display()));
        }
        let (cert, key) = paths(layout);
        let text = self
            .text
            .replace("{cert}", plain(&cert)?)
            .replace("{key}", plain(&key)?);
        // The whole again: nothing is written that the agent would refuse.
        Settings::parse(&text, &self.config).map_err(|error| error.to_string())?;
        if let Some(folder) = self.config.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            durable::create_dirs(folder).map_err(|error| error.to_string())?;
        }
        if let Some(path) = ca {
            publish(path, &self.ca)?;
        }
        publish(&self.config, &text)
    }
}

/// What the operator needs of a device.
pub struct Enrolled {
    /// Its name.
    pub device: String,
    /// PKCS#10, PEM.
    pub request: String,
    /// Where the certificate belongs.
    pub certificate: PathBuf,
    /// Public keys in base64: of what it signs, and what secrets are sealed for.
    pub keys: [String; 2],
}

/// Makes the device's keys where there are none, and its request. Called as the store's owner.
pub fn keys(layout: &Layout, settings: &Settings) -> Result<Enrolled, String> {
    let device = device_name(settings).map_err(|error| error.to_string())?;
    let dir = layout.agent();
    durable::create_dirs(&dir).map_err(|error| error.to_string())?;
    let own = OwnKeys::open(&dir, &device).map_err(|error| error.to_string())?;
    let (certificate, key) = paths(layout);
    durable::write(&key, own.signing_pem().as_bytes()).map_err(|error| error.to_string())?;
    Ok(Enrolled {
        request: own.certificate_request(&device),
        keys: [own.signing_public(), own.sealing_public()],
        device,
        certificate,
    })
}

/// Of the device's certificate and its key.
fn paths(layout: &Layout) -> (PathBuf, PathBuf) {
    let dir = layout.agent();
    (dir.join("device.crt"), dir.join("device.key"))
}

/// A path that can stand in quotes as it is.
fn plain(path: &Path) -> Result<&str, String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\'', '\\']) && !text.contains(char::is_control));
    text.ok_or_else(|| {
        format!(
            "`{}`: the path has characters that settings cannot hold",
            path.display()
        )
    })
}

/// As much of an id as a device's name may have.
fn name(id: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    id.trim().chars().map(letter).collect()
}

/// Writes a whole file that everybody may read.
fn publish(path: &Path, text: &str) -> Result<(), String> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    durable::write(&new, text.as_bytes()).map_err(|error| error.to_string())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))
        .map_err(|error| format!("`{}`: {error}", new.display()))?;
    durable::rename(&new, path).map_err(|error| error.to_string())
}
