//! The first inputs of every target, written into its corpus before the fuzzer reads it.

use std::fs;
use std::path::PathBuf;

use dunlin::disk::record;
use dunlin::image::decode::Point;
use dunlin::image::worker::VERSION;
use dunlin::store::Mark;
use dunlin::store::recipe::RecipeWriter;
use dunlin::types::base64;
use dunlin::types::digest::Digest;
use dunlin::types::document::{Envelope, Signature};
use dunlin::uplink::compact;
use tar::{Builder, EntryType, Header};

/// Writes the seeds of `target` below the folder that `DUNLIN_FUZZ_FOLDER` names.
pub fn write(target: &str) {
    let Some(folder) = std::env::var_os("DUNLIN_FUZZ_FOLDER").map(PathBuf::from) else {
        return;
    };
    let corpus = folder.join("corpus").join(target);
    fs::create_dir_all(&corpus).expect("the corpus folder");
    for (name, bytes) in of(target, &folder) {
        fs::write(corpus.join(format!("seed-{name}")), bytes).expect("the corpus folder");
    }
}

fn of(target: &str, folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    match target {
        "layer" => seeds.extend(archives().into_iter().map(|(name, bytes)| (name.to_owned(), bytes))),
        "manifest" => {
            for (number, text) in MANIFESTS.iter().enumerate() {
                // The first byte picks the media type of the envelope.
                seeds.extend((0..6).map(|kind| (format!("{number}-{kind}"), [&[kind], text.as_bytes()].concat())));
            }
        }
        "desired" => {
            seeds.push(("bare".to_owned(), DESIRED.into()));
            seeds.push(("envelope".to_owned(), ENVELOPE.into()));
            seeds.push(("compact".to_owned(), compacted("desired", DESIRED)));
            for (name, text) in DOCUMENTS {
                seeds.push(((*name).to_owned(), text.as_bytes().to_vec()));
            }
            for entry in fs::read_dir(folder.join("../../config/apps")).expect("config/apps") {
                let path = entry.expect("config/apps").path();
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                seeds.push((name, fs::read(&path).expect("an app document")));
            }
        }
        "envelope" => {
            let documents = [("desired", 2, DESIRED)].into_iter();
            let others = [4, 0, 3].into_iter().zip(DOCUMENTS);
            for (name, kind, text) in documents.chain(others.map(|(kind, (name, text))| (*name, kind, *text))) {
                let bare = compact::document(&serde_json::from_str(text).expect("a seed"));
                seeds.push((format!("{name}-document"), [&[10], &bare[..]].concat()));
                // The first byte picks the kind, and whether there is a key.
                for first in [kind, 128 + kind] {
                    seeds.push((format!("{name}-bare-{first}"), [&[first], text.as_bytes()].concat()));
                    seeds.push((
                        format!("{name}-{first}"),
                        [&[first], &compacted(name, text)[..]].concat(),
                    ));
                    seeds.push((format!("text-{first}"), [&[first], ENVELOPE.as_bytes()].concat()));
                }
            }
        }
        "kept" => seeds.extend(kept().into_iter().enumerate().map(|(n, bytes)| (n.to_string(), bytes))),
        _ => seeds.extend(
            REFERENCES
                .iter()
                .enumerate()
                .map(|(n, text)| (n.to_string(), (*text).into())),
        ),
    }
    seeds
}

/// A document in the compact form in an envelope with a signature that is none.
fn compacted(kind: &str, text: &str) -> Vec<u8> {
    let envelope = Envelope {
        payload_type: format!("application/vnd.dunlin.{kind}.v1+postcard"),
        payload: base64::encode(&compact::document(&serde_json::from_str(text).expect("a seed"))),
        signatures: vec![Signature {
            keyid: "operator".to_owned(),
            sig: base64::encode(&[0; 64]),
        }],
    };
    compact::message(&envelope).expect("base64")
}

