//! Subordinate ids: which user and group ids a user may map into its namespaces (subuid(5), subgid(5)), and the map of a
//! store's user namespace that follows.
//!
//! | owner | map of the store's namespace |
//! |---|---|
//! | ordinary user with ranges | 0 is the owner, 1 and on are the ranges in the order of the files |
//! | ordinary user without | 0 is the owner, nothing else |
//! | root | the range of `root` or `dunlin`, else the built-in one; never the host's root |

use std::path::{Path, PathBuf};

use crate::disk::{DiskError, durable};
use crate::types::bounds::{SUBID_FILE_BYTES, SUBID_RANGES};
use crate::types::idmap::{Extent, IdMap};

/// The range for a store that belongs to root where the files name none. It lies where neither useradd (100,000 to
/// 600,100,000) nor systemd (524,288 to 1,879,048,191 and from 2,147,352,576) hands out ids, so that it stays free when users are
/// added later.
pub const BUILT_IN: Range = Range {
    first: 2_000_000_000,
    count: 65_536,
};

/// Consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// The map of a store's user namespace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreMap {
    /// Its extents, `outside` being the host's ids.
    pub map: IdMap,
    /// The host's user id that is root inside: the owner of the store's files.
    pub uid: u32,
    /// The same for groups.
    pub gid: u32,
    /// Why there is only one id, where that is so.
    pub note: Option<String>,
}

/// Why the ranges cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SubidError {
    /// A file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A line that concerns the user makes no sense.
    #[error("`{path}` line {line}: `{text}` is not `NAME:FIRST:COUNT` with ids from 1 to 4294967294; correct it")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// The built-in range belongs to somebody else.
    #[error(
        "`{path}` gives ids {} to {} to `{user}`, which the store of root would use; add a line `root:{free}:{}` to \
         /etc/subuid and to /etc/subgid",
        BUILT_IN.first, BUILT_IN.first + BUILT_IN.count - 1, BUILT_IN.count
    )]
    Taken {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        user: String,
        /// A first id that is free in the file.
        free: u32,
    },
}

/// The two files and the list of users.
#[derive(Clone, Debug)]
pub struct Files {
    /// `/etc/subuid`.
    pub subuid: PathBuf,
    /// `/etc/subgid`.
    pub subgid: PathBuf,
    /// `/etc/passwd`, for the user's name.
    pub passwd: PathBuf,
}

impl Default for Files {
    fn default() -> Files {
        Files {
            subuid: "/etc/subuid".into(),
            subgid: "/etc/subgid".into(),
            passwd: "/etc/passwd".into(),
        }
    }
}

impl Files {
    /// The map for a store that belongs to `uid` and `gid`.
    pub fn store_map(&self, uid: u32, gid: u32) -> Result<StoreMap, SubidError> {
        let [uids, gids] = [&self.subuid, &self.subgid].map(|path| Lines::read(path));
        let (uids, gids) = (uids?, gids?);
        if uid == 0 {
            let (uid, gid) = (uids.of_root()?, gids.of_root()?);
            let one = |range: Range| {
                vec![Extent {
                    inside: 0,
                    outside: range.first,
                    count: range.count,
                }]
            };
            let map = IdMap {
                uids: one(uid),
                gids: one(gid),
            };
            return Ok(StoreMap {
                map,
                uid: uid.first,
                gid: gid.first,
                note: None,
            });
        }
        let name = self.name_of(uid)?;
        let (own_uids, own_gids) = (uids.of(name.as_deref(), uid)?, gids.of(name.as_deref(), uid)?);
        if own_uids.is_empty() || own_gids.is_empty() {
            let file = if own_uids.is_empty() {
                &self.subuid
            } else {
                &self.subgid
            };
            let who = name.unwrap_or_else(|| uid.to_string());
            let note = format!(
                "`{}` has no line for `{who}`: images with other users than root do not work",
                file.display()
            );
            return Ok(StoreMap {
                map: IdMap::single(uid, gid),
                uid,
                gid,
                note: Some(note),
            });
        }
        let map = IdMap {
            uids: joined(uid, &own_uids),
            gids: joined(gid, &own_gids),
        };
        Ok(StoreMap {
            map,
            uid,
            gid,
            note: None,
        })
    }

    /// The user's name, if the list has one.
    pub fn name_of(&self, uid: u32) -> Result<Option<String>, SubidError> {
        let users = read(&self.passwd)?;
        Ok(users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        }))
    }
}

