//! Whose containers: which store is meant, and becoming its owner before anything of it is touched.

use super::args::Global;
use super::failure::Failure;
use crate::config::agent::{SYSTEM_APPS, SYSTEM_FILE, Settings};
use crate::config::{ConfigError, env};
use crate::disk::layout::Layout;
use crate::engine::unshare;
use crate::keeper::start::{self, Owner, Starter};
use crate::sys::creds;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Name of the user that owns the system store.
const SYSTEM_USER: &str = "dunlin";

/// A store and the settings that hold for it.
pub struct Place {
    /// Where everything is.
    pub layout: Layout,
    /// What is configured.
    pub settings: Settings,
    /// Of a caller that was root: how to start a keeper.
    pub starter: Option<Starter>,
}

/// A line of /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Finds the store that is meant. Run as root, irrevocably becomes its owner; for verbs that start something, after making
/// control groups for the owner's keeper. Reads no file of the store before.
pub fn settle(global: &Global, starts: bool) -> Result<Place, Failure> {
    let (uid, _) = creds::effective_ids();
    let session = unshare::session();
    let root = uid == 0 && session.is_none();
    let system_owner = owner_of(Layout::system().data())?;
    // The system store's own user means it without saying so.
    let system = root || system_owner == Some(uid);
    let settings = settings(global, system)?;
    let layout = layout(global, &settings, system, uid)?;
    if session.is_some() && owner_of(layout.data())?.is_some_and(|owner| owner != uid) {
        return Err(Failure::new(format!(
            "`{}` belongs to a user that `dunlin unshare` does not have; leave it to use dunlin on this store",
            layout.data().display()
        )));
    }
    let starter = if root { become_owner(&layout, starts)? } else { None };
    let (uid, _) = creds::effective_ids();
    check_owner(layout.data(), uid)?;
    check_owner(layout.run(), uid)?;
    check_run_root(&layout, uid)?;
    Ok(Place {
        layout,
        settings,
        starter,
    })
}

/// The settings file that an enrolment writes.
pub fn config_path(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(path) = global.config.clone().or_else(|| env::path(env::DUNLIN_CONFIG)) {
        return Ok(std::path::absolute(path)?);
    }
    let (uid, _) = creds::effective_ids();
    if uid == 0 || owner_of(Layout::system().data())? == Some(uid) {
        return Ok(SYSTEM_FILE.into());
    }
    own_folder()
        .map(|dir| dir.join("agent.toml"))
        .ok_or_else(|| Failure::new("neither XDG_CONFIG_HOME nor HOME is set; say where settings go with --config"))
}

/// Where the store of these settings is.
pub fn layout_of(global: &Global, settings: &Settings) -> Result<Layout, Failure> {
    let (uid, _) = creds::effective_ids();
    let system = uid == 0 || owner_of(Layout::system().data())? == Some(uid);
    layout(global, settings, system, uid)
}

/// The settings that hold, for what needs no store.
pub fn settings_alone(global: &Global) -> Result<Settings, Failure> {
    let (uid, _) = creds::effective_ids();
    let system = unshare::caller() == 0 || owner_of(Layout::system().data())? == Some(uid);
    Ok(settings(global, system)?)
}

fn settings(global: &Global, system: bool) -> Result<Settings, ConfigError> {
    if let Some(path) = global.config.clone().or_else(|| env::path(env::DUNLIN_CONFIG)) {
        return Settings::load(&path, true);
    }
    if system {
        return Settings::load(Path::new(SYSTEM_FILE), false);
    }
    let own = own_folder();
    let path = own.as_ref().map(|dir| dir.join("agent.toml"));
    let mut settings = match path.filter(|path| path.exists()) {
        Some(path) => Settings::load(&path, true)?,
        None => {
            // The system's file may hold what only its user may read. To the broker the device is one.
            let mut settings = Settings::load(Path::new(SYSTEM_FILE), false).unwrap_or_default();
            settings.store.root = None;
            settings.store.runroot = None;
            settings.mqtt = None;
            settings
        }
    };
    if let Some(own) = own.filter(|_| settings.apps.dir == Path::new(SYSTEM_APPS)) {
        settings.apps.dir = own.join("apps");
    }
    Ok(settings)
}

