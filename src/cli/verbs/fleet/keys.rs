//! fleet keygen, fleet sign: keys in files, signatures on documents.

use super::{Call, Failure, document, print};
use crate::disk::durable;
use crate::fleet::{load_keys, sign as signing};
use crate::types::keys::ROLES;
use crate::types::text::is_name;
use crate::uplink::dsse::SigningKey;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// `fleet keygen`.
pub fn generate(call: &Call) -> Result<u8, Failure> {
    let path = Path::new(call.args.sure("FILE"));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let id = call.args.one("id").unwrap_or(&stem);
    if !is_name(id) {
        return Err(Failure::new(format!(
            "`{id}` is no name for a key: [a-z0-9][a-z0-9_-]{{0,62}}; say --id"
        )));
    }
    let roles = call.args.many("role");
    if let Some(bad) = roles.iter().find(|role| !ROLES.contains(&role.as_str())) {
        return Err(Failure::new(format!(
            "`{bad}` is no role: root, deploy, command, secret"
        )));
    }
    let key = SigningKey::generate(id).map_err(|error| Failure::new(error.to_string()))?;
    let failed = |error: std::io::Error| Failure::new(format!("`{}`: {error}", path.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = file
        .write_all(signing::pem(&key).as_bytes())
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key is of no use to anybody.
        let _ = std::fs::remove_file(path);
        return Err(failed(error));
    }
    durable::sync_parent(path)?;
    print(&signing::roles_toml(&key, roles))?;
    Ok(0)
}

/// `fleet sign`.
pub fn sign(call: &Call) -> Result<u8, Failure> {
    let word = call.args.one("kind").unwrap_or("desired");
    let kind = signing::kind(word).ok_or_else(|| {
        Failure::new(format!(
            "`{word}` is no kind: desired, assign, command, secret, keys, agent"
        ))
    })?;
    let text = document(call.args.one("FILE").unwrap_or("-"))?;
    let keys = load_keys(&call.settings.keys)?;
    let signed = signing::sign_or_add(kind, text.as_bytes(), &keys)?;
    print(&(String::from_utf8_lossy(&signed).into_owned() + "\n"))?;
    Ok(0)
}
