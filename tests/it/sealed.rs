//! What an operator sends beside desired states: other keys, secrets, the end of a device's service.

use serde_json::{Value, json};

use dunlin::types::base64;
use dunlin::uplink::dsse::{self, Kind, SigningKey};
use dunlin::uplink::seal;

use crate::device::{Device, Setup, now, wait};
use crate::fixture::images::{Format, Index};

fn envelope(kind: Kind, document: &Value, keys: &[&SigningKey]) -> Vec<u8> {
    let mut envelope = dsse::wrap(kind, document.to_string().as_bytes());
    for key in keys {
        key.sign(&mut envelope).unwrap();
    }
    serde_json::to_vec(&envelope).unwrap()
}

/// The device's newest message on one of its topics.
fn newest(device: &Device, leaf: &str) -> Option<Vec<u8>> {
    let topic = format!("dunlin/v1/d/dev/{leaf}");
    let all = device.watch.messages().into_iter().rev();
    all.filter(|m| m.topic == topic).map(|m| m.payload).next()
}

fn caps(device: &mut Device) -> Value {
    device.hear("caps", "caps", |v| v["sealing"].as_str().is_some_and(|k| !k.is_empty()))
}

fn secret(device: &Device, sealing: &str, name: &str, generation: u64, text: &str, registry: Option<&str>) -> Value {
    let key: [u8; 32] = base64::decode(sealing).unwrap().try_into().unwrap();
    let aad = seal::place("d/dev", name, generation);
    let mut random = [0; 32];
    dunlin::sys::clock::random(&mut random).unwrap();
    let sealed = seal::seal(&key, random, seal::SECRET, aad.as_bytes(), text.as_bytes()).unwrap();
    let mut document = json!({
        "audience": "d/dev", "generation": generation, "issued_at": now().rfc3339(), "name": name,
        "sealed": base64::encode(&sealed),
    });
    if let Some(registry) = registry {
        document["registry"] = registry.into();
    }
    device.broker.publish(
        &format!("dunlin/v1/d/dev/secret/{name}"),
        envelope(Kind::Secret, &document, &[&device.key]),
        true,
    );
    document
}

#[test]
fn secrets_reach_the_apps_that_name_them_and_nobody_else() {
    let mut device = device!("secrets", Setup::default());
    device.start();
    let sealing = caps(&mut device)["sealing"].as_str().unwrap().to_owned();
    let generation = now().seconds();
    let sent = secret(&device, &sealing, "db", generation, "hunter2", None);
    let index = Index::each(Format::Oci, |recipe| recipe);
    let image = device.registry.push("web", "v1", &index);
    let app = |secrets: Value| {
        json!([{
            "name": "web", "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
            "user": "1000:1000", "secrets": secrets,
            "health": {"exec": ["true"], "interval": "1s", "start_interval": "100ms"}, "update": {"soak": "1s"},
        }])
    };
    let data = device.scratch.join("data");
    wait("the secret", || data.join("secrets/files/db").exists());
    let good = device.deploy(app(json!(["db"])));
    device.wait_state(&good, "COMMITTED");
    let look = "cat /run/secrets/db && ! (echo x >/run/secrets/db) 2>/dev/null";
    assert_eq!(device.dunlin().args(["exec", "web", "sh", "-c", look]).ok(), "hunter2");
    let inspect = device.dunlin().args(["inspect", "web"]).ok();
    assert!(!inspect.contains("hunter2"));
    for message in device.watch.messages() {
        assert!(
            !String::from_utf8_lossy(&message.payload).contains("hunter2"),
            "{}",
            message.topic
        );
    }
    // One that is not there is told before anything stops.
    let missing = device.deploy(app(json!(["db", "nope"])));
    let record = device.wait_state(&missing, "FAILED");
    assert!(
        record["reason"]["detail"].as_str().unwrap().contains("`nope`"),
        "{record}"
    );
    assert_eq!(device.running(), [format!("web {image}")]);

    // Replayed under another name, for another key, older: refused and told; the file stays.
    let count = |device: &Device| {
        device
            .watch
            .messages()
            .iter()
            .filter(|m| m.topic.ends_with("evt/document"))
            .count()
    };
    let mut moved = sent.clone();
    moved["name"] = "other".into();
    let foreign = base64::encode(&seal::public(&[9; 32]));
    let before = count(&device);
    device.broker.publish(
        "dunlin/v1/d/dev/secret/other",
        envelope(Kind::Secret, &moved, &[&device.key]),
        false,
    );
    wait("a refusal", || count(&device) > before);
    secret(&device, &foreign, "db", generation + 5, "x", None);
    wait("a refusal", || count(&device) > before + 1);
    secret(&device, &sealing, "db", generation - 5, "x", None);
    wait("a refusal", || count(&device) > before + 2);
    assert_eq!(std::fs::read(data.join("secrets/files/db")).unwrap(), b"hunter2");

    // The device is retired: its secrets are gone, and the broker keeps nothing of it.
    let assign = json!({"audience": "d/dev", "generation": generation, "issued_at": now().rfc3339(), "retired": true});
    device.broker.publish(
        "dunlin/v1/d/dev/assign",
        envelope(Kind::Assign, &assign, &[&device.key]),
        true,
    );
    wait("the end of its secrets", || !data.join("secrets/files/db").exists());
    for leaf in ["caps", "reported", "deploy", "presence"] {
        wait(&format!("an empty {leaf}"), || {
            newest(&device, leaf).is_some_and(|payload| payload.is_empty())
        });
    }
    assert_eq!(
        device.running(),
        [format!("web {image}")],
        "its apps are left as they are"
    );
    device.clean();
}

