//! Updates of the agent itself: a program is brought (`incoming`), judged, put into the free slot and tried; a watcher beside it, which
//! is the program before it, commits it or brings that one back.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::control::{self, Request};
use super::slots::{self, Slot, Slots, Trial, Version, newer};
use crate::disk::layout::Layout;
use crate::disk::{DiskError, durable};
use crate::engine::pull::Reach;
use crate::engine::{Engine, EngineError};
use crate::registry::Document;
use crate::sys::{event, process};
use crate::types::bounds::DOCUMENT_BYTES;
use crate::types::deployment::{Cause, Reason};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::read;
use crate::types::reference::Reference;
use crate::types::time::Unix;
use crate::uplink::dsse::{self, Kind, Trusted};

/// The media type of the document about a release.
pub const RELEASE_TYPE: &str = "application/vnd.dunlin.agent.v1+json";
/// Bytes of an agent's program.
pub const PROGRAM_BYTES: u64 = 64 << 20;
/// Time in which a program must tell its version.
const TELL: Duration = Duration::from_secs(10);
/// A version stays when it was healthy for so long.
const SETTLE: Duration = Duration::from_secs(10);
/// Wait between two looks at an agent on trial.
const LOOK: Duration = Duration::from_millis(250);
/// Wait before a verdict that could not be written is written again.
const AGAIN: Duration = Duration::from_secs(5);
/// Tries to write that a version is left.
const WRITES: u32 = 3;
/// Time for an agent to stop when it is asked to.
const STOP: Duration = Duration::from_secs(10);
/// A supervisor that starts agents again has done so after this.
const SUPERVISOR: Duration = Duration::from_secs(8);

/// The document about a release: which program is which version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// `0.2.0`
    pub version: String,
    /// `amd64`, `arm64`, with the digest of the program.
    pub binaries: Vec<(String, Digest)>,
}

impl Release {
    /// The document.
    pub fn to_json(&self) -> Value {
        let binaries = self
            .binaries
            .iter()
            .map(|(architecture, digest)| (architecture.clone(), digest.to_string().into()));
        json!({ "version": self.version, "binaries": Value::Object(binaries.collect()) })
    }

    /// Reads the document; other keys are refused.
    pub fn from_json(text: &[u8]) -> Result<Release, String> {
        let value = read::json_any(text).map_err(|error| error.to_string())?;
        let parts = (
            value.as_object().map(Map::len),
            value["version"].as_str(),
            value["binaries"].as_object(),
        );
        let (Some(2), Some(version), Some(named)) = parts else {
            return Err("write `version` and `binaries`".into());
        };
        let mut binaries = Vec::new();
        for (architecture, digest) in named {
            let digest = digest.as_str().and_then(|text| text.parse().ok());
            let digest = digest.ok_or_else(|| format!("`binaries.{architecture}` is no digest"))?;
            binaries.push((architecture.clone(), digest));
        }
        Ok(Release {
            version: version.to_owned(),
            binaries,
        })
    }

    /// The program for this device.
    fn program(&self) -> Option<&Digest> {
        let own = Platform::host().architecture;
        let mut all = self.binaries.iter();
        all.find(|(architecture, _)| *architecture == own)
            .map(|(_, digest)| digest)
    }
}

/// Brings a program and the document about it to where the agent looks for them. On disk when this returns.
pub fn bring(layout: &Layout, program: &mut dyn io::Read, release: Option<&[u8]>) -> Result<Digest, DiskError> {
    let dir = layout.agent().join("slots");
    durable::create_dirs(&dir)?;
    let path = slots::incoming(&dir);
    let beside = path.with_extension("release");
    match durable::remove_file(&beside) {
        Err(error) if !error.is_missing() => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o700);
    let mut file = options.open(&path).map_err(DiskError::io("create", &path))?;
    let digest = drain(&path, program, &mut |bytes| file.write_all(bytes))?;
    file.sync_all().map_err(DiskError::io("sync", &path))?;
    drop(file);
    durable::sync_dir(&dir)?;
    if let Some(release) = release {
        durable::write(&beside, release)?;
    }
    Ok(digest)
}

