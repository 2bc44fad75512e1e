//! Secrets and registry credentials that the operator sealed for this device.
//!
//! ```text
//! <data>/secrets/files/NAME    what `secrets = ["NAME"]` of an app finds at /run/secrets/NAME; readable inside, closed to others by the folder
//! <data>/secrets/auth.json     credentials of registries, asked after the device's own
//! ```

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::config::auth::AuthPlaces;
use crate::disk::layout::Layout;
use crate::disk::{DiskError, durable};
use crate::types::base64;
use crate::types::bounds::SECRETS;
use crate::types::deployment::{Cause, Reason};
use crate::types::document::Secret;
use crate::types::read;
use crate::uplink::seal;

/// The device's secrets.
#[derive(Debug, Clone)]
pub struct Secrets {
    files: PathBuf,
    auth: PathBuf,
}

impl Secrets {
    /// Those of a store.
    pub fn new(layout: &Layout) -> Secrets {
        Secrets {
            files: layout.secret_files(),
            auth: layout.fleet_auth(),
        }
    }

    /// Lets containers read what is there: a power cut may have come between a file and its mode.
    pub fn settle(&self) {
        for entry in fs::read_dir(&self.files).into_iter().flatten().flatten() {
            // One that is just being replaced has a new mode anyway.
            let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o444));
        }
    }

    /// Opens a secret and keeps it, or removes it; on disk when this returns.
    pub fn take(&self, key: &[u8; 32], secret: &Secret) -> Result<Result<(), Cause>, DiskError> {
        let file = self.files.join(&secret.name);
        let Some(sealed) = &secret.sealed else {
            return match &secret.registry {
                Some(registry) => Ok(self.forget_login(registry)),
                None => durable::remove_file(&file).map(Ok),
            };
        };
        let refuse = |text: String| {
            Ok(Err(Cause::new(
                Reason::Verify,
                format!("secret `{}`: {text}", secret.name),
            )))
        };
        let Some(sealed) = base64::decode(sealed) else {
            return refuse("`sealed` is not base64".into());
        };
        let aad = seal::place(&secret.audience, &secret.name, secret.generation);
        let text = match seal::open(key, seal::SECRET, aad.as_bytes(), &sealed) {
            Ok(text) => text,
            Err(error) => return refuse(error.to_string()),
        };
        if let Some(registry) = &secret.registry {
            return Ok(self.login(registry, &text));
        }
        durable::create_dirs(&self.files)?;
        let there = fs::read_dir(&self.files)
            .map_err(DiskError::io("read", &self.files))?
            .count();
        if there >= SECRETS && !file.exists() {
            return Ok(Err(Cause::new(
                Reason::Busy,
                format!("at most {SECRETS} secrets are kept"),
            )));
        }
        durable::write(&file, &text)?;
        fs::set_permissions(&file, Permissions::from_mode(0o444))
            .map_err(DiskError::io("let containers read", &file))?;
        Ok(Ok(()))
    }

    fn places(&self) -> AuthPlaces {
        AuthPlaces {
            files: vec![self.auth.clone()],
            ..AuthPlaces::default()
        }
    }

    fn login(&self, registry: &str, text: &[u8]) -> Result<(), Cause> {
        let schema = |text: String| Cause::new(Reason::Schema, text);
        let value = read::json_any(text).map_err(|_| schema("the credential is not JSON".into()))?;
        let (Some(user), Some(password)) = (value["username"].as_str(), value["password"].as_str()) else {
            return Err(schema("the credential needs `username` and `password`".into()));
        };
        AuthPlaces::check_user(user).map_err(|error| schema(error.to_string()))?;
        let stored = durable::create_dirs(self.auth.parent().unwrap_or(&self.files)).map_err(|e| e.to_string());
        let stored = stored.and_then(|()| self.places().store(registry, user, password).map_err(|e| e.to_string()));
        stored.map(drop).map_err(|text| Cause::new(Reason::Disk, text))
    }

    fn forget_login(&self, registry: &str) -> Result<(), Cause> {
        match self.places().remove(registry) {
            Ok(_) | Err(crate::config::auth::AuthError::NotLoggedIn { .. }) => Ok(()),
            Err(error) => Err(Cause::new(Reason::Disk, error.to_string())),
        }
    }

    /// Removes all of them.
    pub fn wipe(&self) -> Result<(), DiskError> {
        durable::remove_file(&self.auth)?;
        for entry in fs::read_dir(&self.files).into_iter().flatten().flatten() {
            durable::remove_file(&entry.path())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_opened_kept_and_removed() {
        let dir = std::env::temp_dir().join(format!("dunlin-secrets-{}", std::process::id()));
        let layout = Layout::new(dir.join("data"), dir.join("run"));
        let secrets = Secrets::new(&layout);
        let key = [5; 32];
        let sealed = |name: &str, generation: u64, text: &str| {
            let aad = seal::place("d/gw", name, generation);
            let bytes = seal::seal(
                &seal::public(&key),
                [6; 32],
                seal::SECRET,
                aad.as_bytes(),
                text.as_bytes(),
            )
            .unwrap();
            Some(base64::encode(&bytes))
        };
        let document = |name: &str, sealed: Option<String>, registry: Option<&str>| Secret {
            audience: "d/gw".into(),
            generation: 7,
            issued_at: "2026-11-21T22:00:00Z".into(),
            expires_at: None,
            min_agent: None,
            name: name.into(),
            registry: registry.map(str::to_owned),
            sealed,
        };
        let good = document("db", sealed("db", 7, "hunter2"), None);
        secrets.take(&key, &good).unwrap().unwrap();
        let file = layout.secret_files().join("db");
        assert_eq!(fs::read(&file).unwrap(), b"hunter2");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(
            fs::metadata(layout.secret_files()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        // For another name, another generation, another key; not base64.
        for (wrong, key) in [
            (document("db", sealed("other", 7, "x"), None), [5; 32]),
            (document("db", sealed("db", 8, "x"), None), [5; 32]),
            (document("db", sealed("db", 7, "x"), None), [9; 32]),
            (document("db", Some("***".into()), None), [5; 32]),
        ] {
            assert_eq!(secrets.take(&key, &wrong).unwrap().unwrap_err().code, Reason::Verify);
        }
        assert_eq!(fs::read(&file).unwrap(), b"hunter2");
        let login = r#"{"username":"u","password":"p"}"#;
        secrets
            .take(&key, &document("reg", sealed("reg", 7, login), Some("r.example")))
            .unwrap()
            .unwrap();
        assert!(fs::read_to_string(layout.fleet_auth()).unwrap().contains("r.example"));
        let bad = document("reg", sealed("reg", 7, "{}"), Some("r.example"));
        assert_eq!(secrets.take(&key, &bad).unwrap().unwrap_err().code, Reason::Schema);
        secrets
            .take(&key, &document("reg", None, Some("r.example")))
            .unwrap()
            .unwrap();
        assert!(!fs::read_to_string(layout.fleet_auth()).unwrap().contains("r.example"));
        secrets.take(&key, &document("db", None, None)).unwrap().unwrap();
        assert!(!file.exists());
        secrets.take(&key, &good).unwrap().unwrap();
        secrets.wipe().unwrap();
        assert!(!file.exists() && !layout.fleet_auth().exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
