//! Makes a two-architecture image in memory: one program compiled for both, a layer each, an index above.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use dunlin::types::digest::Digest;
use serde_json::json;

const ARCHITECTURES: [(&str, &str); 2] = [
    ("amd64", "x86_64-unknown-linux-musl"),
    ("arm64", "aarch64-unknown-linux-musl"),
];

/// Blobs by digest, and what each tag points at.
#[derive(Default)]
pub struct Images {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub tags: BTreeMap<String, Digest>,
}

/// The program for each architecture, compiled with the toolchain that built the demo.
pub fn compile(scratch: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/demo/app.rs");
    let mut programs = Vec::new();
    for (architecture, target) in ARCHITECTURES {
        standard_library(target)?;
        let out = scratch.join(format!("app-{architecture}"));
        let output = Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "panic=abort",
                "-C",
                "strip=symbols",
                "-C",
                "linker=rust-lld",
            ])
            .args(["--target", target, "-o"])
            .args([&out, &source])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .map_err(|e| format!("run rustc: {e}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("compile the app for {target}: {text}"));
        }
        programs.push((architecture, std::fs::read(&out).map_err(|e| e.to_string())?));
    }
    Ok(programs)
}

/// Has rustup add a target's standard library where it is missing: rustup does so by itself, with the toolchain that
/// rust-toolchain.toml names, unless `RUSTUP_AUTO_INSTALL=0` told it not to.
fn standard_library(target: &str) -> Result<(), String> {
    let rust = |program: &str, args: [&str; 3]| {
        let mut command = Command::new(program);
        let output = command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map_err(|e| format!("run {program}: {e}"))
    };
    let folder = rust("rustc", ["--print=target-libdir", "--target", target])?;
    if Path::new(String::from_utf8_lossy(&folder.stdout).trim()).is_dir() {
        return Ok(());
    }
    println!("  adding {target} to Rust: `rustup target add {target}`");
    let added = rust("rustup", ["target", "add", target])?;
    if added.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&added.stderr);
    Err(format!("add {target} to Rust (`rustup target add {target}`): {text}"))
}

impl Images {
    fn blob(&mut self, data: Vec<u8>) -> Digest {
        let digest = Digest::of(&data);
        self.blobs.insert(digest.to_string(), data);
        digest
    }

    /// Adds an image of both architectures under `tag` and gives the index's digest.
    pub fn add(&mut self, tag: &str, programs: &[(&str, Vec<u8>)], healthy: bool) -> Result<Digest, String> {
        let mut entries = Vec::new();
        for (architecture, program) in programs {
            let tar = layer(program).map_err(|e| format!("make a layer: {e}"))?;
            let diff_id = Digest::of(&tar);
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let compressed = gzip
                .write_all(&tar)
                .and_then(|()| gzip.finish())
                .map_err(|e| e.to_string())?;
            let layer_size = compressed.len();
            let layer = self.blob(compressed);
            let config = json!({
                "architecture": architecture,
                "os": "linux",
                "config": {
                    "Entrypoint": ["/app"],
                    "StopSignal": "SIGKILL",
                    "Env": [format!("VERSION={tag}"), format!("HEALTHY={}", if healthy { "yes" } else { "no" })],
                },
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            });
            let config = config.to_string().into_bytes();
            let config_size = config.len();
            let config = self.blob(config);
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size,
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size,
                }],
            });
            let manifest = manifest.to_string().into_bytes();
            let size = manifest.len();
            let digest = self.blob(manifest);
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": architecture},
            }));
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
        });
        let digest = self.blob(index.to_string().into_bytes());
        self.tags.insert(tag.to_owned(), digest);
        Ok(digest)
    }
}

fn layer(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(0);
    tar.append_data(&mut header, "app", program)?;
    tar.into_inner()
}
