//! What a binary is made of, as CycloneDX 1.5: `cargo metadata … | sbom BINARY`. The crates that the program reaches through
//! ordinary dependencies, with licences and the sums of Cargo.lock, and the toolchain whose standard library is in it.
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};

use dunlin::types::digest::Digest;
use dunlin::types::time::Unix;
use serde_json::{Value, json};

fn main() -> ExitCode {
    match sbom() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sbom: {error}");
            ExitCode::FAILURE
        }
    }
}

fn sbom() -> Result<String, String> {
    let binary = std::env::args().nth(1).ok_or("usage: cargo metadata … | sbom BINARY")?;
    let bytes = std::fs::read(&binary).map_err(|e| format!("`{binary}`: {e}"))?;
    let metadata: Value = serde_json::from_reader(std::io::stdin()).map_err(|e| format!("cargo metadata: {e}"))?;
    let sums = sums(&std::fs::read_to_string("Cargo.lock").map_err(|e| format!("`Cargo.lock`: {e}"))?);
    let packages: BTreeMap<&str, &Value> = list(&metadata["packages"]).map(|one| (text(&one["id"]), one)).collect();
    let (root, reached) = reach(&metadata);
    let own = packages.get(root).ok_or("cargo metadata names no root package")?;
    let mut components: Vec<Value> = reached
        .iter()
        .filter(|id| **id != root)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package, &sums))
        .collect();
    let rustc = Command::new("rustc")
        .arg("--version")
        .output()
        .map_err(|e| format!("rustc: {e}"))?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).trim().to_owned();
    let version = rustc.split(' ').nth(1).unwrap_or_default();
    components.push(json!({
        "type": "library", "name": "std", "version": version, "description": rustc,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }));
    let edges: Vec<Value> = list(&metadata["resolve"]["nodes"])
        .filter(|node| reached.contains(text(&node["id"])))
        .map(|node| {
            let on: Vec<String> = needs(node).filter_map(|id| packages.get(id)).map(|p| purl(p)).collect();
            json!({"ref": purl(packages[text(&node["id"])]), "dependsOn": on})
        })
        .collect();
    let seconds = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": Unix(seconds.unwrap_or_default() * 1000).rfc3339(),
            "component": {
                "type": "application", "bom-ref": purl(own), "name": own["name"], "version": own["version"],
                "licenses": [{"expression": own["license"]}],
                "hashes": [{"alg": "SHA-256", "content": Digest::of(&bytes).hex()}],
            },
        },
        "components": components, "dependencies": edges,
    });
    serde_json::to_string_pretty(&document).map_err(|e| e.to_string())
}

/// The root package, and everything that it reaches through ordinary dependencies.
fn reach(metadata: &Value) -> (&str, BTreeSet<&str>) {
    let resolve = &metadata["resolve"];
    let root = text(&resolve["root"]);
    let nodes: BTreeMap<&str, &Value> = list(&resolve["nodes"]).map(|node| (text(&node["id"]), node)).collect();
    let (mut reached, mut next) = (BTreeSet::from([root]), vec![root]);
    while let Some(node) = next.pop().and_then(|id| nodes.get(id)) {
        next.extend(needs(node).filter(|id| reached.insert(id)));
    }
    (root, reached)
}

/// What a node needs in the program itself: neither for tests nor for its build.
fn needs(node: &Value) -> impl Iterator<Item = &str> {
    list(&node["deps"])
        .filter(|dep| list(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
        .map(|dep| text(&dep["pkg"]))
}

fn component(package: &Value, sums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({
        "type": "library", "bom-ref": purl(package), "name": name, "version": version, "purl": purl(package),
    });
    if let Some(licence) = package["license"].as_str() {
        // Old crates write a slash for OR.
        component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    if let Some(sum) = sums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    component
}

fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(&package["name"]), text(&package["version"]))
}

/// Checksums of Cargo.lock by name and version.
fn sums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |block: &str, key: &str| {
        let line = block
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|rest| rest.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]");
    let known = blocks.filter_map(|block| {
        let (name, version) = (field(block, "name")?, field(block, "version")?);
        Some(((name, version), field(block, "checksum")?))
    });
    known.collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