/// One small archive for each form that the reader knows.
fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let file = |builder: &mut Builder<Vec<u8>>, kind, path: &str, link: &str, content: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("memory");
    };
    let build = |fill: &dyn Fn(&mut Builder<Vec<u8>>)| {
        let mut builder = Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().expect("memory")
    };
    let pax = |records: &'static [(&'static str, &'static [u8])], path: &'static str, content: &'static [u8]| {
        build(&move |b: &mut Builder<Vec<u8>>| {
            b.append_pax_extensions(records.iter().copied()).expect("memory");
            file(b, EntryType::Regular, path, "", content);
        })
    };
    let mut sparse = Header::new_gnu();
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_path("sparse").expect("short");
    sparse.set_mode(0o644);
    sparse.set_size(512);
    sparse.as_mut_bytes()[386..410].copy_from_slice(b"00000001000\x0000000001000\0");
    sparse.as_mut_bytes()[483..495].copy_from_slice(b"00000010000\0");
    sparse.set_cksum();
    let long = "long/".repeat(30);
    vec![
        (
            "tree",
            build(&|b| {
                file(b, EntryType::Directory, "./", "", b"");
                file(b, EntryType::Directory, "etc", "", b"");
                file(b, EntryType::Regular, "etc/file", "", b"content");
                file(b, EntryType::Link, "etc/link", "etc/file", b"");
                file(b, EntryType::Symlink, "etc/sym", "file", b"");
                file(b, EntryType::Fifo, "etc/fifo", "", b"");
                file(b, EntryType::Char, "null", "", b"");
                file(b, EntryType::Regular, "etc/.wh.gone", "", b"");
                file(b, EntryType::Regular, "etc/.wh..wh..opq", "", b"");
            }),
        ),
        (
            "leans",
            build(&|b| {
                file(b, EntryType::Link, "etc/again", "etc/file", b"");
                file(b, EntryType::Regular, "no/folder", "", b"x");
            }),
        ),
        (
            "through",
            build(&|b| {
                file(b, EntryType::Symlink, "s", "..", b"");
                file(b, EntryType::Regular, "s/x", "", b"x");
                file(b, EntryType::Regular, "../x", "", b"x");
            }),
        ),
        (
            "gnulong",
            build(&|b| {
                let mut header = Header::new_gnu();
                header.set_size(1);
                header.set_mode(0o644);
                header.set_entry_type(EntryType::Regular);
                b.append_data(&mut header, &long[..149], &b"x"[..]).expect("memory");
            }),
        ),
        (
            "pax",
            pax(
                &[
                    ("path", b"pax/path"),
                    ("mtime", b"1.5"),
                    ("uid", b"0"),
                    ("SCHILY.xattr.user.a", b"b"),
                ],
                "x",
                b"y",
            ),
        ),
        (
            "sparse00",
            pax(
                &[
                    ("GNU.sparse.size", b"9"),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.offset", b"3"),
                    ("GNU.sparse.numbytes", b"2"),
                ],
                "x",
                b"yy",
            ),
        ),
        (
            "sparse01",
            pax(
                &[
                    ("GNU.sparse.size", b"9"),
                    ("GNU.sparse.name", b"n"),
                    ("GNU.sparse.map", b"3,2"),
                ],
                "x",
                b"yy",
            ),
        ),
        (
            "sparse10",
            pax(
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"9"),
                    ("GNU.sparse.name", b"n"),
                ],
                "x",
                {
                    static MAP: [u8; 514] = {
                        let mut map = [0; 514];
                        map[0] = b'1';
                        map[1] = b'\n';
                        map[2] = b'3';
                        map[3] = b'\n';
                        map[4] = b'2';
                        map[5] = b'\n';
                        map
                    };
                    &MAP
                },
            ),
        ),
        ("sparsegnu", [&sparse.as_bytes()[..], &[7; 512], &[0; 1024]].concat()),
    ]
}

