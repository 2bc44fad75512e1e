//! `-v`, `--mount`, `--tmpfs`, `--shm-size`, `--read-only`.

use super::{CreateArgs, FlagError, wrong};
use crate::types::container::{Mount, MountSource};
use crate::types::text::{is_container_name, parse_size};
use std::path::{Path, PathBuf};

/// Options of a bind that are passed on to the mount.
const PASSED: [&str; 14] = [
    "nosuid", "suid", "nodev", "dev", "noexec", "exec", "private", "rprivate", "shared", "rshared", "slave", "rslave",
    "bind", "rbind",
];

/// All mounts that the flags ask for.
pub fn mounts(args: &CreateArgs) -> Result<Vec<Mount>, FlagError> {
    let mut mounts = Vec::new();
    for text in &args.volume {
        mounts.push(volume(text)?);
    }
    for text in &args.mount {
        mounts.push(mount(text)?);
    }
    for text in &args.tmpfs {
        mounts.push(tmpfs(text)?);
    }
    if let Some(text) = &args.shm_size {
        let size = parse_size(text)
            .filter(|size| *size > 0)
            .ok_or_else(|| wrong("--shm-size", text, "not a size; write for example `64m`"))?;
        let options = ["nosuid", "nodev", "noexec", "mode=1777"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("size={size}")])
            .collect();
        mounts.push(Mount {
            source: MountSource::Tmpfs,
            target: "/dev/shm".into(),
            read_only: false,
            options,
        });
    }
    if let Some(zone) = &args.tz {
        mounts.push(time_zone(zone)?);
    }
    if args.read_only && args.read_only_tmpfs != Some(false) {
        for target in ["/run", "/tmp", "/var/tmp"] {
            if !mounts.iter().any(|mount| mount.target == target) {
                mounts.push(tmpfs(target)?);
            }
        }
    }
    Ok(mounts)
}

/// The host's file of a time zone as the container's.
fn time_zone(zone: &str) -> Result<Mount, FlagError> {
    let path = match zone {
        "local" => PathBuf::from("/etc/localtime"),
        zone => Path::new("/usr/share/zoneinfo").join(zone),
    };
    let inside = zone.split('/').all(|part| !part.is_empty() && part != "..") && path.is_file();
    let source = inside.then(|| path.to_string_lossy().into_owned());
    Ok(Mount {
        source: MountSource::Bind(source.ok_or_else(|| wrong("--tz", zone, "the host has no such time zone"))?),
        target: "/etc/localtime".into(),
        read_only: true,
        options: Vec::new(),
    })
}

/// `[HOST|NAME:]TARGET[:OPTIONS]`.
fn volume(text: &str) -> Result<Mount, FlagError> {
    let flag = "--volume";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if target.starts_with('/') => (source, target, ""),
        [target, options] if target.starts_with('/') => ("", target, options),
        [source, target, options] => (source, target, options),
        _ => return Err(wrong(flag, text, "write [HOST|NAME:]TARGET[:OPTIONS]")),
    };
    if !target.starts_with('/') {
        return Err(wrong(flag, text, format!("target `{target}` is not an absolute path")));
    }
    let source = if source.starts_with('/') || source.starts_with('.') || source.starts_with('~') {
        MountSource::Bind(bind_source(flag, text, source)?)
    } else if source.is_empty() || is_container_name(source) {
        MountSource::Volume(source.to_owned())
    } else {
        return Err(wrong(
            flag,
            text,
            format!("`{source}` is neither a path nor a volume's name: letters, digits, `_.-`"),
        ));
    };
    let (read_only, options) = bind_options(flag, text, options.split(',').filter(|option| !option.is_empty()))?;
    Ok(Mount {
        source,
        target: target.to_owned(),
        read_only,
        options,
    })
}

/// A path as typed, absolute.
fn bind_source(flag: &'static str, text: &str, source: &str) -> Result<String, FlagError> {
    let path = match source.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = crate::config::env::path(crate::config::env::HOME)
                .ok_or_else(|| wrong(flag, text, "HOME is not set"))?;
            home.join(rest.trim_start_matches('/'))
        }
        Some(_) => return Err(wrong(flag, text, "`~` alone or `~/PATH`")),
        None => PathBuf::from(source),
    };
    let path = std::path::absolute(&path).map_err(|error| wrong(flag, text, error.to_string()))?;
    // `..` is resolved as a shell would: by the file system where it can.
    let path = if path.components().any(|part| part.as_os_str() == "..") {
        path.canonicalize().unwrap_or(path)
    } else {
        path
    };
    path_text(flag, text, &path)
}

fn path_text(flag: &'static str, text: &str, path: &Path) -> Result<String, FlagError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong(flag, text, "the path is not UTF-8"))
}