/// A file's lines, unjudged.
struct Lines<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> Lines<'a> {
    fn read(path: &'a Path) -> Result<Lines<'a>, SubidError> {
        Ok(Lines {
            path,
            text: read(path)?,
        })
    }

    /// Owner and range of each line. What does not concern dunlin may be nonsense.
    fn entries(&self) -> impl Iterator<Item = (usize, &str, &str, Option<Range>)> {
        self.text.lines().enumerate().filter_map(|(at, line)| {
            let (owner, rest) = line.trim().split_once(':')?;
            (!owner.starts_with('#')).then(|| (at + 1, owner, line.trim(), range(rest)))
        })
    }

    /// The ranges of a user, by name or number, in order.
    fn of(&self, name: Option<&str>, uid: u32) -> Result<Vec<Range>, SubidError> {
        let mut found: Vec<Range> = Vec::new();
        let number = uid.to_string();
        for (line, owner, text, range) in self.entries() {
            if Some(owner) != name && owner != number {
                continue;
            }
            let wrong = || SubidError::Line {
                path: self.path.to_owned(),
                line,
                text: text.chars().take(80).collect(),
            };
            let range = range.ok_or_else(wrong)?;
            let overlaps =
                |other: &Range| range.first < other.first + other.count && other.first < range.first + range.count;
            // The same ids twice, or more lines than the kernel takes, add nothing.
            if range.count > 0 && found.len() < SUBID_RANGES && !found.iter().any(overlaps) {
                found.push(range);
            }
        }
        Ok(found)
    }

    /// The range of a store that belongs to root.
    fn of_root(&self) -> Result<Range, SubidError> {
        for name in ["root", "dunlin"] {
            let number = if name == "root" { 0 } else { u32::MAX };
            if let Some(range) = self.of(Some(name), number)?.into_iter().next() {
                return Ok(range);
            }
        }
        let end = BUILT_IN.first + BUILT_IN.count;
        let others = || self.entries().filter_map(|(_, owner, _, range)| Some((owner, range?)));
        match others().find(|(_, other)| other.first < end && other.first + other.count > BUILT_IN.first) {
            None => Ok(BUILT_IN),
            Some((user, _)) => Err(SubidError::Taken {
                path: self.path.to_owned(),
                user: user.chars().take(64).collect(),
                free: others().map(|(_, range)| range.first + range.count).fold(end, u32::max),
            }),
        }
    }
}

fn read(path: &Path) -> Result<String, SubidError> {
    match durable::read(path, SUBID_FILE_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.is_missing() => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

/// `FIRST:COUNT`, without the host's root and all of it below the id that means nobody (2^32 - 1).
fn range(text: &str) -> Option<Range> {
    let (first, count) = text.split_once(':')?;
    let (first, count): (u32, u32) = (first.trim().parse().ok()?, count.trim().parse().ok()?);
    first.checked_add(count).filter(|end| *end < u32::MAX)?;
    (first > 0).then_some(Range { first, count })
}

/// 0 is `own`, then the ranges one after the other; what passes 2^32 ids is left out.
fn joined(own: u32, ranges: &[Range]) -> Vec<Extent> {
    let mut extents = vec![Extent {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside: u32 = 1;
    for range in ranges {
        let count = range.count.min(u32::MAX - 1 - inside);
        if count > 0 {
            extents.push(Extent {
                inside,
                outside: range.first,
                count,
            });
            inside += count;
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files with these texts, named after the test.
    fn files(name: &str, subuid: &str, subgid: &str) -> Files {
        let dir = std::env::temp_dir().join(format!("dunlin-subid-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        Files {
            subuid: write("subuid", subuid),
            subgid: write("subgid", subgid),
            passwd: write(
                "passwd",
                "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n",
            ),
        }
    }

    fn remove(files: &Files) {
        std::fs::remove_dir_all(files.subuid.parent().unwrap()).unwrap();
    }

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn ranges_of_a_user_follow_its_own_id() {
        let text =
            "# comment\nbob:100000:65536\nann:165536:1000\n1000:300000:10\nann:165600:5\nann:500000:0\nnonsense\n";
        let files = files("own", text, "ann:165536:65536\n");
        let map = files.store_map(1000, 1000).unwrap();
        assert_eq!(
            map.map.uids,
            [extent(0, 1000, 1), extent(1, 165_536, 1000), extent(1001, 300_000, 10)]
        );
        assert_eq!(map.map.gids, [extent(0, 1000, 1), extent(1, 165_536, 65_536)]);
        assert_eq!((map.uid, map.gid, map.note), (1000, 1000, None));
        remove(&files);
    }

    #[test]
    fn users_without_ranges_get_one_id_and_are_told() {
        let files = files("none", "bob:100000:65536\n", "");
        for uid in [1000, 1001, 4711] {
            let map = files.store_map(uid, 7).unwrap();
            assert_eq!(map.map, IdMap::single(uid, 7));
            assert!(
                map.note
                    .unwrap()
                    .contains(if uid == 1001 { "subgid" } else { "subuid" })
            );
        }
        std::fs::remove_file(&files.subuid).unwrap();
        assert!(
            files.store_map(1000, 1000).unwrap().map.is_single(),
            "no file is no range"
        );
        remove(&files);
    }

    #[test]
    fn a_store_of_root_never_maps_the_hosts_root() {
        for (text, first) in [
            ("", 2_000_000_000),
            ("ann:100000:65536\n", 2_000_000_000),
            ("dunlin:5000:10\n", 5000),
            ("dunlin:1:1\nroot:9000:70000\n", 9000),
        ] {
            let files = files("root", text, text);
            let map = files.store_map(0, 0).unwrap();
            assert_eq!((map.uid, map.gid, map.map.uids[0].inside), (first, first, 0), "{text}");
            assert_eq!(map.map.uids.len(), 1);
            remove(&files);
        }
        let files = files("taken", "ann:2000000000:65536\nbob:2000065536:65536\n", "");
        let error = files.store_map(0, 0).unwrap_err().to_string();
        assert!(
            error.contains("`ann`") && error.contains("`root:2000131072:65536`"),
            "{error}"
        );
        remove(&files);
    }

    #[test]
    fn nonsense_for_the_user_is_named() {
        for line in [
            "ann:x:5",
            "ann:5",
            "ann:4294967290:100",
            "ann:-1:5",
            "ann:1:99999999999",
            "ann:0:10",
        ] {
            let files = files("bad", &format!("bob:1:1\n{line}\n"), "");
            let error = files.store_map(1000, 1000).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(line), "{error}");
            remove(&files);
        }
    }
}