/// What is kept of layers, each with the number of its reader before it.
fn kept() -> Vec<Vec<u8>> {
    let hash = dunlin::types::hash::save(&Default::default());
    let hash = [&[hash.len() as u8], &hash[..]].concat();
    let point = Point {
        at: 100,
        last: 7,
        bits: 3,
        crc: 1,
        length: 2,
        window: vec![9; 40],
    };
    let place = point.encode()[4..].to_vec();
    let spooled = [VERSION, 1, 0];
    let streamed = [&[VERSION, 0, 1][..], &hash, &place, &[50], &hash, &[60, 0, 2, 1, 2]].concat();
    let mark = Mark {
        blob: Digest::of(b"blob"),
        fetched: 100,
        bytes: 4096,
        spooled: false,
        state: streamed.clone(),
        boot: "boot".to_owned(),
    };
    // Numbers and flags, no links, one directory on the way, a journal of 18 bytes, a recipe of 8, and a file that is being written.
    let mut state = vec![
        2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'd', 2, 3, 18, 1, 8, 0, 0, 0, 0,
    ];
    state.extend(
        [
            &[5, 3, 1, 4][..],
            b"open",
            &[6],
            b"d/open",
            &[164, 3, 0, 0, 10, 0, 0, 0, 5],
            &hash,
            &[0],
        ]
        .concat(),
    );
    let mut journal = Vec::new();
    for path in ["d", "d/open"] {
        let name = path.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        journal.push(1);
        journal.extend(name.to_le_bytes());
    }
    let mut rest = vec![b'x'; 8];
    rest.extend(archives().swap_remove(0).1);
    let lengths = [(state.len() as u16).to_le_bytes(), (journal.len() as u16).to_le_bytes()].concat();
    let recipe = recipe();
    vec![
        [&[0], &record::encode(&mark)[..]].concat(),
        [&[1], &spooled[..]].concat(),
        [&[1], &streamed[..]].concat(),
        [&[2], &recipe[..]].concat(),
        [&[2], &recipe[8..recipe.len() - 45]].concat(),
        [
            &[3],
            b"\x00\x05aa\x01\x07ab\x02\x03ab\x03\x07ab\x04\x00aa\x01\x07ab\x02\x00aa".as_slice(),
        ]
        .concat(),
        [&[4], &lengths[..], &state, &journal, &rest].concat(),
        [&[5], &place[..]].concat(),
    ]
}

fn recipe() -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("dunlin-fuzz-recipe-{}", std::process::id()));
    let file = fs::File::create_new(&path).expect("room for a file");
    let mut writer = RecipeWriter::new(file);
    writer.raw(b"header");
    writer.file(b"a/b", 77);
    writer.part(0, 3);
    writer.save(77, &mut |at| Ok((at == 0).then(|| (1, b"it".to_vec()))));
    writer.file(b"a/b", 77);
    writer.part(0, 0);
    writer.finish().expect("room for a file");
    let bytes = fs::read(&path).expect("its own");
    fs::remove_file(path).expect("its own");
    bytes
}

const MANIFESTS: [&str; 3] = [
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":9}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7},"layers":[]}"#,
];

const DESIRED: &str = r#"{"audience":"d/device","generation":1767225600,"activity":"2f9c2c0e-6f0f-4a53-8a0b-9a8ab0a5f8b1","issued_at":"2026-01-01T00:00:00Z","rollout":{"waves":[{"percent":10,"hold":"1h"}],"seed":"s"},"apps":[{"name":"web","image":"registry.example/web:1","command":["/bin/server"],"restart":{"policy":"always","backoff_max":"5m"},"volumes":["data:/var/lib/web"],"ports":["8080:80"],"network":"host","read_only":true,"limits":{"memory":"64M","cpu":"0.5","pids":64},"health":{"http":{"port":80,"path":"/healthz"},"interval":"10s","timeout":"3s","failures":3},"update":{"strategy":"stop-first","soak":"10m"}}]}"#;

/// Documents other than desired states.
const DOCUMENTS: &[(&str, &str)] = &[
    (
        "command",
        r#"{"audience":"d/device","session":"s","id":"1","verb":"logs","args":{"app":"web","tail":"5","seconds":"60"},"reply_to":"dunlin/v1/d/device/res/cli"}"#,
    ),
    (
        "keys",
        r#"{"audience":"*","generation":2,"issued_at":"2026-01-01T00:00:00Z","keys":[{"id":"r","public":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","roles":["root"]}],"thresholds":{"root":1}}"#,
    ),
    (
        "secret",
        r#"{"audience":"d/device","generation":2,"issued_at":"2026-01-01T00:00:00Z","name":"db","sealed":"AAAA"}"#,
    ),
];

const ENVELOPE: &str = r#"{"payloadType":"application/vnd.dunlin.desired.v1+json","payload":"eyJhdWRpZW5jZSI6ImQvZGV2aWNlIiwiZ2VuZXJhdGlvbiI6MX0=","signatures":[{"keyid":"operator","sig":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}]}"#;

const REFERENCES: [&str; 9] = [
    "registry.example/team/app:1.0",
    "localhost:5000/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "[::1]:5000/a/b__c--d.e:tag",
    "docker.io/library/busybox",
    "busybox:latest",
    "quay.io/a:b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "linux/arm64/v8",
    "a.b:1/c",
];
