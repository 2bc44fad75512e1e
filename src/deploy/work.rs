//! Jobs: what is done to containers and images away from the deployer's own thread, each safe to be done again.

use std::num::NonZeroU64;

use crate::plan::admission::written_volumes;
use crate::types::app::{App, VolumePolicy};
use crate::types::deployment::{BytesMoved, Cause, Reason};
use crate::types::digest::Digest;
use crate::types::ids::ContainerId;

use super::files::Source;
use super::hands::{Cancel, Container, Failure, Hands, Phase};
use super::kill;

/// One piece of work.
#[derive(Debug, Clone)]
pub enum Job {
    /// Bring these images here.
    Fetch {
        /// For whom.
        ticket: Ticket,
        /// App names and image references.
        images: Vec<(String, String)>,
        /// Bytes per second, at the most.
        rate: Option<NonZeroU64>,
        /// Ends it early.
        cancel: Cancel,
    },
    /// Create containers of these apps under their staging names.
    Stage {
        /// For whom.
        ticket: Ticket,
        /// Apps with the digests of their images.
        apps: Vec<(App, Digest)>,
        /// Every image that is needed from now on: of what runs, of what comes, and of the way back.
        keep: Vec<Digest>,
    },
    /// Keep no other images than these.
    Keep(Vec<Digest>),
    /// Remove what whoever died left over.
    Sweep {
        /// Whether no deployment is to be gone on with.
        idle: bool,
    },
    /// Stop a container.
    Stop {
        /// Its app.
        app: String,
        /// Which.
        id: ContainerId,
    },
    /// Start a container, and give it its app's name, after whichever has it now was given another.
    Start {
        /// Its app.
        app: String,
        /// Which.
        id: ContainerId,
        /// The container that has the name, and what it is to be called.
        away: Option<(ContainerId, String)>,
    },
    /// Remove a container.
    Remove {
        /// Its app.
        app: String,
        /// Which.
        id: ContainerId,
    },
    /// Save an app's volumes under a tag.
    Save {
        /// The app.
        app: String,
        /// Their names.
        volumes: Vec<String>,
        /// The tag.
        tag: String,
    },
    /// Put what is saved under a tag in its place again.
    Restore {
        /// The app.
        app: String,
        /// The tag.
        tag: String,
    },
    /// The disk is at its reserve, or no more.
    Tidy(bool),
    /// Remove what is saved under other tags.
    Forget(Vec<String>),
    /// Make the container of a committed app again, because it is gone; fetch its image where that is gone too.
    Mend {
        /// The app.
        app: Box<App>,
        /// Digest of its image, where it is known.
        image: Option<Digest>,
    },
}

/// Which deployment a job was for, so that a late answer is not taken for another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The source.
    pub source: Source,
    /// Grows with every job.
    pub number: u64,
}

/// What came of a job.
#[derive(Debug, Clone)]
pub enum Done {
    /// Of [`Job::Fetch`]: manifests by app, or the app that could not be fetched and why.
    Fetched(Ticket, Result<Images, AppFailure>),
    /// Of [`Job::Stage`]: what was created, also when not all could be.
    Staged(Ticket, Vec<Container>, Result<(), AppFailure>),
    /// Of [`Job::Keep`] and [`Job::Sweep`].
    Kept(Result<(), Failure>),
    /// Of [`Job::Stop`].
    Stopped(String, ContainerId, Result<(), Failure>),
    /// Of [`Job::Start`]: the names that containers have now.
    Started(String, ContainerId, Result<Vec<(ContainerId, String)>, Failure>),
    /// Of [`Job::Remove`].
    Removed(String, ContainerId, Result<(), Failure>),
    /// Of [`Job::Save`], and of [`Job::Restore`], which is the way back.
    Saved(String, bool, Result<(), Failure>),
    /// Of [`Job::Tidy`].
    Tidied(Result<(), Failure>),
    /// Of [`Job::Forget`].
    Forgotten(Result<(), Failure>),
    /// Of [`Job::Mend`].
    Mended(String, Result<Box<Container>, Failure>),
}