/// Read-only or not, and the options that are passed on.
fn bind_options<'a>(
    flag: &'static str,
    text: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<(bool, Vec<String>), FlagError> {
    let mut read_only = false;
    let mut passed = Vec::new();
    for option in options {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" => read_only = false,
            // A new volume is filled from the image; this says not to.
            "nocopy" => passed.push(option.to_owned()),
            "copy" => {}
            // SELinux labels: nothing to do where there is no SELinux.
            "z" | "Z" => {}
            "U" => {
                return Err(wrong(
                    flag,
                    text,
                    "option `U` is not offered: let the container's user own the source",
                ));
            }
            "O" => {
                return Err(wrong(
                    flag,
                    text,
                    "option `O` is not offered: mount read-only with `ro`",
                ));
            }
            _ if PASSED.contains(&option) => passed.push(option.to_owned()),
            _ => return Err(wrong(flag, text, format!("option `{option}` is not known"))),
        }
    }
    Ok((read_only, passed))
}

/// `TARGET[:OPTIONS]`.
fn tmpfs(text: &str) -> Result<Mount, FlagError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    tmpfs_mount(
        "--tmpfs",
        text,
        target,
        options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

fn tmpfs_mount(flag: &'static str, text: &str, target: &str, wanted: Vec<String>) -> Result<Mount, FlagError> {
    if !target.starts_with('/') {
        return Err(wrong(flag, text, "target is not an absolute path"));
    }
    let mut options: Vec<String> = vec!["nosuid".into(), "nodev".into()];
    let mut read_only = false;
    for option in wanted {
        match option.split_once('=') {
            Some(("size", value)) => {
                let size = parse_size(value).or_else(|| value.strip_suffix('%')?.parse().ok());
                size.ok_or_else(|| wrong(flag, text, format!("`{value}` is not a size")))?;
                let size = parse_size(value).map_or(value.to_owned(), |bytes| bytes.to_string());
                options.push(format!("size={size}"));
            }
            Some(("mode", value))
                if (3..=4).contains(&value.len()) && value.bytes().all(|b| (b'0'..=b'7').contains(&b)) =>
            {
                options.push(option)
            }
            Some(("uid" | "gid" | "nr_inodes", value)) if value.parse::<u32>().is_ok() => options.push(option),
            None => match option.as_str() {
                "ro" => read_only = true,
                "rw" | "tmpcopyup" | "notmpcopyup" | "nosuid" | "nodev" => {}
                "suid" => options.retain(|known| known != "nosuid"),
                "dev" => options.retain(|known| known != "nodev"),
                "noexec" | "exec" | "noatime" | "private" | "rprivate" => options.push(option),
                _ => return Err(wrong(flag, text, format!("option `{option}` is not known"))),
            },
            Some(_) => return Err(wrong(flag, text, format!("option `{option}` is not known"))),
        }
    }
    Ok(Mount {
        source: MountSource::Tmpfs,
        target: target.to_owned(),
        read_only,
        options,
    })
}

/// `type=bind|volume|tmpfs,source=…,target=…,…`.
fn mount(text: &str) -> Result<Mount, FlagError> {
    let flag = "--mount";
    let bad = |reason: String| wrong(flag, text, reason);
    let mut kind = "volume";
    let (mut source, mut target) = ("", "");
    let mut options: Vec<String> = Vec::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "type" => kind = value,
            "source" | "src" => source = value,
            "target" | "dst" | "destination" => target = value,
            "ro" | "readonly" => match value {
                "" | "true" | "1" => options.push("ro".into()),
                "false" | "0" => options.push("rw".into()),
                _ => return Err(bad(format!("`{part}` is neither true nor false"))),
            },
            "rw" => options.push("rw".into()),
            "bind-propagation" => options.push(value.to_owned()),
            "bind-nonrecursive" => options.push("bind".into()),
            "tmpfs-size" => options.push(format!("size={value}")),
            "tmpfs-mode" => options.push(format!("mode={value}")),
            "relabel" | "consistency" => {}
            "notmpcopyup" | "tmpcopyup" | "nosuid" | "suid" | "nodev" | "dev" | "noexec" | "exec"
                if value.is_empty() =>
            {
                options.push(key.to_owned())
            }
            _ => return Err(bad(format!("`{key}` is not known"))),
        }
    }
    if !target.starts_with('/') {
        return Err(bad("target= is not an absolute path".into()));
    }
    let source = match kind {
        "tmpfs" if source.is_empty() => return tmpfs_mount(flag, text, target, options),
        "tmpfs" => return Err(bad("a tmpfs has no source".into())),
        "bind" if source.is_empty() => return Err(bad("source= is missing".into())),
        "bind" => MountSource::Bind(bind_source(flag, text, source)?),
        "volume" if source.is_empty() || is_container_name(source) => MountSource::Volume(source.to_owned()),
        "volume" => return Err(bad(format!("`{source}` is no volume's name: letters, digits, `_.-`"))),
        _ => return Err(bad(format!("type `{kind}` is not offered; use bind, volume or tmpfs"))),
    };
    let (read_only, options) = bind_options(flag, text, options.iter().map(String::as_str))?;
    Ok(Mount {
        source,
        target: target.to_owned(),
        read_only,
        options,
    })
}