#[test]
fn a_registry_s_credential_comes_sealed() {
    let mut device = device!("secret-registry", Setup::default());
    let registry = crate::fixture::registry::Registry::plain_with_password("fleet", "sesame");
    let index = Index::each(Format::Oci, |recipe| recipe);
    let image = registry.push("web", "v1", &index);
    device.start();
    let sealing = caps(&mut device)["sealing"].as_str().unwrap().to_owned();
    let app = json!([{
        "name": "web", "image": image, "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
        "update": {"soak": "1s"},
    }]);
    let denied = device.deploy(app.clone());
    let record = device.wait_state(&denied, "FAILED");
    assert_eq!(record["reason"]["code"], "auth", "{record}");
    let login = json!({"username": "fleet", "password": "sesame"}).to_string();
    secret(
        &device,
        &sealing,
        "reg",
        now().seconds(),
        &login,
        Some(&registry.host()),
    );
    let file = device.scratch.join("data/secrets/auth.json");
    wait("the credential", || file.exists());
    let allowed = device.deploy(app);
    device.wait_state(&allowed, "COMMITTED");
    device.clean();
}

#[test]
fn keys_are_replaced_without_touching_the_device() {
    let root = SigningKey::generate("root").unwrap();
    let public = |key: &SigningKey| base64::encode(&key.public().bytes);
    let settings = format!("[[fleet.keys]]\nid='root'\npublic='{}'\nroles=['root']", public(&root));
    let mut device = device!(
        "keys",
        Setup {
            settings,
            ..Setup::default()
        }
    );
    device.start();
    let (old, new, next_root) = (
        SigningKey::from_pkcs8("operator", device.key.pkcs8()).unwrap(),
        SigningKey::generate("new").unwrap(),
        SigningKey::generate("root2").unwrap(),
    );
    let keys = |version: u64, root: &SigningKey, operator: &SigningKey| {
        json!({
            "audience": "*", "generation": version, "issued_at": now().rfc3339(),
            "keys": [
                {"id": "root", "public": public(root), "roles": ["root"]},
                {"id": "operator", "public": public(operator)},
            ],
        })
    };
    // Version 3 comes first: it waits at the broker until 2 has counted.
    let third = envelope(Kind::Keys, &keys(3, &next_root, &new), &[&next_root]);
    device.broker.publish("dunlin/v1/keys/3", third, true);
    let wrong = envelope(Kind::Keys, &keys(2, &next_root, &new), &[&old, &next_root]);
    device.broker.publish("dunlin/v1/keys/2", wrong, true);
    device.hear("the refusal of keys that no root signed", "reported", |v| {
        v["refused"]["sig_invalid"] == 1
    });
    let second = envelope(Kind::Keys, &keys(2, &next_root, &new), &[&root, &next_root]);
    device.broker.publish("dunlin/v1/keys/2", second, true);
    device.hear("version 3", "caps", |v| v["key_version"] == 3);
    // The old operator is nobody now, also after a restart; the new one is.
    let before = device.document(json!([]));
    device.publish(before);
    device.hear("the refusal of the old key", "reported", |v| {
        v["refused"]["sig_invalid"] == 2
    });
    device.clean();
    device.start();
    device.key = new;
    let activity = device.deploy(json!([]));
    device.hear("the new operator's document", "reported", |v| {
        v["generation"].as_u64() == activity.strip_prefix("act-").and_then(|n| n.parse().ok())
    });
    device.clean();
}

#[test]
fn an_enrolled_device_signs_what_it_says() {
    let mut device = device!("signs", Setup::default());
    let path = device.scratch.join("agent.toml");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("[device]\n", "[device]\nsign=true\n");
    std::fs::write(&path, text).unwrap();
    device.start();
    for (leaf, kind) in [("caps", Kind::Caps), ("reported", Kind::Reported)] {
        wait(leaf, || newest(&device, leaf).is_some());
        let message = newest(&device, leaf).unwrap();
        let opened = dsse::open(&message, kind, &dsse::Trusted::default()).unwrap();
        let document: Value = serde_json::from_slice(&opened).unwrap();
        let caps: Value = if leaf == "caps" {
            document.clone()
        } else {
            caps_of(&device)
        };
        let bytes: [u8; 32] = base64::decode(caps["signing"].as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap();
        let trusted = dsse::Trusted {
            keys: vec![dsse::PublicKey {
                id: "dev".into(),
                bytes,
                roles: vec!["device".into()],
            }],
            threshold: 1,
            ..dsse::Trusted::default()
        };
        assert!(
            dsse::open(&message, kind, &trusted).is_ok(),
            "{leaf} bears the device's signature"
        );
        assert!(dsse::open(&message, Kind::Answer, &trusted).is_err());
    }
    device.clean();
}

fn caps_of(device: &Device) -> Value {
    let message = newest(device, "caps").unwrap();
    let opened = dsse::open(&message, Kind::Caps, &dsse::Trusted::default()).unwrap();
    serde_json::from_slice(&opened).unwrap()
}
