//! fleet keygen, sign, keys, secret: keys in files, signatures on documents, what is sealed.

use super::super::super::failure::say;
use super::{Call, Failure, document, print};
use crate::disk::durable;
use crate::fleet::rollout::publish_ready;
use crate::fleet::secret::{self, Wish};
use crate::fleet::seen::{Document, Seen};
use crate::fleet::{Target, load_keys, rotation, sign as signing};
use crate::types::keys::ROLES;
use crate::types::read;
use crate::types::text::is_name;
use crate::uplink::dsse::SigningKey;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

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
    let signed = signing::sign_or_add(kind, text.as_bytes(), call.settings.encoding, &keys)?;
    print(&(String::from_utf8_lossy(&signed).into_owned() + "\n"))?;
    Ok(0)
}

/// `fleet keys rotate`.
pub fn rotate(call: &Call) -> Result<u8, Failure> {
    let action = call.args.sure("ACTION");
    if action != "rotate" {
        return Err(Failure::new(format!("`fleet keys {action}` is not known; `rotate` is")));
    }
    let text = document(call.args.sure("FILE"))?;
    let ready = read::json_any(text.as_bytes()).is_ok_and(|value| value["payloadType"].is_string());
    let operator = call.operator()?;
    let mut link = call.link(&operator)?;
    link.subscribe(["keys/+".to_owned()]);
    let mut present: (u64, Vec<u8>) = (call.settings.fleet.version.unwrap_or(1), Vec::new());
    let mut wait = Duration::from_millis(1500).min(call.timeout);
    while let Some(heard) = link.next(wait)? {
        let version = heard.topic.strip_prefix("keys/").and_then(|v| v.parse::<u64>().ok());
        if let Some(version) = version.filter(|v| *v > present.0 && !heard.payload.is_empty()) {
            present = (version, heard.payload);
        }
        wait = Duration::from_millis(500);
    }
    let (version, retained) = present;
    let message = if ready {
        signing::ready(text.trim().as_bytes())?
    } else {
        let set = rotation::document(&text, version + 1)?;
        if call.args.has("dry-run") {
            link.close();
            let shown = serde_json::to_value(&set).map_err(|e| Failure::new(e.to_string()))?;
            return print(&format!("{shown:#}\n")).map(|()| 0);
        }
        rotation::signed(&set, &operator.keys)?
    };
    let before = rotation::present((!retained.is_empty()).then_some(&retained[..]), &call.settings.fleet)?;
    let next = rotation::check(&message, before.as_ref())?;
    if next != version + 1 {
        return Err(Failure::new(format!(
            "the document is version {next}, the next one is {}",
            version + 1
        )));
    }
    publish_ready(&mut link, &format!("keys/{next}"), &message)?;
    link.close();
    print(&format!("keys version {next}\n"))?;
    Ok(0)
}

/// `fleet secret put`, `fleet secret rm`.
pub fn secret(call: &Call) -> Result<u8, Failure> {
    let args = call.args;
    let put = match args.sure("ACTION") {
        "put" => true,
        "rm" => false,
        other => return Err(Failure::new(format!("`fleet secret {other}` is not known: put, rm"))),
    };
    let text = if put {
        document(args.one("FILE").unwrap_or("-"))?
    } else {
        String::new()
    };
    let operator = call.operator()?;
    let device = call.device()?;
    let name = args.sure("NAME");
    let mut link = call.link(&operator)?;
    let topic = format!("d/{device}/secret/{name}");
    link.subscribe([format!("d/{device}/caps"), topic.clone()]);
    let (mut known, mut before) = (Seen::default(), 0);
    let mut wait = Duration::from_millis(1500).min(call.timeout);
    while let Some(heard) = link.next(wait)? {
        if heard.topic == topic {
            before = Document::said(&heard.payload)["generation"].as_u64().unwrap_or(0);
        }
        known.take(&heard, &operator.trusted);
        wait = Duration::from_millis(500);
    }
    let caps = known
        .devices
        .get(&device)
        .map(|device| device.caps["sealing"].clone())
        .unwrap_or_default();
    let key = match (args.one("sealing-key"), caps.as_str()) {
        (Some(key), _) => key.to_owned(),
        (None, Some(key)) if !key.is_empty() => key.to_owned(),
        (None, _) if !put => String::new(),
        (None, _) => {
            return Err(Failure::new(format!(
                "the broker has no key of `d/{device}` to seal for; was it connected, or say --sealing-key"
            )));
        }
    };
    let wish = Wish {
        device: &device,
        name,
        registry: args.one("registry"),
        text: put.then_some(text.as_bytes()),
    };
    let message = secret::message(&wish, &key, before, &operator)?;
    publish_ready(&mut link, &topic, &message)?;
    link.close();
    if put && args.one("sealing-key").is_none() {
        say(&format!(
            "sealed for the key {key}, which the broker has for `d/{device}`"
        ));
    }
    print(&format!("{} {name}\n", Target::Device(device).audience()))?;
    Ok(0)
}
