//! A real docker-registry: plain, TLS with a private authority, passwords.

use std::path::PathBuf;

use dunlin::config::auth::AuthPlaces;
use dunlin::config::certs::CertPlaces;
use dunlin::registry::{Client, Compression, Document, Image, Kind, RegistryError, Settings};
use dunlin::types::deployment::Reason;
use dunlin::types::digest::Digest;
use dunlin::types::platform::Platform;

use super::{block, client, read, reference, settings};
use crate::fixture::arch::Arch;
use crate::fixture::images::{self, Format, Index, Recipe};
use crate::fixture::registry::Registry;
use crate::fixture::scratch::Scratch;

/// A folder for certs.d with the registry's authority.
fn trusting(scratch: &Scratch, registry: &Registry) -> CertPlaces {
    let folder = scratch.folder(&format!("certs.d/{}", registry.host()));
    std::fs::copy(registry.ca(), folder.join("ca.crt")).unwrap();
    CertPlaces {
        folders: vec![scratch.join("certs.d")],
        bundles: vec![],
        ..Default::default()
    }
}

fn logged_in(scratch: &Scratch, registry: &Registry, password: &str) -> AuthPlaces {
    let places = AuthPlaces {
        files: vec![scratch.join("auth.json")],
        ..Default::default()
    };
    places.store(&registry.host(), "tester", password).unwrap();
    places
}

/// Fetches everything of an image and verifies each byte.
async fn fetch(client: &Client, image: &Image) -> Vec<Vec<u8>> {
    let repository = &image.manifest.repository;
    let config = client.fetch_small(repository, &image.config, 1 << 20).await.unwrap();
    assert_eq!(Digest::of(&config), image.config.digest);
    let mut layers = Vec::new();
    for layer in &image.layers {
        let bytes = read(&mut client.blob(repository, &layer.descriptor, 0)).await.unwrap();
        assert_eq!(Digest::of(&bytes), layer.descriptor.digest);
        layers.push(bytes);
    }
    layers
}

#[test]
fn images_of_both_formats_come_whole_for_each_platform() {
    let registry = Registry::plain();
    for (format, name, kind) in [
        (Format::Oci, "oci", Kind::OciIndex),
        (Format::Docker, "docker", Kind::DockerList),
    ] {
        let index = Index::busybox(format);
        let pinned = registry.push(name, "1", &index);
        let client = client();
        block(async {
            let tag = reference(&format!("{}:1", registry.reference(name)));
            let top = client.resolve(&tag).await.unwrap();
            assert_eq!(top.digest.to_string(), index.manifest.digest());
            assert!(matches!(&top.document, Document::Index(index) if index.kind == kind));
            for arch in Arch::ALL {
                let platform: Platform = format!("linux/{}", arch.oci()).parse().unwrap();
                let image = client.image(&reference(&pinned), &platform).await.unwrap();
                assert_eq!(image.manifest.digest.to_string(), index.image(arch).manifest.digest());
                assert_eq!(image.top(), top.digest);
                let layers = fetch(&client, &image).await;
                let expected: Vec<_> = index
                    .image(arch)
                    .layers
                    .iter()
                    .map(|layer| layer.bytes.clone())
                    .collect();
                assert!(layers == expected);
            }
            let error = client.image(&tag, &"linux/riscv64".parse().unwrap()).await.unwrap_err();
            assert_eq!(error.code(), Reason::NoArch);
            assert!(error.to_string().contains("linux/amd64, linux/arm64"), "{error}");
        });
    }
}

#[test]
fn an_unchanged_tag_costs_one_request_and_a_missing_one_says_so() {
    let registry = Registry::plain();
    let index = Index::busybox(Format::Oci);
    registry.push("app", "1", &index);
    let head = block(client().head(&reference(&format!("{}:1", registry.reference("app"))))).unwrap();
    assert_eq!(head.digest.to_string(), index.manifest.digest());
    let log = registry.log();
    let asked = log
        .lines()
        .filter(|line| line.starts_with("127.0.0.1") && line.contains("\"dunlin/"));
    assert_eq!(asked.count(), 1, "{log}");
    assert_eq!(registry.requests("HEAD", "/v2/app/manifests/1"), 1);
    for name in ["app:2", "nothing:1"] {
        let error = block(client().resolve(&reference(&registry.reference(name)))).unwrap_err();
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
        assert_eq!(error.code(), Reason::ImageMissing);
    }
}

