//! Enrolment: one document makes a device that speaks with its broker, with keys that it has made itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use dunlin::types::base64;

use crate::device::Setup;
use crate::fixture::cmd::{Cmd, Out};
use crate::fixture::scratch::Scratch;

/// dunlin on a store and a settings file in this folder.
fn enroll(scratch: &Scratch, words: &[&str]) -> Cmd {
    let dir = |name: &str| scratch.join(name);
    Cmd::dunlin()
        .arg("--root")
        .arg(dir("data"))
        .arg("--runroot")
        .arg(dir("run"))
        .arg("--config")
        .arg(dir("etc/agent.toml"))
        .args(["agent", "enroll"])
        .args(words)
}

fn openssl(scratch: &Scratch, line: &str) -> Out {
    Cmd::new("/usr/bin/openssl")
        .dir(scratch.path())
        .args(line.split(' '))
        .run()
}

const DOCUMENT: &str = "[device]\nname = \"gw-{machine-id}\"\n[mqtt]\nurl = \"mqtts://broker.example\"\ncert = \"{cert}\"\nkey = \"{key}\"\n\
                        [fleet]\nfloors = [\"g/line 5\"]\nsince = \"2026-11-01T00:00:00Z\"\n";

fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").unwrap().trim().to_owned()
}

#[test]
fn a_device_is_made_of_one_string_and_asks_for_its_certificate() {
    if !std::path::Path::new("/etc/machine-id").exists() {
        crate::skip!("this machine has no /etc/machine-id");
    }
    let scratch = Scratch::new("enroll");
    let code = format!("dunlin:{}", base64::encode(DOCUMENT.as_bytes()));
    let out = enroll(&scratch, &[&code]).run();
    assert_eq!(out.code, 0, "{out:?}");
    scratch.write("request.pem", &out.stdout);
    let name = format!("gw-{}", machine_id());
    let shown = openssl(&scratch, "req -in request.pem -noout -verify -subject");
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.contains(&format!("CN = {name}")), "{shown:?}");
    let settings = fs::read_to_string(scratch.join("etc/agent.toml")).unwrap();
    assert!(settings.contains(&format!("name = \"{name}\"")), "{settings}");
    let key = scratch.join("data/agent/device.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // The request is for the key that lies there.
    let public = openssl(&scratch, "req -in request.pem -noout -pubkey").stdout;
    let private = openssl(&scratch, "pkey -in data/agent/device.key -pubout").stdout;
    assert_eq!(public, private);
    assert!(public.contains("BEGIN PUBLIC KEY"));

    let again = enroll(&scratch, &[&code]).run();
    assert!(again.code == 125 && again.stderr.contains("--replace"), "{again:?}");
    let other = DOCUMENT.replace("broker.example", "other.example");
    let replaced = enroll(&scratch, &["--replace", "-"]).stdin(other).run();
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert_eq!(replaced.stdout, out.stdout, "its keys stay");
    let settings = fs::read_to_string(scratch.join("etc/agent.toml")).unwrap();
    assert!(settings.contains("mqtts://other.example"), "{settings}");
}

#[test]
fn the_document_of_the_readme_is_taken() {
    let scratch = Scratch::new("enroll-readme");
    let readme = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let document = crate::readme::block(&readme, "enroll").replace("{serial}", "17");
    let pki = crate::fixture::pki::Pki::new(&scratch.join("pki"));
    let ca = fs::read_to_string(pki.ca()).unwrap();
    let out = enroll(&scratch, &["-"]).stdin(format!("{document}\n{ca}")).run();
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(fs::read_to_string(scratch.join("etc/broker-ca.crt")).unwrap(), ca);
    let settings = fs::read_to_string(scratch.join("etc/agent.toml")).unwrap();
    assert!(
        settings.contains("name = \"gw-17\"") && !settings.contains('{'),
        "{settings}"
    );
}

