//! Reads any bytes as a manifest or an index, as its envelope might call them; what is accepted keeps its promises.
#![no_main]

mod seeds;

use dunlin::registry::{Document, Kind, parse_manifest};
use dunlin::types::bounds;
use dunlin::types::platform::Platform;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write("manifest"), |data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let kinds = [Kind::OciManifest, Kind::OciIndex, Kind::DockerManifest, Kind::DockerList];
    let media_type = kinds.get(usize::from(*first) % 6).map_or("", |kind| kind.media_type());
    match parse_manifest(body, media_type) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= bounds::LAYERS);
            assert!(manifest.size() >= manifest.config.size);
            let _ = manifest.image_layers();
        }
        Ok(Document::Index(index)) => {
            assert!(index.entries.len() <= bounds::INDEX_ENTRIES);
            for platform in ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"] {
                let platform: Platform = platform.parse().expect("a platform");
                if let Ok(entry) = index.select(&platform) {
                    assert!(!entry.attestation);
                }
            }
        }
        Err(error) => assert!(error.to_string().len() < 64 << 10),
    }
    let _ = serde_json::from_slice::<dunlin::registry::Descriptor>(body);
});
