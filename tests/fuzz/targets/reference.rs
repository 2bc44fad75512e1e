//! Reads any text as an image reference; what is accepted prints as something that reads as the same again.
#![no_main]

mod seeds;

use dunlin::types::digest::Digest;
use dunlin::types::platform::Platform;
use dunlin::types::reference::{Named, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: seeds::write("reference"), |data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let printed = reference.to_string();
        assert_eq!(printed.parse::<Reference>().expect("what was printed"), reference_with_tag(&reference));
        assert!(!reference.registry().is_empty() && !reference.repository().is_empty());
        let pinned = reference.pinned(Digest::of(data));
        assert_eq!(pinned.to_string().parse::<Reference>().expect("what was printed"), pinned);
        assert!(!reference.repository().contains("..") && !reference.registry().contains('/'));
    }
    if let Ok(Named::Short { repository, .. }) = text.parse::<Named>() {
        assert!(!repository.is_empty() && !repository.starts_with('/'));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>().expect("what was printed"), platform);
        assert_eq!(platform.distance(&platform), Some(0));
    }
});

/// A reference without tag and digest prints as `latest`.
fn reference_with_tag(reference: &Reference) -> Reference {
    Reference::new(
        reference.registry(),
        reference.repository(),
        reference.tag(),
        reference.digest(),
    )
    .expect("its parts")
}