/// Where an ordinary user's settings and app documents are.
fn own_folder() -> Option<PathBuf> {
    let own = env::path(env::XDG_CONFIG_HOME).or_else(|| Some(env::path(env::HOME)?.join(".config")));
    own.map(|dir| dir.join("dunlin"))
}

fn layout(global: &Global, settings: &Settings, system: bool, uid: u32) -> Result<Layout, Failure> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| Failure::new(format!("`{}`: {error}", path.display())));
    let asked = global
        .root
        .clone()
        .or_else(|| env::path(env::DUNLIN_ROOT))
        .or_else(|| settings.store.root.clone());
    let asked_run = global
        .runroot
        .clone()
        .or_else(|| env::path(env::DUNLIN_RUNROOT))
        .or_else(|| settings.store.runroot.clone());
    if let (Some(data), Some(run)) = (&asked, &asked_run) {
        return Ok(Layout::new(absolute(data)?, absolute(run)?));
    }
    let standard = if system { Layout::system() } else { own_layout(uid)? };
    let data = match &asked {
        Some(path) => absolute(path)?,
        None => standard.data().to_owned(),
    };
    let run = match asked_run {
        Some(path) => absolute(&path)?,
        // Two stores never share a run root.
        None if data != standard.data() => {
            let hash = crate::types::digest::Digest::of(data.as_os_str().as_encoded_bytes()).short();
            PathBuf::from(format!("{}-{hash}", standard.run().display()))
        }
        None => standard.run().to_owned(),
    };
    Ok(Layout::new(data, run))
}

/// The store of an ordinary user.
fn own_layout(uid: u32) -> Result<Layout, Failure> {
    let data = env::path(env::XDG_DATA_HOME).or_else(|| Some(env::path(env::HOME)?.join(".local/share")));
    let data =
        data.ok_or_else(|| Failure::new("neither XDG_DATA_HOME nor HOME is set; say where data goes with --root"))?;
    let run = match env::path(env::XDG_RUNTIME_DIR) {
        Some(dir) => dir.join("dunlin"),
        None => PathBuf::from(format!("/tmp/dunlin-{uid}")),
    };
    Ok(Layout::new(data.join("dunlin"), run))
}

/// The user id that owns a folder; `None` when it is not there.
fn owner_of(path: &Path) -> Result<Option<u32>, Failure> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.uid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Hidden from us: whoever owns it, it is not us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Failure::new(format!("`{}`: {error}", path.display()))),
    }
}

/// As root: makes the store's folders where they are missing, and becomes their owner.
fn become_owner(layout: &Layout, starts: bool) -> Result<Option<Starter>, Failure> {
    let owner = match owner_of(layout.data())? {
        Some(0) => None,
        Some(uid) => Some(user(|user| user.uid == uid).unwrap_or(User {
            name: String::new(),
            uid,
            gid: fs::metadata(layout.data())?.gid(),
            home: PathBuf::from("/"),
        })),
        None if *layout == Layout::system() => user(|user| user.name == SYSTEM_USER),
        None => None,
    };
    for dir in [layout.data(), layout.run()] {
        make_for(dir, owner.as_ref())?;
    }
    let Some(owner) = owner else { return Ok(None) };
    let groups = groups_of(&owner);
    let keeper_of = Owner {
        uid: owner.uid,
        gid: owner.gid,
        groups: groups.clone(),
    };
    let starter = if starts {
        start::prepare_as_root(layout, &keeper_of).map_err(|error| Failure::new(error.to_string()))?
    } else {
        None
    };
    creds::become_user(owner.uid, owner.gid, &groups).map_err(|error| {
        Failure::new(format!(
            "become user `{}` ({}), who owns `{}`: {error}",
            owner.name,
            owner.uid,
            layout.data().display()
        ))
    })?;
    env::become_user(owner.home);
    Ok(starter)
}