/// What a fetch brought.
#[derive(Debug, Clone)]
pub struct Images {
    /// Manifests by app.
    pub manifests: Vec<(String, Digest)>,
    /// Bytes moved.
    pub bytes: BytesMoved,
}

/// The app at which a job failed, and why.
pub type AppFailure = (String, Failure);

/// The name of a container that waits for its turn: `web.next-3f2a91c0`.
pub fn staged_name(app: &str, spec: &Digest) -> String {
    format!("{app}.next-{}", &spec.hex()[..8])
}

/// The name of a container that had its turn: `web.prev-3f2a91c0`.
pub fn previous_name(app: &str, spec: &Digest) -> String {
    format!("{app}.prev-{}", &spec.hex()[..8])
}

/// Does one job.
pub fn run(job: Job, hands: &dyn Hands, progress: &mut dyn FnMut(&Ticket, BytesMoved)) -> Done {
    match job {
        Job::Fetch {
            ticket,
            images,
            rate,
            cancel,
        } => {
            let result = fetch(hands, &images, rate, &cancel, &mut |bytes| progress(&ticket, bytes));
            Done::Fetched(ticket, result)
        }
        Job::Keep(images) => Done::Kept(hands.keep(&images)),
        Job::Sweep { idle } => Done::Kept(hands.sweep(idle)),
        Job::Stage { ticket, apps, keep } => {
            let mut made = Vec::new();
            let result = stage(hands, &apps, &keep, &mut made);
            Done::Staged(ticket, made, result)
        }
        Job::Stop { app, id } => {
            kill::point("stop-before");
            let result = hands.stop(&id);
            kill::point("stop-after");
            Done::Stopped(app, id, result)
        }
        Job::Start { app, id, away } => {
            let result = start(hands, &app, &id, away.as_ref());
            Done::Started(app, id, result)
        }
        Job::Remove { app, id } => {
            kill::point("remove-before");
            let result = hands.remove(&id);
            kill::point("remove-after");
            Done::Removed(app, id, result)
        }
        Job::Save { app, volumes, tag } => {
            kill::point("save-before");
            let result = hands.save(&volumes, &tag);
            kill::point("save-after");
            Done::Saved(app, false, result)
        }
        Job::Restore { app, tag } => {
            kill::point("restore-before");
            let result = hands.restore(&tag);
            kill::point("restore-after");
            Done::Saved(app, true, result)
        }
        Job::Tidy(full) => Done::Tidied(hands.tidy(full)),
        Job::Forget(keep) => {
            kill::point("forget-before");
            Done::Forgotten(hands.forget(&keep))
        }
        Job::Mend { app, image } => Done::Mended(app.name.clone(), mend(hands, &app, image).map(Box::new)),
    }
}

fn fetch(
    hands: &dyn Hands,
    images: &[(String, String)],
    rate: Option<NonZeroU64>,
    cancel: &Cancel,
    progress: &mut dyn FnMut(BytesMoved),
) -> Result<Images, AppFailure> {
    let mut manifests = Vec::new();
    let mut sum = BytesMoved::default();
    for (app, image) in images {
        if cancel.is_cancelled() {
            return Err((
                app.clone(),
                Failure::new(Reason::Interrupted, "a newer document took its place"),
            ));
        }
        kill::point("fetch-before");
        let before = sum;
        let fetched = hands
            .fetch(image, rate, cancel, &mut |bytes| progress(add(before, bytes)))
            .map_err(|failure| (app.clone(), failure))?;
        sum = add(sum, fetched.bytes);
        manifests.push((app.clone(), fetched.image));
        kill::point("fetch-after");
    }
    Ok(Images { manifests, bytes: sum })
}