/// Reads all of a program, hands its bytes on, and gives their digest.
fn drain(
    path: &Path,
    program: &mut dyn io::Read,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<Digest, DiskError> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut sum = 0u64;
    loop {
        let length = program.read(&mut buffer).map_err(DiskError::io("read", path))?;
        if length == 0 {
            return Ok(Digest::from_bytes(digest.finalize().into()));
        }
        sum += length as u64;
        if sum > PROGRAM_BYTES {
            return Err(DiskError::TooLarge {
                path: path.to_owned(),
                limit: PROGRAM_BYTES,
            });
        }
        digest.update(&buffer[..length]);
        take(&buffer[..length]).map_err(DiskError::io("write", path))?;
    }
}

/// The digest of a program on the disk.
fn digest_of(path: &Path) -> Result<Digest, DiskError> {
    let mut file = fs::File::open(path).map_err(DiskError::io("open", path))?;
    drain(path, &mut file, &mut |_| Ok(()))
}

/// Brings a program from a registry: an artifact whose blobs are programs and, with the media type [`RELEASE_TYPE`], the document about
/// them; the program is the one that it names for this device. Without a document there must be one blob alone.
pub fn fetch(engine: &Engine, reference: &Reference) -> Result<(), EngineError> {
    let remote = engine.remote(reference, &Reach::default())?;
    let wrong = |text: &str| EngineError::Artifact {
        name: reference.to_string(),
        text: text.to_owned(),
    };
    let top = remote.manifest()?;
    let Document::Manifest(manifest) = &top.document else {
        return Err(wrong(
            "it is an index; an agent's release is one manifest with a program for each architecture",
        ));
    };
    let release = manifest.layers.iter().find(|blob| blob.media_type == RELEASE_TYPE);
    let release = release
        .map(|blob| remote.small(&top, blob, DOCUMENT_BYTES))
        .transpose()?;
    let program = match &release {
        Some(message) => {
            // Only to choose with: whether it is signed is judged when the program is here.
            let named = dsse::open(message, Kind::Agent, &Trusted::default()).ok();
            let named = named.and_then(|payload| Release::from_json(&payload).ok());
            let digest = named.and_then(|named| named.program().copied());
            manifest.layers.iter().find(|blob| Some(blob.digest) == digest)
        }
        None => Some(&manifest.layers[..])
            .filter(|all| all.len() == 1)
            .and_then(|all| all.first()),
    };
    let program = program.ok_or_else(|| wrong("it has no program for this device"))?;
    let got = bring(engine.layout(), &mut remote.blob(&top, program), release.as_deref()).map_err(EngineError::Disk)?;
    if got != program.digest {
        return Err(wrong("the program's bytes are not those of its digest"));
    }
    Ok(())
}

/// What an update has to respect.
pub struct Terms<'a> {
    /// Keys of the fleet; without any, releases need no signature.
    pub trusted: &'a Trusted,
    /// The version that runs.
    pub current: &'a str,
    /// The newest version that a signed update ever committed; empty before the first.
    pub floor: &'a str,
    /// An older version may come.
    pub allow_downgrade: bool,
    /// The broker is connected.
    pub broker: bool,
}

/// Judges the program that was brought, and puts it on trial. On disk when this returns; the next start of the agent starts it.
pub fn admit(layout: &Layout, terms: &Terms<'_>) -> Result<String, Cause> {
    let disk = |error: DiskError| Cause::new(Reason::Disk, error.to_string());
    let mut slots = Slots::open(&layout.agent()).map_err(disk)?;
    if slots.state.trial.is_some() {
        return Err(Cause::new(Reason::Busy, "an agent is on trial already"));
    }
    let path = slots.incoming();
    let digest = digest_of(&path).map_err(|error| {
        if error.is_missing() {
            Cause::new(Reason::ImageMissing, "no program was brought")
        } else {
            disk(error)
        }
    })?;
    let release = durable::read_optional(&path.with_extension("release"), DOCUMENT_BYTES as u64).map_err(disk)?;
    let (release, signed) = judge(release.as_deref(), &digest, terms.trusted)?;
    let told = tell_version(&path)?;
    if let Some(release) = &release
        && release.version != told
    {
        let text = format!("the release says version {}, the program says {told}", release.version);
        return Err(Cause::new(Reason::Verify, text));
    }
    may_follow(&told, terms)?;
    let slot = slots.state.free();
    let Some(place) = slots.program(slot) else {
        return Err(Cause::new(Reason::Internal, "no slot is free"));
    };
    durable::rename(&path, &place).map_err(disk)?;
    slots.state.trial = Some(Trial {
        version: Version {
            slot,
            version: told.clone(),
            digest,
            signed,
        },
        starts: 0,
        broker: terms.broker,
    });
    slots.write().map_err(disk)?;
    Ok(told)
}

