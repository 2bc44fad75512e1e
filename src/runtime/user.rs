//! Who a program runs as: `USER[:GROUP]` looked up in the container's own `/etc/passwd` and `/etc/group`, by the rules that
//! Docker and podman share. Names of further groups may follow, a line each.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::error::{Errno, RuntimeError};
use crate::sys::path::read_bounded;
use crate::types::bounds::{PASSWD_BYTES, USER_GROUPS};

/// Ids in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups of the user's own; those the specification adds come on top.
    pub groups: Vec<u32>,
    /// Groups that were named further: they must be mapped.
    pub further: Vec<u32>,
    /// Home directory, where passwd says one.
    pub home: Option<String>,
}

/// Looks up `USER[:GROUP]`; empty is root. `root` is the container's root directory.
pub fn look_up(root: BorrowedFd<'_>, user: &str) -> Result<Identity, RuntimeError> {
    let files = Files::read(root, user)?;
    resolve(user, &files)
}

/// The home directory of a user id, where passwd says one.
pub fn home_of(root: BorrowedFd<'_>, uid: u32) -> Option<String> {
    // Not being able to tell is not worth failing for: the caller has a default.
    let passwd = read_bounded(root, Path::new("etc/passwd"), PASSWD_BYTES).ok()??;
    users(&passwd)
        .find(|user| user.uid == uid)
        .map(|user| user.home.to_owned())
}

/// The two files; empty where the image has none.
#[derive(Debug, Default)]
struct Files {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Files {
    fn read(root: BorrowedFd<'_>, user: &str) -> Result<Self, RuntimeError> {
        let read = |path: &str| {
            read_bounded(root, Path::new(path), PASSWD_BYTES)
                .map(Option::unwrap_or_default)
                .map_err(|e: io::Error| RuntimeError::User {
                    user: user.to_owned(),
                    problem: format!("read `/{path}`: {}", Errno::from(e)),
                })
        };
        Ok(Files {
            passwd: read("etc/passwd")?,
            group: read("etc/group")?,
        })
    }
}

fn resolve(text: &str, files: &Files) -> Result<Identity, RuntimeError> {
    let (user, further) = text.split_once('\n').unwrap_or((text, ""));
    let mut found = resolve_user(user, files)?;
    for name in further.lines() {
        let group = groups(&files.group).find(|group| group.name == name);
        found.further.push(group.ok_or_else(|| no_group(name))?.gid);
    }
    Ok(found)
}

fn no_group(name: &str) -> RuntimeError {
    RuntimeError::Group {
        group: name.to_owned(),
        problem: "no matching entries in group file".to_owned(),
    }
}

fn resolve_user(text: &str, files: &Files) -> Result<Identity, RuntimeError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let number = number(user);
    let entry = users(&files.passwd).find(|entry| match (user, number) {
        ("", _) => entry.uid == 0,
        (_, Some(uid)) => entry.uid == uid,
        (name, None) => entry.name == name,
    });
    let mut found = match (&entry, number) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            home: (!entry.home.is_empty()).then(|| entry.home.to_owned()),
            ..Identity::default()
        },
        (None, Some(uid)) => Identity {
            uid,
            ..Identity::default()
        },
        (None, None) if user.is_empty() => Identity::default(),
        (None, None) => {
            let problem = "no matching entries in passwd file".to_owned();
            return Err(RuntimeError::User {
                user: user.to_owned(),
                problem,
            });
        }
    };
    if group.is_empty() {
        if let Some(entry) = entry {
            let of_user = groups(&files.group).filter(|group| group.members.split(',').any(|name| name == entry.name));
            found.groups = of_user.map(|group| group.gid).take(USER_GROUPS).collect();
        }
        return Ok(found);
    }
    let number = self::number(group);
    let entry = groups(&files.group).find(|entry| match number {
        Some(gid) => entry.gid == gid,
        None => entry.name == group,
    });
    found.gid = match (entry, number) {
        (Some(entry), _) => entry.gid,
        (None, Some(gid)) => gid,
        (None, None) => return Err(no_group(group)),
    };
    Ok(found)
}

/// An id; the largest number means "no change" to the kernel and is none.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id != u32::MAX)
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that are texts of at least `fields` fields between colons; others do not count.
fn lines(file: &[u8], fields: usize) -> impl Iterator<Item = Vec<&str>> {
    file.split(|&b| b == b'\n').filter_map(move |line| {
        let parts: Vec<&str> = std::str::from_utf8(line).ok()?.trim().split(':').collect();
        (parts.len() >= fields && !parts[0].starts_with('#')).then_some(parts)
    })
}

fn users(file: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(file, 4).filter_map(|parts| {
        let home = parts.get(5).copied().unwrap_or_default();
        Some(User {
            name: parts[0],
            uid: number(parts[2])?,
            gid: number(parts[3])?,
            home,
        })
    })
}

fn groups(file: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(file, 3).filter_map(|parts| {
        Some(Group {
            name: parts[0],
            gid: number(parts[2])?,
            members: parts.get(3).copied().unwrap_or_default(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            passwd: b"# people\nroot:x:0:0:root:/root:/bin/sh\nbad\nkim:x:1000:100::/home/kim:/bin/sh\n4:x:44:44::/four:\n\xff:x:9:9::/:\nbig:x:4294967295:1::/:\n".to_vec(),
            group: b"root:x:0:root\nwheel:x:10:root,kim\nusers:x:100:\nvideo:x:44:kim\n".to_vec(),
        }
    }

    #[test]
    fn users_and_groups_resolve_as_podman_resolves_them() {
        let id = |uid, gid, groups: &[u32], home: &str| {
            let home = (!home.is_empty()).then(|| home.to_owned());
            Identity {
                uid,
                gid,
                groups: groups.to_vec(),
                home,
                ..Identity::default()
            }
        };
        let cases = [
            ("", id(0, 0, &[0, 10], "/root")),
            ("root", id(0, 0, &[0, 10], "/root")),
            ("0", id(0, 0, &[0, 10], "/root")),
            ("kim", id(1000, 100, &[10, 44], "/home/kim")),
            ("1000", id(1000, 100, &[10, 44], "/home/kim")),
            // Digits are always a number, even where a user is called so.
            ("4", id(4, 0, &[], "")),
            ("7777", id(7777, 0, &[], "")),
            // A group that is named takes the place of all others.
            ("kim:wheel", id(1000, 10, &[], "/home/kim")),
            ("kim:44", id(1000, 44, &[], "/home/kim")),
            ("7777:8888", id(7777, 8888, &[], "")),
            (":users", id(0, 100, &[], "/root")),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, &files()), Ok(expected), "{text}");
        }
        let further = Identity {
            further: vec![100, 10],
            ..id(1000, 44, &[], "/home/kim")
        };
        assert_eq!(resolve("kim:44\nusers\nwheel", &files()), Ok(further));
    }

    #[test]
    fn nobody_by_that_name_is_an_error() {
        for (text, part) in [
            ("lee", "unable to find user lee"),
            ("kim:staff", "unable to find group staff"),
            ("kim\nstaff", "unable to find group staff"),
            ("big", "unable to find user big"),
            ("4294967295", "unable to find user 4294967295"),
            ("-1", "unable to find user -1"),
        ] {
            let error = resolve(text, &files()).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(resolve("", &Files::default()), Ok(Identity::default()));
        assert!(resolve("kim", &Files::default()).is_err());
    }
}
