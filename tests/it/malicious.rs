//! Archives that mean harm: each is refused with the error that names it, or does no harm; nothing is written outside, and
//! nothing is left of what was refused.

use crate::fixture::tree::Tree;
use crate::fixture::workers::{Endless, LIMITS, Layers, Surroundings, open_to_all};
use dunlin::image::tar::TarError;
use dunlin::image::unpack::{Limits, UnpackError};
use dunlin::image::worker::WorkerError;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tar::{EntryType, Header};

/// What is expected of an archive.
enum Expect {
    /// Refused, with this variant.
    Refused(fn(&UnpackError) -> bool),
    /// Unpacked; the tree is as it should be.
    Harmless(fn(&Path) -> bool),
}

use Expect::{Harmless, Refused};

struct Case {
    name: &'static str,
    archive: Vec<u8>,
    expect: Expect,
}

fn case(name: &'static str, archive: Tree, expect: Expect) -> Case {
    Case {
        name,
        archive: archive.finish(),
        expect,
    }
}

fn bytes(name: &'static str, archive: Vec<u8>, expect: Expect) -> Case {
    Case { name, archive, expect }
}

/// A header with this size field, whatever follows.
fn header(kind: EntryType, path: &str, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn gnu(kind: u8, path: &str, change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::new(kind));
    header.set_path(path).unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    change(header.as_mut_bytes());
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn end(mut archive: Vec<u8>) -> Vec<u8> {
    archive.extend_from_slice(&[0; 1024]);
    archive
}

/// Paths that lead out.
fn escapes(canary: &str) -> Vec<Case> {
    let secret = &format!("{canary}/secret");
    let through = || Refused(|e| matches!(e, UnpackError::Through { .. }));
    let outside = || Refused(|e| matches!(e, UnpackError::Escapes { .. }));
    let link = || Refused(|e| matches!(e, UnpackError::LinkTarget { .. }));
    vec![
        case("dot dot", Tree::new().file("../evil", 0o644, "x"), outside()),
        case(
            "dot dot below a folder",
            Tree::new().dir("a").file("a/../../evil", 0o644, "x"),
            outside(),
        ),
        case("absolute dot dot", Tree::new().file("/../evil", 0o644, "x"), outside()),
        case("dot dot as a folder", Tree::new().dir("../"), outside()),
        case(
            "dot dot in a PAX path",
            Tree::new().pax(&[("path", b"../../evil")]).file("good", 0o644, "x"),
            outside(),
        ),
        bytes(
            "dot dot in a GNU long name",
            end(long_name(b'L', b"../evil\0")),
            outside(),
        ),
        case(
            "absolute path",
            Tree::new().file(&format!("{canary}/evil"), 0o644, "x"),
            Harmless(|tree| find(tree, "evil")),
        ),
        case(
            "absolute symlink on the way",
            Tree::new().symlink("s", canary).file("s/evil", 0o644, "x"),
            through(),
        ),
        case(
            "relative symlink on the way",
            Tree::new().symlink("s", "../../canary").file("s/evil", 0o644, "x"),
            through(),
        ),
        case(
            "two symlinks on the way",
            Tree::new()
                .symlink("a", "b")
                .symlink("b", "../..")
                .file("a/canary/evil", 0o644, "x"),
            through(),
        ),
        case(
            "symlink to the root",
            Tree::new().symlink("s", "/").file("s/tmp/evil", 0o644, "x"),
            through(),
        ),
        case(
            "symlink loop",
            Tree::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/evil", 0o644, "x"),
            through(),
        ),
        case(
            "symlink into proc",
            Tree::new().symlink("p", "/proc/self/root").file("p/evil", 0o644, "x"),
            through(),
        ),
        case(
            "symlink into own descriptors",
            Tree::new().symlink("p", "/proc/self/cwd").dir("p/evil"),
            through(),
        ),
        case(
            "folder becomes a symlink",
            Tree::new()
                .dir("d")
                .file("d/x", 0o644, "")
                .symlink("d", canary)
                .file("d/evil", 0o644, "x"),
            through(),
        ),
        case(
            "file over a symlink to a file outside",
            Tree::new().symlink("s", secret).file("s", 0o644, "evil"),
            Harmless(|tree| fs::read(tree.join("s")).unwrap() == b"evil"),
        ),
        case(
            "folder over a symlink to a folder outside",
            Tree::new().symlink("s", canary).dir("s").file("s/evil", 0o644, "x"),
            Harmless(|tree| tree.join("s/evil").exists()),
        ),
        case(
            "attributes of a folder that is a symlink",
            Tree::new().symlink("s", canary).dir_mode("s", 0o777),
            Harmless(|tree| !tree.join("s").is_symlink()),
        ),
        case(
            "symlink that stays inside",
            Tree::new()
                .dir("usr")
                .dir("usr/lib")
                .symlink("lib", "usr/lib")
                .file("lib/x", 0o644, "x"),
            Harmless(|tree| tree.join("usr/lib/x").exists()),
        ),
        case(
            "hard link to dot dot",
            Tree::new().hardlink("h", "../../canary/secret"),
            Refused(|e| matches!(e, UnpackError::LinkEscapes { .. })),
        ),
        case(
            "hard link to an absolute path",
            Tree::new().hardlink("h", secret).file("h", 0o644, "evil"),
            Harmless(|_| true),
        ),
        case(
            "hard link to a file that nobody has",
            Tree::new().hardlink("h", secret),
            link(),
        ),
        case(
            "hard link through a symlink",
            Tree::new().symlink("s", canary).hardlink("h", "s/secret"),
            link(),
        ),
        case(
            "hard link to a symlink, then written",
            Tree::new()
                .symlink("s", secret)
                .hardlink("h", "s")
                .file("h", 0o644, "evil"),
            Harmless(|tree| fs::read(tree.join("h")).unwrap() == b"evil"),
        ),
        case(
            "hard link to itself",
            Tree::new().file("h", 0o644, "x").hardlink("h", "h"),
            link(),
        ),
        case("hard link to a folder", Tree::new().dir("d").hardlink("h", "d"), link()),
        case("hard link to the root", Tree::new().hardlink("h", "."), link()),
        case(
            "hard links in a ring",
            Tree::new().hardlink("a", "b").hardlink("b", "a"),
            link(),
        ),
    ]
}

/// Names and attributes that mean something to overlay, to us or to the kernel.
fn meanings(canary: &str) -> Vec<Case> {
    let whiteout = || Refused(|e| matches!(e, UnpackError::Whiteout { .. }));
    let xattr = || Refused(|e| matches!(e, UnpackError::Xattr { .. }));
    let through = || Refused(|e| matches!(e, UnpackError::Through { .. }));
    let with = |name: &'static str| Tree::new().pax(&[(name, b"y")]).dir("d");
    vec![
        case("whiteout of nothing", Tree::new().file(".wh.", 0o644, ""), whiteout()),
        case(
            "whiteout of dot",
            Tree::new().dir("a").file("a/.wh..", 0o644, ""),
            whiteout(),
        ),
        case(
            "whiteout of dot dot",
            Tree::new().dir("a").file("a/.wh...", 0o644, ""),
            whiteout(),
        ),
        case(
            "whiteout as a folder",
            Tree::new().dir(".wh.a").file(".wh.a/b", 0o644, ""),
            whiteout(),
        ),
        case(
            "whiteout through a symlink",
            Tree::new().symlink("s", canary).file("s/.wh.secret", 0o644, ""),
            through(),
        ),
        case(
            "opaque through a symlink",
            Tree::new().symlink("s", canary).opaque("s"),
            through(),
        ),
        case(
            "trusted overlay attribute",
            with("SCHILY.xattr.trusted.overlay.opaque"),
            xattr(),
        ),
        case(
            "user overlay attribute",
            with("SCHILY.xattr.user.overlay.redirect"),
            xattr(),
        ),
        case(
            "metacopy attribute",
            with("SCHILY.xattr.user.overlay.metacopy"),
            xattr(),
        ),
        case("our own attribute", with("SCHILY.xattr.user.dunlin.owner"), xattr()),
        case(
            "attribute on a symlink",
            Tree::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
                .symlink("s", "x"),
            xattr(),
        ),
        case(
            "foreign attributes",
            Tree::new()
                .pax(&[("SCHILY.xattr.security.selinux", b"x"), ("SCHILY.xattr.com.x", b"y")])
                .file("f", 0o644, ""),
            Harmless(|tree| tree.join("f").exists()),
        ),
        case(
            "device nodes",
            Tree::new()
                .device("null")
                .entry(EntryType::Block, "disk", "", 0o666, 0, &[])
                .file("f", 0o644, ""),
            Harmless(|tree| !tree.join("null").exists() && !tree.join("disk").exists()),
        ),
        case(
            "fifo, then written",
            Tree::new().fifo("p").file("p", 0o644, "x"),
            Harmless(|tree| fs::read(tree.join("p")).unwrap() == b"x"),
        ),
        case(
            "file below a file",
            Tree::new().file("a", 0o644, "").file("a/b", 0o644, ""),
            Refused(|e| matches!(e, UnpackError::Blocked { .. })),
        ),
        case(
            "root as a symlink",
            Tree::new().symlink(".", canary),
            Refused(|e| matches!(e, UnpackError::Root { .. })),
        ),
        case(
            "root as a file",
            Tree::new().file("./", 0o644, "x"),
            Refused(|e| matches!(e, UnpackError::Root { .. })),
        ),
        case(
            "root that nobody may enter",
            Tree::new().dir_mode(".", 0).file("f", 0o644, "x"),
            Harmless(|tree| fs::metadata(tree).unwrap().mode() & 0o7777 == 0),
        ),
        case(
            "names beyond text",
            Tree::new()
                .pax(&[("path", b"\xff\xfe\x1b[2J\nx")])
                .file("f", 0o644, "x"),
            Harmless(|tree| fs::read_dir(tree).unwrap().count() == 1),
        ),
        case(
            "the same name again and again",
            Tree::new()
                .file("a", 0o644, "1")
                .dir("a")
                .file("a/b", 0o644, "2")
                .file("a", 0o644, "3")
                .symlink("a", "b"),
            Harmless(|tree| tree.join("a").is_symlink() && fs::read_dir(tree).unwrap().count() == 1),
        ),
    ]
}

/// Lies about sizes, and too much of everything.
fn sizes() -> Vec<Case> {
    let tar = |_: ()| Refused(|e| matches!(e, UnpackError::Tar(_)));
    let header_error = || Refused(|e| matches!(e, UnpackError::Tar(TarError::Header { .. })));
    let truncated = || Refused(|e| matches!(e, UnpackError::Tar(TarError::Truncated { .. })));
    let pax = || Refused(|e| matches!(e, UnpackError::Tar(TarError::Pax { .. })));
    let too_long = || Refused(|e| matches!(e, UnpackError::Tar(TarError::TooLong { .. })));
    let sparse = || Refused(|e| matches!(e, UnpackError::Tar(TarError::Sparse { .. })));
    let path = || Refused(|e| matches!(e, UnpackError::Path { .. }));
    let big = || Refused(|e| matches!(e, UnpackError::Bytes { .. }));
    let mut deep = Tree::new();
    for depth in [260, 1500] {
        deep = deep.dir(&"d/".repeat(depth));
    }
    let mut cut = Tree::new().file("f", 0o644, [7; 4000]).unfinished();
    cut.truncate(2000);
    let mut checksum = Tree::new().file("f", 0o644, "").finish();
    checksum[0] ^= 1;
    let pair = |a: &str, b: &str| {
        vec![
            ("GNU.sparse.major".to_owned(), a.to_owned()),
            ("GNU.sparse.minor".to_owned(), b.to_owned()),
        ]
    };
    let sparse_pax = |major: &str, minor: &str, size: &str, map: &str, content: &[u8]| {
        let mut records = pair(major, minor);
        records.push(("GNU.sparse.realsize".to_owned(), size.to_owned()));
        records.push(("GNU.sparse.size".to_owned(), size.to_owned()));
        if !map.is_empty() {
            records.push(("GNU.sparse.map".to_owned(), map.to_owned()));
        }
        let records: Vec<(&str, &[u8])> = records.iter().map(|(k, v)| (k.as_str(), v.as_bytes())).collect();
        Tree::new().pax(&records).file("s", 0o644, content)
    };
    let mut leading = b"99999999\n".to_vec();
    leading.resize(512, b'1');
    vec![
        bytes("cut off in a file", cut, truncated()),
        bytes(
            "cut off in a header",
            Tree::new().file("f", 0o644, "").finish()[..300].to_vec(),
            truncated(),
        ),
        bytes("wrong checksum", checksum, header_error()),
        bytes("not an archive", vec![b'x'; 4096], header_error()),
        bytes(
            "one empty block in the middle",
            [vec![0; 512], Tree::new().dir("a").finish()].concat(),
            header_error(),
        ),
        bytes(
            "negative size",
            header(EntryType::Regular, "f", |h| h.as_old_mut().size = [0xff; 12]),
            header_error(),
        ),
        bytes(
            "size of all bits",
            header(EntryType::Regular, "f", |h| h.set_size(u64::MAX >> 1)),
            big(),
        ),
        bytes(
            "a tebibyte promised",
            header(EntryType::Regular, "f", |h| h.set_size(1 << 40)),
            big(),
        ),
        case(
            "PAX size beyond the archive",
            Tree::new().pax(&[("size", b"9000")]).file("f", 0o644, "x"),
            truncated(),
        ),
        case(
            "PAX size beyond numbers",
            Tree::new()
                .pax(&[("size", b"99999999999999999999")])
                .file("f", 0o644, "x"),
            tar(()),
        ),
        bytes(
            "PAX header of two gibibytes",
            header(EntryType::XHeader, "x", |h| h.set_size(2 << 30)),
            too_long(),
        ),
        bytes(
            "long name of two gibibytes",
            gnu(b'L', "x", |h| set_size(h, 2 << 30)),
            too_long(),
        ),
        bytes(
            "PAX record that lies about its length",
            end(special(b'x', b"99 path=a\n")),
            pax(),
        ),
        bytes("PAX record without end", end(special(b'x', b"11 path=abc")), pax()),
        case(
            "PAX path with a NUL",
            Tree::new().pax(&[("path", b"a\0b")]).file("f", 0o644, "x"),
            pax(),
        ),
        case(
            "path of 5,000 bytes",
            Tree::new().pax(&[("path", &[b'a'; 5000])]).file("f", 0o644, "x"),
            path(),
        ),
        case(
            "name of 300 bytes",
            Tree::new().pax(&[("path", &[b'a'; 300])]).file("f", 0o644, "x"),
            path(),
        ),
        case("folders without end", deep, path()),
        case(
            "symlink of 5,000 bytes",
            Tree::new().symlink("s", &"a".repeat(5000)),
            path(),
        ),
        case("symlink to nothing", Tree::new().symlink("s", ""), path()),
        case(
            "sparse map that overlaps",
            sparse_pax("0", "1", "100", "0,10,5,10", &[1; 20]),
            sparse(),
        ),
        case(
            "sparse map beyond the file",
            sparse_pax("0", "1", "10", "5,10", &[1; 10]),
            sparse(),
        ),
        case(
            "sparse map that covers too little",
            sparse_pax("0", "1", "100", "0,10", &[1; 20]),
            sparse(),
        ),
        case(
            "sparse map that overflows",
            sparse_pax("0", "1", "100", "18446744073709551615,10", &[1; 10]),
            sparse(),
        ),
        case(
            "sparse map without pairs",
            sparse_pax("0", "1", "100", "1,2,3", &[1; 2]),
            sparse(),
        ),
        case(
            "sparse map longer than the file",
            sparse_pax("1", "0", "100", "", &leading),
            Refused(|e| matches!(e, UnpackError::Tar(_))),
        ),
        case(
            "sparse file of eight exbibytes",
            sparse_pax("0", "1", "9223372036854775807", "0,1", &[1; 1]),
            Refused(|e| matches!(e, UnpackError::Os { .. })),
        ),
        bytes(
            "old sparse map without numbers",
            gnu(b'S', "s", |h| h[386..410].fill(b'z')),
            sparse(),
        ),
        bytes(
            "old sparse map without end",
            gnu(b'S', "s", |h| {
                set_size(h, 0);
                h[482] = 1;
            }),
            truncated(),
        ),
        bytes(
            "type that layers do not have",
            header(EntryType::new(b'M'), "f", |_| ()),
            Refused(|e| matches!(e, UnpackError::Tar(TarError::Type { .. }))),
        ),
        case(
            "one byte too much",
            Tree::new().file("f", 0o644, vec![1; (LIMITS.bytes + 1) as usize]),
            big(),
        ),
    ]
}

fn set_size(header: &mut [u8; 512], size: u64) {
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
}

fn special(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = gnu(kind, "x", |h| set_size(h, body.len() as u64));
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn long_name(kind: u8, name: &[u8]) -> Vec<u8> {
    [special(kind, name), header(EntryType::Regular, "short", |_| ())].concat()
}

fn find(dir: &Path, name: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        path.ends_with(name) || path.is_dir() && !path.is_symlink() && find(&path, name)
    })
}