/// Whether the release holds for this program; and whether it was signed.
fn judge(release: Option<&[u8]>, digest: &Digest, trusted: &Trusted) -> Result<(Option<Release>, bool), Cause> {
    let Some(message) = release else {
        return if trusted.keys.is_empty() {
            Ok((None, false))
        } else {
            let text = "the fleet has keys: an update of the agent needs its signed release document (--release FILE)";
            Err(Cause::new(Reason::SigInvalid, text))
        };
    };
    let payload = dsse::open(message, Kind::Agent, trusted)
        .map_err(|error| Cause::new(Reason::SigInvalid, format!("release: {error}")))?;
    let release =
        Release::from_json(&payload).map_err(|text| Cause::new(Reason::Schema, format!("release: {text}")))?;
    let architecture = Platform::host().architecture;
    match release.program() {
        Some(expected) if expected == digest => Ok((Some(release), !trusted.keys.is_empty())),
        Some(expected) => {
            let text = format!("the program is {digest}, the release names {expected} for {architecture}");
            Err(Cause::new(Reason::Verify, text))
        }
        None => {
            let text = format!("the release has no program for {architecture}");
            Err(Cause::new(Reason::NoArch, text))
        }
    }
}

/// Whether a version may come after what ran before.
fn may_follow(version: &str, terms: &Terms<'_>) -> Result<(), Cause> {
    let least = if newer(terms.floor, terms.current) {
        terms.floor
    } else {
        terms.current
    };
    if newer(least, version) && !terms.allow_downgrade {
        let text = format!("version {version} is older than {least}; an older agent needs `--allow-downgrade`");
        return Err(Cause::new(Reason::Stale, text));
    }
    Ok(())
}

/// The version that a program says it is. It is run with nothing, for a bounded time.
fn tell_version(program: &Path) -> Result<String, Cause> {
    let bad = |text: String| Cause::new(Reason::StartFailed, format!("`{}`: {text}", program.display()));
    fs::set_permissions(program, fs::Permissions::from_mode(0o700)).map_err(|error| bad(error.to_string()))?;
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            bad(format!(
                "{error}; is it a program for this device, and may programs run from there?"
            ))
        })?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < TELL => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(bad("it does not tell its version in time".into()));
            }
        }
    };
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(256).read_to_string(&mut text);
    }
    let version = text.trim().strip_prefix("dunlin ").filter(|_| status.success());
    let version = version
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b)));
    version
        .map(str::to_owned)
        .ok_or_else(|| bad("it does not say that it is dunlin".into()))
}

/// What to do at the start of the package's program: which program is to run. A trial's start is counted on the disk before.
pub fn choose(agent: &Path, base: &str, now: Unix) -> Result<(Slots, Slot), DiskError> {
    let mut slots = Slots::open(agent)?;
    let before = slots.state.clone();
    let mut slot = slots.state.start(base, now);
    let sound = |slots: &Slots, slot: Slot| {
        let (Some(program), Some(version)) = (slots.program(slot), slots.version(slot)) else {
            return true;
        };
        digest_of(&program).is_ok_and(|digest| digest == version.digest)
    };
    if slots.state.trial.is_some() && !sound(&slots, slot) {
        let cause = Cause::new(Reason::Verify, "its program was damaged on the disk");
        slots.state.end(Some(cause), now);
        slot = slots.state.committed.as_ref().map_or(Slot::Base, |one| one.slot);
    }
    if slots.state.trial.is_none() && !sound(&slots, slot) {
        crate::error!(
            "the agent in slot `{}` was damaged on the disk; the package's runs",
            slot.as_str()
        );
        slots.state.committed = None;
        slot = Slot::Base;
    }
    if slots.state != before {
        slots.write()?;
    }
    Ok((slots, slot))
}

