//! Reads any bytes as what a store keeps of a layer: marks, what they hold, journals, recipes. What is read never takes more room or
//! makes more than it says, and what was written comes back. The first byte says which.
#![no_main]

mod seeds;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dunlin::disk::record;
use dunlin::image::course::Found;
use dunlin::image::decode::{self, Point};
use dunlin::image::unpack::{Limits, Owners, Unpacker};
use dunlin::image::{recipe as archive, tree};
use dunlin::store::Mark;
use dunlin::store::recipe::{self, RecipeReader, RecipeWriter, Step};
use dunlin::sys::{fs, landlock};
use dunlin::types::digest::Digest;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    archive: 4 << 20,
    entries: 1000,
};

fuzz_target!(init: seeds::write("kept"), |data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => mark(data),
        1 => place(data),
        2 => any_recipe(data),
        3 => written_recipe(data),
        4 => unpacker(data),
        _ => point(data),
    }
});

/// A scratch folder, and the ids of this process; everything else is out of reach.
fn field() -> &'static (PathBuf, Owners) {
    static FIELD: OnceLock<(PathBuf, Owners)> = OnceLock::new();
    FIELD.get_or_init(|| {
        let owners = Owners::of_this_process().expect("/proc is mounted");
        let base = if Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        };
        let folder = Path::new(base).join(format!("dunlin-fuzz-kept-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("root")).expect("memory for a folder");
        std::fs::write(folder.join("canary"), "alive").expect("memory for a file");
        let corpus = std::env::var_os("DUNLIN_FUZZ_FOLDER").unwrap_or_else(|| ".".into());
        let open = |path: &Path| fs::open_dir(path).expect("the folder is there");
        let (scratch, corpus) = (open(&folder), open(Path::new(&corpus)));
        dunlin::sys::process::set_no_new_privileges().expect("always allowed");
        let rules = [
            (scratch.as_fd(), landlock::Access::Write),
            (corpus.as_fd(), landlock::Access::Write),
        ];
        landlock::restrict(&rules).expect("landlock, or a kernel without it");
        (folder, owners)
    })
}

fn folder() -> &'static Path {
    &field().0
}

fn file(name: &str, bytes: &[u8]) -> File {
    let path = folder().join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let file = file.expect("memory for a file");
    file.write_all_at(bytes, 0).expect("memory for a file");
    file
}

/// A record, as it lies on the disk and with its checksum made right.
fn mark(data: &[u8]) {
    let path = Path::new("mark");
    let mut whole = data.to_vec();
    if let Some(head) = whole.first_chunk_mut::<20>() {
        head[..8].copy_from_slice(b"DUN1\x14\0\x01\0");
        let length = (data.len() - 20) as u32;
        head[8..12].copy_from_slice(&length.to_le_bytes());
        let sum = Digest::of(&[&whole[4..12], &whole[20..]].concat());
        whole[12..20].copy_from_slice(&sum.as_bytes()[..8]);
    }
    for bytes in [data, &whole] {
        if let Ok(mark) = record::decode::<Mark>(bytes, path) {
            assert!(mark.state.len() <= bytes.len());
            assert_eq!(
                record::decode::<Mark>(&record::encode(&mark), path).expect("its own"),
                mark
            );
        }
    }
}

/// What a mark holds.
fn place(data: &[u8]) {
    let mark = |state: Vec<u8>| Mark {
        blob: Digest::of(b""),
        fetched: u64::from(data.first().copied().unwrap_or(0)),
        bytes: 0,
        spooled: false,
        state,
        boot: String::new(),
    };
    let size = 1 << 20;
    if let Some(found) = Found::of(&mark(data.to_vec()), size) {
        let state = found.state();
        let again = Found::of(&mark(state.clone()), size).expect("its own");
        assert_eq!(again.state(), state);
    }
}

/// A decoder's place, and whatever it goes on with.
fn point(data: &[u8]) {
    let Some(point) = Point::decode(data) else { return };
    let bytes = point.encode();
    assert_eq!(Point::decode(&bytes[4..]).as_ref(), Some(&point));
    let input = [&bytes[..], data].concat();
    for format in ["gzip", "plain"] {
        let _ = decode::go_on(format, &input[..], io::sink(), 1 << 20);
    }
}