/// Path, mode, size, times and content of everything in a folder.
fn picture(dir: &Path, into: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        into.push(format!(
            "{} {:o} {}:{} {}.{} {} {content:?}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink()
        ));
        if meta.is_dir() {
            picture(&path, into);
        }
    }
}

struct Field {
    layers: Layers,
    canary: std::path::PathBuf,
    before: Vec<String>,
}

impl Field {
    fn new(surroundings: &Surroundings) -> Field {
        let layers = Layers::new("malicious");
        let canary = layers.scratch.folder("canary");
        layers.scratch.write("canary/secret", "secret");
        layers.scratch.folder("canary/folder");
        layers.scratch.write("canary/folder/file", "file");
        open_to_all(&canary);
        // Whoever escapes would have the right to do harm here.
        for path in [
            "canary",
            "canary/secret",
            "canary/folder",
            "canary/folder/file",
            "layers",
        ] {
            surroundings.give(&layers.scratch.join(path));
        }
        let mut before = Vec::new();
        picture(&canary, &mut before);
        Field { layers, canary, before }
    }

    fn run(&self, surroundings: &Surroundings, number: usize, case: Case) {
        let label = format!("{} ({})", case.name, surroundings.name());
        let name = format!("l{number}");
        let done = self.layers.unpack(surroundings, &name, &case.archive, &[]);
        self.judge(&label, &name, done.map(drop), case.expect);
    }