/// Watches over an agent on trial, process `pid`, until it stays or is left; true when somebody must start an agent again.
pub fn watch(layout: &Layout, pid: i32, limit: Duration) -> Result<bool, DiskError> {
    let mut slots = Slots::open(&layout.agent())?;
    let Some(trial) = slots.state.trial.clone() else {
        return Ok(false);
    };
    let Ok(agent) = process::pidfd_open(pid) else {
        return Ok(unsupervised(layout));
    };
    let begun = Instant::now();
    let mut healthy: Option<(Instant, String)> = None;
    let cause = loop {
        std::thread::sleep(LOOK);
        if has_ended(agent.as_fd()) {
            // Whoever starts it again counts its starts.
            return Ok(unsupervised(layout));
        }
        match (health(layout, &trial), healthy.take()) {
            (Some(session), Some((since, before))) if before == session => {
                if since.elapsed() >= SETTLE {
                    break None;
                }
                healthy = Some((since, before));
            }
            (Some(session), _) => healthy = Some((Instant::now(), session)),
            (None, _) if begun.elapsed() >= limit => {
                let text = format!("it was not healthy within {} s", limit.as_secs());
                break Some(Cause::new(Reason::ProbeTimeout, text));
            }
            (None, _) => {}
        }
    };
    let now = super::daemon::unix();
    let stays = cause.is_none();
    slots.state.end(cause, now);
    // A version that stays must be known to stay; one that is left is left all the same, after its starts.
    let mut tries = 0;
    while let Err(error) = slots.write() {
        crate::error!("{error}");
        tries += 1;
        if !stays && tries >= WRITES {
            break;
        }
        if has_ended(agent.as_fd()) {
            return Ok(unsupervised(layout));
        }
        std::thread::sleep(AGAIN);
    }
    if stays {
        let told = control::ask(layout, &Request::Committed, STOP);
        if !matches!(told, Ok(Some(_))) {
            crate::warn!("the new agent does not hear that it stays; it reads so at its next start");
        }
        return Ok(false);
    }
    for (signal, patience) in [(15, STOP), (9, STOP)] {
        let _ = process::send_signal(agent.as_fd(), signal);
        let asked = Instant::now();
        while asked.elapsed() < patience {
            if has_ended(agent.as_fd()) {
                return Ok(unsupervised(layout));
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(false)
}

/// Whether the process has ended; also while its parent has not heard of it.
fn has_ended(agent: BorrowedFd<'_>) -> bool {
    let mut polls = [event::Poll::new(Some(agent), event::Interest::READ)];
    event::poll(&mut polls, Some(Duration::ZERO)).is_ok() && polls[0].ready.read
}

/// The session of the agent on trial, when it is healthy.
fn health(layout: &Layout, trial: &Trial) -> Option<String> {
    let answer = control::ask(layout, &Request::Health, Duration::from_secs(5))
        .ok()??
        .ok()?;
    let right = answer["agent"].as_str() == Some(&trial.version.version) && answer["ready"].as_bool() == Some(true);
    let connected = !trial.broker || answer["broker"].as_bool() == Some(true);
    (right && connected).then(|| answer["session"].as_str().unwrap_or_default().to_owned())
}

/// Whether nobody has started an agent again after a while: there is no supervisor.
fn unsupervised(layout: &Layout) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < SUPERVISOR {
        if matches!(
            control::ask(layout, &Request::Health, Duration::from_secs(5)),
            Ok(Some(_))
        ) {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::dsse::SigningKey;

    fn signed(release: &Release, key: &SigningKey) -> Vec<u8> {
        let mut envelope = dsse::wrap(Kind::Agent, release.to_json().to_string().as_bytes());
        key.sign(&mut envelope).unwrap();
        serde_json::to_vec(&envelope).unwrap()
    }

    #[test]
    fn a_release_must_be_signed_and_name_the_program() {
        let (key, stranger) = (SigningKey::generate("op").unwrap(), SigningKey::generate("op").unwrap());
        let trusted = Trusted {
            keys: vec![key.public()],
            threshold: 1,
            ..Trusted::default()
        };
        let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
        let release = |architecture: &str, digest| Release {
            version: "0.2.0".into(),
            binaries: vec![(architecture.to_owned(), digest)],
        };
        let host = Platform::host().architecture;
        let good = release(&host, right);
        let code =
            |message: Option<&[u8]>, trusted: &Trusted| judge(message, &right, trusted).map_err(|cause| cause.code);
        let nobody = Trusted::default();
        assert_eq!(code(None, &nobody), Ok((None, false)));
        assert_eq!(code(None, &trusted), Err(Reason::SigInvalid));
        assert_eq!(
            code(Some(&signed(&good, &key)), &trusted),
            Ok((Some(good.clone()), true))
        );
        assert_eq!(code(Some(&signed(&good, &stranger)), &trusted), Err(Reason::SigInvalid));
        assert_eq!(
            code(Some(good.to_json().to_string().as_bytes()), &trusted),
            Err(Reason::SigInvalid)
        );
        assert_eq!(
            code(Some(&signed(&release(&host, wrong), &key)), &trusted),
            Err(Reason::Verify)
        );
        assert_eq!(
            code(Some(&signed(&release("m68k", right), &key)), &trusted),
            Err(Reason::NoArch)
        );
    }

    #[test]
    fn versions_go_up_unless_it_is_allowed() {
        let trusted = Trusted::default();
        for (version, current, floor, allow, ok) in [
            ("0.2.0", "0.1.0", "", false, true),
            ("0.1.0", "0.1.0", "", false, true),
            ("0.0.9", "0.1.0", "", false, false),
            ("0.0.9", "0.1.0", "", true, true),
            ("0.2.0", "0.1.0", "0.3.0", false, false),
            ("0.3.0", "0.1.0", "0.3.0", false, true),
            ("0.2.0", "0.1.0", "0.3.0", true, true),
        ] {
            let terms = Terms {
                trusted: &trusted,
                current,
                floor,
                allow_downgrade: allow,
                broker: false,
            };
            assert_eq!(
                may_follow(version, &terms).is_ok(),
                ok,
                "{version} after {current}, floor {floor}"
            );
        }
    }

    #[test]
    fn what_is_no_agent_is_not_admitted() {
        let dir = std::env::temp_dir().join(format!("dunlin-renewal-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let layout = Layout::new(&dir, &dir);
        let trusted = Trusted::default();
        let terms = || Terms {
            trusted: &trusted,
            current: "0.1.0",
            floor: "",
            allow_downgrade: false,
            broker: false,
        };
        durable::create_dirs(&layout.agent()).unwrap();
        assert_eq!(admit(&layout, &terms()).unwrap_err().code, Reason::ImageMissing);
        for (program, code) in [
            ("no program at all", Reason::StartFailed),
            ("#!/bin/sh\necho other 1.0.0\n", Reason::StartFailed),
            ("#!/bin/sh\necho dunlin 0.0.1\n", Reason::Stale),
        ] {
            bring(&layout, &mut program.as_bytes(), None).unwrap();
            assert_eq!(admit(&layout, &terms()).unwrap_err().code, code, "{program}");
            assert_eq!(choose(&layout.agent(), "0.1.0", Unix(1)).unwrap().1, Slot::Base);
        }
        bring(&layout, &mut "#!/bin/sh\necho dunlin 0.2.0\n".as_bytes(), None).unwrap();
        assert_eq!(admit(&layout, &terms()), Ok("0.2.0".into()));
        assert_eq!(admit(&layout, &terms()).unwrap_err().code, Reason::Busy);
        for _ in 0..slots::TRIAL_STARTS {
            assert_eq!(choose(&layout.agent(), "0.1.0", Unix(1)).unwrap().1, Slot::A);
        }
        let (slots, slot) = choose(&layout.agent(), "0.1.0", Unix(1)).unwrap();
        assert_eq!(
            (slot, slots.state.trial),
            (Slot::Base, None),
            "it was tried often enough"
        );
        // A program that rots on the disk is not started.
        bring(&layout, &mut "#!/bin/sh\necho dunlin 0.2.0\n".as_bytes(), None).unwrap();
        admit(&layout, &terms()).unwrap();
        fs::write(layout.agent().join("slots/a"), "rot").unwrap();
        let (slots, slot) = choose(&layout.agent(), "0.1.0", Unix(1)).unwrap();
        assert_eq!(
            (slot, slots.state.last.unwrap().cause.unwrap().code),
            (Slot::Base, Reason::Verify)
        );
        fs::remove_dir_all(dir).unwrap();
    }
}