fn make_for(dir: &Path, owner: Option<&User>) -> Result<(), Failure> {
    if dir.is_dir() {
        return Ok(());
    }
    let fail = |error: io::Error| Failure::new(format!("create folder `{}`: {error}", dir.display()));
    if let Some(parent) = dir.parent().filter(|parent| !parent.is_dir()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(fail)?;
    }
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(fail)?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid)).map_err(fail)?;
    }
    Ok(())
}

/// A folder of somebody else is refused with whose it is and what to type.
fn check_owner(dir: &Path, uid: u32) -> Result<(), Failure> {
    let foreign = match fs::metadata(dir) {
        Ok(meta) if meta.uid() == uid => return Ok(()),
        Ok(meta) => Some(meta.uid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => return Err(Failure::new(format!("`{}`: {error}", dir.display()))),
    };
    // A store of root's whose files belong to a subordinate id is still root's.
    if uid == 0 {
        return Ok(());
    }
    let (whose, fix) = match foreign {
        None => ("somebody else".to_owned(), "type `sudo dunlin …`".to_owned()),
        Some(0) => ("root".to_owned(), "type `sudo dunlin …`".to_owned()),
        Some(other) => match user(|user| user.uid == other) {
            Some(user) => (
                format!("user `{}`", user.name),
                format!("type `sudo dunlin …` or `sudo -u {} dunlin …`", user.name),
            ),
            None => (format!("user id {other}"), "type `sudo dunlin …`".to_owned()),
        },
    };
    Err(Failure::new(format!(
        "`{}` belongs to {whose}; {fix}, or leave --root and --runroot out for a store of your own",
        dir.display()
    )))
}

/// A run root in a folder that anybody may write to must be ours and closed to others.
fn check_run_root(layout: &Layout, uid: u32) -> Result<(), Failure> {
    let run = layout.run();
    match fs::symlink_metadata(run) {
        Ok(meta) if meta.is_dir() && (meta.uid() == uid || uid == 0) && (meta.mode() & 0o022 == 0) => Ok(()),
        Ok(_) => Err(Failure::new(format!(
            "`{}` is not a folder that only you may write to; remove it, or name another with --runroot",
            run.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::new(format!("`{}`: {error}", run.display()))),
    }
}

/// The first user of /etc/passwd that fits.
fn user(fits: impl Fn(&User) -> bool) -> Option<User> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().filter_map(parse_user).find(fits)
}

fn parse_user(line: &str) -> Option<User> {
    let mut parts = line.split(':');
    let name = parts.next()?.to_owned();
    let uid = parts.nth(1)?.parse().ok()?;
    let gid = parts.next()?.parse().ok()?;
    let home = PathBuf::from(parts.nth(1)?);
    Some(User { name, uid, gid, home })
}

/// The groups that /etc/group puts the user in: granted devices are reached through them.
fn groups_of(user: &User) -> Vec<u32> {
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let mut groups = vec![user.gid];
    groups.extend(text.lines().filter_map(|line| member_of(line, &user.name)));
    groups.dedup();
    groups
}

fn member_of(line: &str, name: &str) -> Option<u32> {
    let mut parts = line.split(':').skip(2);
    let gid = parts.next()?.parse().ok()?;
    (!name.is_empty() && parts.next()?.split(',').any(|member| member == name)).then_some(gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd_and_group_are_read() {
        let user = parse_user("dunlin:x:990:991:Dunlin:/var/lib/dunlin:/usr/sbin/nologin");
        assert_eq!(
            user,
            Some(User {
                name: "dunlin".into(),
                uid: 990,
                gid: 991,
                home: "/var/lib/dunlin".into()
            })
        );
        assert_eq!(parse_user("broken:x:y"), None);
        assert_eq!(member_of("dialout:x:20:anna,dunlin", "dunlin"), Some(20));
        assert_eq!(member_of("dialout:x:20:anna", "dunlin"), None);
        assert_eq!(member_of("broken", "dunlin"), None);
    }
}