    fn judge(&self, label: &str, name: &str, done: Result<(), WorkerError>, expect: Expect) {
        let tree = self.layers.tree(name);
        match (expect, done) {
            (Refused(right), Err(WorkerError::Unpack(error))) => {
                assert!(right(&error), "{label}: {error} ({error:?})");
                assert_eq!(fs::read_dir(&tree).unwrap().count(), 0, "{label}: something is left");
            }
            (Harmless(right), Ok(())) => assert!(right(&tree), "{label}: the tree is not as it should be"),
            (_, done) => panic!("{label}: {done:?}"),
        }
        let mut now = Vec::new();
        picture(&self.canary, &mut now);
        assert_eq!(now, self.before, "{label}: the canary is dead");
        let layers: Vec<_> = fs::read_dir(self.layers.scratch.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(layers.len(), 2, "{label}: something was written outside: {layers:?}");
        fs::remove_dir_all(&tree).unwrap();
        let layers = fs::read_dir(self.layers.scratch.join("layers")).unwrap().count();
        assert_eq!(layers, 0, "{label}: something was written beside");
    }
}

#[test]
fn no_archive_writes_outside_its_layer() {
    for surroundings in Surroundings::all() {
        let field = Field::new(&surroundings);
        let canary = field.canary.to_str().unwrap().to_owned();
        let cases: Vec<Case> = escapes(&canary)
            .into_iter()
            .chain(meanings(&canary))
            .chain(sizes())
            .collect();
        assert!(cases.len() >= 25);
        for (number, case) in cases.into_iter().enumerate() {
            field.run(&surroundings, number, case);
        }
    }
}

#[test]
fn archives_without_end_are_cut_off() {
    let endless = |e: &UnpackError| matches!(e, UnpackError::Tar(TarError::Endless { .. }));
    let limits = Limits {
        bytes: 1 << 20,
        archive: 4 << 20,
        entries: 1000,
    };
    let one_file = Tree::new().file("f", 0o644, "x").unfinished();
    for surroundings in Surroundings::all() {
        let field = Field::new(&surroundings);
        let run = |name: &str, archive: Endless, expect: fn(&UnpackError) -> bool| {
            let done = field.layers.unpack_within(&surroundings, "l", archive, &[], limits);
            field.judge(
                &format!("{name} ({})", surroundings.name()),
                "l",
                done.map(drop),
                Refused(expect),
            );
        };
        run(
            "zeros behind the end",
            Endless(end(one_file.clone()), vec![0; 65536]),
            endless,
        );
        run(
            "PAX headers for ever",
            Endless(Vec::new(), special(b'x', b"12 path=abc\n")),
            endless,
        );
        run(
            "global headers for ever",
            Endless(Vec::new(), special(b'g', b"13 comment=a\n")),
            endless,
        );
        run(
            "a long name for ever",
            Endless(gnu(b'S', "s", |h| h[482] = 1), vec![1; 512]),
            |e| matches!(e, UnpackError::Tar(TarError::Sparse { .. } | TarError::Endless { .. })),
        );
        run("small files for ever", Endless(Vec::new(), one_file.clone()), |e| {
            matches!(e, UnpackError::Bytes { .. } | UnpackError::Entries { .. })
        });
        run(
            "empty folders for ever",
            Endless(Vec::new(), Tree::new().dir("d").unfinished()),
            |e| matches!(e, UnpackError::Entries { .. }),
        );
    }
}

#[test]
fn owners_beyond_the_range_are_named_and_with_one_id_recorded() {
    let archive = Tree::new().owned_file("far", 0o644, 70_000, "x").finish();
    for surroundings in Surroundings::all() {
        let field = Field::new(&surroundings);
        let done = field.layers.unpack(&surroundings, "l", &archive, &[]);
        match &surroundings {
            Surroundings::Namespace(_) | Surroundings::Ranges(..) => {
                let error = done.as_ref().unwrap_err().to_string();
                assert!(
                    error.contains("`far`") && error.contains("70000") && error.contains("0-65"),
                    "{error}"
                );
                field.judge(
                    "far",
                    "l",
                    done.map(drop),
                    Refused(|e| matches!(e, UnpackError::Owner { id: 70_000, .. })),
                );
            }
            Surroundings::Plain(_) => drop(done.unwrap()),
            Surroundings::OneId(..) => {
                done.unwrap();
                let file = fs::File::open(field.layers.tree("l").join("far")).unwrap();
                let owner = dunlin::sys::fs::get_xattr(&file, b"user.dunlin.owner").unwrap();
                assert_eq!(owner.as_deref(), Some(&b"70000:70000"[..]));
            }
        }
    }
}