fn add(a: BytesMoved, b: BytesMoved) -> BytesMoved {
    BytesMoved {
        fetched: a.fetched.saturating_add(b.fetched),
        reused: a.reused.saturating_add(b.reused),
        total: a.total.saturating_add(b.total),
    }
}

fn stage(
    hands: &dyn Hands,
    apps: &[(App, Digest)],
    keep: &[Digest],
    made: &mut Vec<Container>,
) -> Result<(), AppFailure> {
    let first = apps.first().map(|(app, _)| app.name.clone()).unwrap_or_default();
    hands.keep(keep).map_err(|failure| (first.clone(), failure))?;
    let existing = hands.containers().map_err(|failure| (first, failure))?;
    for (app, image) in apps {
        let spec = app.spec_digest();
        let fail = |failure| (app.name.clone(), failure);
        if app.update.volumes == VolumePolicy::Snapshot {
            hands.room(&written_volumes(app)).map_err(fail)?;
        }
        let mut kept = None;
        for old in existing.iter().filter(|old| old.app == app.name && old.spec == spec) {
            // One that was created and never started is as good as new; one that ran is not.
            if kept.is_none() && old.phase == Phase::Created && old.image.as_ref() == Some(image) {
                kept = Some(old.clone());
            } else {
                hands.remove(&old.id).map_err(fail)?;
            }
        }
        let container = match kept {
            Some(container) => container,
            None => {
                kill::point("create-before");
                let container = hands.create(app, image, &staged_name(&app.name, &spec)).map_err(fail)?;
                kill::point("create-after");
                container
            }
        };
        made.push(container);
    }
    Ok(())
}

/// Starts first and renames then: the gap without the app is as short as it can be, and a disk too full for new names does not keep a
/// version from coming back.
fn start(
    hands: &dyn Hands,
    app: &str,
    id: &ContainerId,
    away: Option<&(ContainerId, String)>,
) -> Result<Vec<(ContainerId, String)>, Failure> {
    kill::point("start-before");
    hands.start(id)?;
    kill::point("start-after");
    let mut named = Vec::new();
    if let Some((other, name)) = away {
        kill::point("rename-away-before");
        match hands.rename(other, name) {
            Ok(()) => named.push((*other, name.clone())),
            Err(failure) if failure.gone => {}
            Err(failure) => {
                crate::warn!(
                    "container `{}` keeps the name `{app}`: {}",
                    other.short(),
                    failure.cause
                );
                return Ok(named);
            }
        }
        kill::point("rename-away-after");
    }
    kill::point("rename-in-before");
    match hands.rename(id, app) {
        Ok(()) => named.push((*id, app.to_owned())),
        Err(failure) => crate::warn!(
            "container `{}` does not get the name `{app}`: {}",
            id.short(),
            failure.cause
        ),
    }
    kill::point("rename-in-after");
    Ok(named)
}

fn mend(hands: &dyn Hands, app: &App, image: Option<Digest>) -> Result<Container, Failure> {
    let spec = app.spec_digest();
    let name = staged_name(&app.name, &spec);
    if let Some(image) = image {
        match hands.create(app, &image, &name) {
            Err(failure) if failure.cause.code == Reason::ImageMissing => {}
            result => return result,
        }
    }
    // By digest, whatever its tag says today.
    let reference = match (app.image.parse::<crate::types::reference::Reference>(), image) {
        (Ok(reference), Some(image)) if reference.digest().is_none() => reference.pinned(image).to_string(),
        _ => app.image.clone(),
    };
    let fetched = hands.fetch(&reference, None, &Cancel::default(), &mut |_| {})?;
    hands.create(app, &fetched.image, &name)
}

/// What a failure of the hands means where only this host's faults are left.
pub fn start_failure(app: &str, failure: &Failure) -> Cause {
    Cause::new(failure.cause.code, format!("app `{app}`: {}", failure.cause.detail))
}