#[test]
fn a_document_that_cannot_be_used_writes_nothing() {
    let scratch = Scratch::new("enroll-bad");
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    for (document, needle) in [
        (String::new(), "device.name"),
        ("[device]\nname='x'".into(), "[mqtt]"),
        (DOCUMENT.replace("gw-{machine-id}", "Gw 1"), "device.name"),
        (DOCUMENT.replace("gw-{machine-id}", "gw-{host}"), "device.name"),
        (DOCUMENT.replace("g/line 5", "g/line"), "fleet.floors"),
        (DOCUMENT.replace("2026-11-01T", "today"), "fleet.since"),
        (DOCUMENT.replace("mqtts:", "http:"), "mqtt.url"),
        (format!("{DOCUMENT}{pem}"), "belong together"),
        (DOCUMENT.replace("cert =", "ca = \"{ca}\"\ncert ="), "belong together"),
        (format!("{DOCUMENT}surprise = 1\n"), "surprise"),
        (format!("{DOCUMENT}# {}", "x".repeat(20_000)), "16384"),
        ("dunlin:%%%".into(), "base64"),
        (format!("dunlin:{}", base64::encode(&[0xff, 0xfe])), "base64"),
        ("\u{0}".into(), "agent.toml"),
    ] {
        let out = enroll(&scratch, &["-"]).stdin(document.clone()).run();
        assert!(
            out.code == 125 && out.stderr.contains(needle),
            "{document:.200}: {out:?}"
        );
        assert_eq!(out.stdout, "");
    }
    let raw = enroll(&scratch, &["-"]).stdin(vec![0xff, 0xfe]).run();
    assert!(raw.code == 125 && raw.stderr.contains("UTF-8"), "{raw:?}");
    let missing = enroll(&scratch, &["nowhere"]).run();
    assert!(missing.code == 125 && missing.stderr.contains("nowhere"), "{missing:?}");
    assert!(!scratch.join("etc").exists() && !scratch.join("data").exists());
}

#[test]
fn an_enrolled_device_connects_with_its_own_certificate_and_signs_what_it_says() {
    let setup = Setup {
        tls: true,
        ..Setup::default()
    };
    let mut device = device!("enrolled", setup);
    let key = dunlin::fleet::sign::public_toml(&device.key);
    let ca = fs::read_to_string(device.broker.ca()).unwrap();
    let document = format!(
        "[device]\nname = \"dev\"\nsign = true\n[mqtt]\nurl = \"mqtts://localhost:{}\"\nca = \"{{ca}}\"\ncert = \"{{cert}}\"\n\
         key = \"{{key}}\"\n[apps]\ndir = \"{}\"\n[log]\nlevel = \"debug\"\n[fleet]\nfloors = [\"d/dev 4000000000\"]\n{key}\n{ca}",
        device.broker.port(),
        device.scratch.join("apps").display(),
    );
    let out = device
        .dunlin()
        .args(["agent", "enroll", "--replace", "-"])
        .stdin(document)
        .run();
    assert_eq!(out.code, 0, "{out:?}");
    let certificate = device.broker.sign(&out.stdout);
    let place = device.scratch.write("data/agent/device.crt", certificate);
    device.user.give(&place);
    device.start();
    device.hear("its presence", "presence", |v| v["up"] == true);
    device.hear("a signed report", "caps", |v| {
        v["payloadType"] == "application/vnd.dunlin.caps.v1+json"
            && v["signatures"].as_array().is_some_and(|s| s.len() == 1)
    });
    // The operator knows its key from what enrolment printed, and who says something in its place.
    let line = out
        .stderr
        .lines()
        .find_map(|line| line.split_once("list of devices: "))
        .unwrap()
        .1;
    let list = device.scratch.write("devices", line);
    let operator = device.broker.operator();
    let settings = format!(
        "devices = '{}'\n[mqtt]\nurl = 'mqtts://localhost:{}'\nca = '{}'\ncert = '{}'\nkey = '{}'\n",
        list.display(),
        device.broker.port(),
        device.broker.ca().display(),
        operator.cert.display(),
        operator.key.display(),
    );
    let settings = device.scratch.write("fleet.toml", settings);
    let status = || {
        let out = Cmd::operator()
            .arg("--config")
            .arg(&settings)
            .args(["fleet", "status", "--format", "json"])
            .ok();
        serde_json::from_str::<serde_json::Value>(&out).unwrap()[0]["Unverified"].clone()
    };
    device.hear("what runs", "reported", |v| v["payload"].is_string());
    assert_eq!(status(), json!([]));
    device.broker.publish(
        "dunlin/v1/d/dev/deploy",
        json!({"state": "COMMITTED"}).to_string(),
        true,
    );
    assert_eq!(status(), json!(["deploy"]));
    // A broker without an authority of its own is believed with the host's.
    let text = fs::read_to_string(&settings).unwrap().replace("\nca = ", "\n#ca = ");
    let public = device.scratch.write("public.toml", text);
    let asking = |bundle: &std::path::Path| {
        let cmd = Cmd::operator().arg("--config").arg(&public).args(["fleet", "status"]);
        cmd.env("SSL_CERT_FILE", bundle).run()
    };
    let (known, nobody) = (asking(&device.broker.ca()), asking(&device.scratch.join("nowhere")));
    assert_eq!(known.code, 0, "{known:?}");
    assert_ne!(nobody.code, 0, "{nobody:?}");
    assert!(nobody.stderr.contains("`ca-certificates`"), "{nobody:?}");
    // Whatever was signed before it was enrolled is old.
    device.deploy(json!([]));
    let refused = device.hear("the refusal", "evt/document", |v| v["code"] == "stale");
    assert!(refused["detail"].as_str().unwrap().contains("desired"), "{refused}");
    device.clean();
}