/// A recipe as it lies on the disk; one that begins as one gets an end, too.
fn any_recipe(data: &[u8]) {
    let total = 1u64 << 14;
    let end = [&[0, 8, 0, 0, 0][..], &total.to_le_bytes()].concat();
    let mended = [b"DUNR\x01\0\0\0", data, &end, &[0; 32]].concat();
    for bytes in [data, &mended] {
        let file = file("recipe", bytes);
        let whole = recipe::verify(&file).expect("a file can be read");
        let says = recipe::archive_bytes(&file);
        assert!(!whole || says.is_ok());
        let (Ok(Some(says)), Ok(mut reader)) = (says, RecipeReader::new(file.try_clone().expect("descriptors"))) else {
            continue;
        };
        // Deflate makes at most 1032 bytes of one.
        let mut left = (bytes.len() as u64 + 1) * 1100;
        while let Ok(Some(step)) = reader.next_step() {
            let took = match &step {
                Step::Raw(bytes) => bytes.len() as u64,
                Step::File { path, inode } => {
                    let pieces = reader.saved(*inode).map_or(0, |saved| saved.pieces.len());
                    assert!(pieces <= bytes.len());
                    path.len() as u64
                }
                Step::Part(offset, len) => {
                    assert!(offset.checked_add(*len).is_some());
                    0
                }
            };
            left = left.checked_sub(took + 1).expect("no more than was written");
        }
        let tree = fs::open_dir(&folder().join("root")).expect("its own folder");
        let mut made = Bounded(says);
        if says <= 1 << 24
            && let Ok(bytes) = archive::make(&tree, file, &mut made)
        {
            assert!(bytes <= says);
        }
    }
}

/// Takes so many bytes and no more.
struct Bounded(u64);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).expect("no more than was said");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Steps that are written, gone on with at any place, and read.
fn written_recipe(data: &[u8]) {
    let out = file("written", b"");
    let mut writer = RecipeWriter::new(out.try_clone().expect("descriptors"));
    let mut want: Vec<Step> = Vec::new();
    let (mut total, mut saves) = (0u64, 0);
    for op in data.chunks(4) {
        let [kind, a, rest @ ..] = op else { continue };
        let number = u64::from(*a) << (rest.first().copied().unwrap_or(0) % 40);
        match kind % 5 {
            0 => {
                let bytes = vec![*a; usize::from(*a) * 3];
                total += bytes.len() as u64;
                writer.raw(&bytes);
                match want.last_mut() {
                    Some(Step::Raw(all)) => all.extend(bytes),
                    _ if bytes.is_empty() => {}
                    _ => want.push(Step::Raw(bytes)),
                }
            }
            1 => {
                writer.file(rest, number);
                let path = rest.to_vec();
                want.push(Step::File { path, inode: number });
            }
            2 => {
                let len = rest.last().copied().unwrap_or(0).into();
                writer.part(number, len);
                total += len;
                want.push(Step::Part(number, len));
            }
            3 => {
                writer.save(number, &mut |at| {
                    Ok((at == 0 && !rest.is_empty()).then(|| (u64::from(*a), rest.to_vec())))
                });
                saves += 1;
            }
            _ => {
                let mark = writer.mark().expect("memory").expect("not too large");
                writer.file(b"lost", 0);
                drop(writer);
                let out = out.try_clone().expect("descriptors");
                writer = RecipeWriter::go_on(out, &mark).expect("what was marked");
            }
        }
    }
    let bytes = writer.finish().expect("memory");
    assert_eq!(bytes, out.metadata().expect("its own").len());
    assert!(recipe::verify(&out).expect("its own"));
    assert_eq!(recipe::archive_bytes(&out).expect("its own"), Some(total));
    let mut reader = RecipeReader::new(out).expect("its own");
    let mut read: Vec<Step> = Vec::new();
    let mut found = 0;
    while let Some(step) = reader.next_step().expect("its own") {
        if let Step::File { inode, .. } = &step {
            found += usize::from(reader.saved(*inode).is_some());
        }
        match (read.last_mut(), step) {
            (Some(Step::Raw(all)), Step::Raw(more)) => all.extend(more),
            (_, step) => read.push(step),
        }
    }
    assert!(read == want, "{read:?} {want:?}");
    assert!(saves > 0 || found == 0);
}

/// A worker's state, a journal and the rest of an archive: two lengths, then the three.
fn unpacker(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let length = |a: u8, b: u8, max: usize| usize::from(u16::from_le_bytes([a, b])).min(max);
    let (state, rest) = rest.split_at(length(head[0], head[1], rest.len()));
    let (journal, rest) = rest.split_at(length(head[2], head[3], rest.len()));
    let path = folder().join("root");
    std::fs::create_dir(path.join("d")).expect("memory");
    std::fs::write(path.join("d/open"), "some content").expect("memory");
    let root = fs::open_dir(&path).expect("its own folder");
    let mut unpacker = Unpacker::new(root.try_clone().expect("descriptors"), field().1.clone(), LIMITS);
    // Archives are too short here for marks of their own.
    unpacker.keep_journal(file("journal", journal), Box::new(|_| Ok(())));
    if unpacker.go_on(state, Some(file("begun", b"DUNR\x01\0\0\0"))).is_ok() && unpacker.unpack(rest).is_ok() {
        let _ = unpacker.settle(&[]);
    }
    drop(unpacker);
    tree::remove_contents(&root).expect("whatever was unpacked can be removed");
    fs::chmod_fd(&root, 0o755).expect("its own folder");
    assert_eq!(std::fs::read(folder().join("canary")).expect("canary"), b"alive");
}
