//! Takes any bytes as a desired state on a device without and on one with a fleet key; there also as keys, a secret and a command; and as an
//! app document.
#![no_main]

mod seeds;

use std::path::Path;
use std::sync::OnceLock;

use dunlin::agent::intake::{Intake, Outcome};
use dunlin::types::app::{App, set_problems};
use dunlin::types::document::Command;
use dunlin::types::time::Unix;
use dunlin::uplink::dsse::{Kind, SigningKey, Trusted};
use libfuzzer_sys::fuzz_target;

/// 2026-01-01.
const NOW: Unix = Unix(1_767_225_600_000);

fn signed() -> &'static Trusted {
    static TRUSTED: OnceLock<Trusted> = OnceLock::new();
    TRUSTED.get_or_init(|| Trusted {
        keys: vec![SigningKey::generate("operator").expect("random numbers").public()],
        threshold: 1,
        ..Trusted::default()
    })
}

fuzz_target!(init: seeds::write("desired"), |data: &[u8]| {
    let base = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let record = Path::new(base).join(format!("dunlin-fuzz-desired-{}", std::process::id()));
    std::fs::create_dir_all(&record).expect("a folder in memory");
    let mut open = Intake::open(&record, "device", Trusted::default(), 1).expect("no record");
    let outcome = open.desired("d/device", data, Some(NOW)).expect("memory for a record");
    if matches!(outcome, Outcome::Desired(_)) {
        for file in ["documents", "trust", "trust.2"] {
            std::fs::remove_file(record.join(file)).expect("its own record");
        }
    }
    let mut closed = Intake::open(&record, "device", signed().clone(), 1).expect("no record");
    let outcome = closed.desired("d/device", data, Some(NOW)).expect("memory for a record");
    assert!(!matches!(outcome, Outcome::Desired(_)), "nobody has signed this");
    let outcome = closed.keys(data).expect("memory for a record");
    assert!(!matches!(outcome, Outcome::Keys(_)), "no root has signed this");
    let outcome = closed.secret("db", data, Some(NOW), &|_| panic!("nobody has signed this"));
    assert!(!matches!(outcome.expect("memory for a record"), Outcome::Secret(_)));
    assert!(closed.unwrap(Kind::Command, data).is_err(), "nobody has signed this");
    // What a command says, as though it were signed.
    if let Ok(command) = dunlin::types::read::json::<Command>(data) {
        let _ = dunlin::plan::order::parse(&command.verb, &command.args);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(app) = dunlin::types::read::toml::<App>(text)
    {
        let _ = set_problems(std::slice::from_ref(&app), "app", true);
        let _ = app.spec_digest();
    }
});
