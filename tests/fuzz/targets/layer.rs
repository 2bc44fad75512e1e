//! Unpacks any bytes as a layer: no crash, and not one file outside the layer's folder. The process locks itself to its own
//! folders first (landlock), so that a finding does no harm.
#![no_main]

mod seeds;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dunlin::image::tree;
use dunlin::image::unpack::{Limits, Owners, Unpacker};
use dunlin::sys::{fs, landlock};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    archive: 4 << 20,
    entries: 1000,
};

struct Field {
    folder: PathBuf,
    owners: Owners,
}

fn field() -> &'static Field {
    static FIELD: OnceLock<Field> = OnceLock::new();
    FIELD.get_or_init(|| {
        let base = if Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        };
        let folder = Path::new(base).join(format!("dunlin-fuzz-layer-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        for name in ["root", "below/etc"] {
            std::fs::create_dir_all(folder.join(name)).expect("memory for a folder");
        }
        std::fs::write(folder.join("canary"), "alive").expect("memory for a file");
        std::fs::write(folder.join("below/etc/file"), "below").expect("memory for a file");
        let owners = Owners::of_this_process().expect("/proc is mounted");
        lock_in(&folder);
        Field { folder, owners }
    })
}

/// The scratch folder, the corpus and the findings: all else is out of reach from here on.
fn lock_in(scratch: &Path) {
    let corpus = std::env::var_os("DUNLIN_FUZZ_FOLDER").unwrap_or_else(|| OsString::from("."));
    let open = |path: &Path| fs::open_dir(path).expect("the folder is there");
    let (scratch, corpus) = (open(scratch), open(Path::new(&corpus)));
    dunlin::sys::process::set_no_new_privileges().expect("always allowed");
    let rules = [
        (scratch.as_fd(), landlock::Access::Write),
        (corpus.as_fd(), landlock::Access::Write),
    ];
    landlock::restrict(&rules).expect("landlock, or a kernel without it");
}

fuzz_target!(init: seeds::write("layer"), |data: &[u8]| {
    let field = field();
    let root_path = field.folder.join("root");
    let root = fs::open_dir(&root_path).expect("its own folder");
    let dir = root.try_clone().expect("descriptors");
    let mut unpacker = Unpacker::new(dir, field.owners.clone(), LIMITS);
    if unpacker.unpack(data).is_ok() {
        let below = fs::open_dir(&field.folder.join("below")).expect("its own folder");
        let _ = unpacker.settle(&[below]);
    }
    drop(unpacker);
    tree::remove_contents(&root).expect("whatever was unpacked can be removed");
    fs::chmod_fd(&root, 0o755).expect("its own folder");
    let left = std::fs::read_dir(&field.folder).expect("its own folder").count();
    assert_eq!(left, 3, "something was written outside");
    assert_eq!(std::fs::read(field.folder.join("canary")).expect("canary"), b"alive");
    assert_eq!(std::fs::read(field.folder.join("below/etc/file")).expect("lower layer"), b"below");
});

// Checksums would stop almost every mutation at the first header.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    mend(&mut data[..size]);
    size
});

/// Makes the checksums of all headers right, following the sizes that they state.
fn mend(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + 512) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = header[124..135].iter().take_while(|b| matches!(b, b'0'..=b'7'));
        let size = digits.fold(0usize, |size, digit| {
            size.saturating_mul(8).saturating_add(usize::from(digit - b'0'))
        });
        at = at
            .saturating_add(512)
            .saturating_add(size.min(1 << 20).next_multiple_of(512));
    }
}