#[test]
fn a_private_authority_is_trusted_for_its_registry_alone() {
    let registry = Registry::tls();
    let index = Index::busybox(Format::Oci);
    registry.push("app", "1", &index);
    let wanted = reference(&format!("{}:1", registry.reference("app")));
    let scratch = Scratch::new("registry-tls");
    let trusted = Settings {
        certs: trusting(&scratch, &registry),
        ..settings()
    };
    block(async {
        let client = Client::new(trusted);
        let image = client.image(&wanted, &Platform::host()).await.unwrap();
        fetch(&client, &image).await;
        assert!(matches!(
            image.layers[0].compression,
            Compression::Gzip | Compression::None | Compression::Zstd
        ));

        let error = Client::new(settings()).resolve(&wanted).await.unwrap_err();
        assert!(matches!(error, RegistryError::Tls { .. }), "{error}");
        assert!(error.to_string().contains("certs.d"), "{error}");

        let nowhere = CertPlaces {
            bundles: vec![PathBuf::from("/nonexistent")],
            ..trusting(&scratch, &registry)
        };
        let own_alone = Settings {
            certs: nowhere,
            ..settings()
        };
        Client::new(own_alone).resolve(&wanted).await.unwrap();

        let bundle = CertPlaces {
            folders: vec![],
            bundles: vec![PathBuf::from("/nonexistent"), registry.ca()],
            ..Default::default()
        };
        Client::new(Settings {
            certs: bundle,
            ..settings()
        })
        .resolve(&wanted)
        .await
        .unwrap();

        let text = format!("[[registry]]\nlocation='{}'\ninsecure=true", registry.host());
        Client::new(super::settings_with(&text)).resolve(&wanted).await.unwrap();
    });
}

#[test]
fn passwords_open_and_their_lack_is_named() {
    for registry in [
        Registry::plain_with_password("tester", "s3cret"),
        Registry::tls_with_password("tester", "s3cret"),
    ] {
        let image = Recipe::busybox(Arch::host())
            .layer(vec![0; 1024], images::Compression::Zstd)
            .build();
        registry.push_image("team/app", "1", &image);
        let wanted = reference(&format!("{}:1", registry.reference("team/app")));
        let scratch = Scratch::new("registry-password");
        let base = match registry.is_encrypted() {
            true => Settings {
                certs: trusting(&scratch, &registry),
                ..settings()
            },
            false => settings(),
        };
        let with = |auth: AuthPlaces| Client::new(Settings { auth, ..base.clone() });
        block(async {
            let client = with(logged_in(&scratch, &registry, "s3cret"));
            let got = client.image(&wanted, &Platform::host()).await.unwrap();
            assert_eq!(
                (got.index.is_none(), got.manifest.digest.to_string()),
                (true, image.manifest.digest())
            );
            fetch(&client, &got).await;

            let error = with(AuthPlaces::default()).resolve(&wanted).await.unwrap_err();
            assert_eq!(error.code(), Reason::Auth);
            assert!(
                error.to_string().contains(&format!("dunlin login {}", registry.host())),
                "{error}"
            );
            let error = with(logged_in(&scratch, &registry, "wrong"))
                .resolve(&wanted)
                .await
                .unwrap_err();
            assert!(error.to_string().contains("password is wrong"), "{error}");
        });
    }
}

#[test]
fn a_registry_that_goes_away_and_comes_back_costs_a_few_tries() {
    let mut registry = Registry::plain();
    let image = Recipe::busybox(Arch::host()).build();
    let pinned = registry.push_image("app", "1", &image);
    let client = client();
    block(async {
        client.resolve(&reference(&pinned)).await.unwrap();
        registry.stop();
        let error = client.resolve(&reference(&pinned)).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Connect { .. } | RegistryError::Broken { .. }),
            "{error}"
        );
        assert_eq!(error.code(), Reason::Net);
        registry.start();
        client.resolve(&reference(&pinned)).await.unwrap();
    });
}

#[test]
fn a_damaged_blob_never_passes_for_a_good_one() {
    let registry = Registry::plain();
    let image = Recipe::busybox(Arch::host()).build();
    registry.push_image("app", "1", &image);
    let file = registry.blob_file(&image.config.digest());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let client = client();
    block(async {
        let wanted = reference(&format!("{}:1", registry.reference("app")));
        let got = client.image(&wanted, &Platform::host()).await.unwrap();
        let error = client
            .fetch_small(&got.manifest.repository, &got.config, 1 << 20)
            .await
            .unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    });
}
