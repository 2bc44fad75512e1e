//! Takes documents in: signature, audience, number, time, schema; what passes is on disk before anybody acts on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::identity::VERSION;
use super::ring::{self, Ring};
use super::sets;
use super::slots::newer;
use crate::config::agent::{Fleet, floor};
use crate::deploy::files;
use crate::disk::DiskError;
use crate::disk::doubled::{self, Doubled, Found};
use crate::disk::record::{self, Record, kinds};
use crate::plan::desired;
use crate::plan::trust::{self, Clock, Floors, Stamp, Verdict};
use crate::types::bounds::{DOCUMENT_LIFE_MS, GROUPS};
use crate::types::deployment::{Cause, Reason};
use crate::types::digest::Digest;
use crate::types::document::{Assign, Desired, Preamble, Secret};
use crate::types::read;
use crate::types::text::is_name;
use crate::types::time::Unix;
use crate::uplink::dsse::{self, EnvelopeError, Kind, Payload, Trusted};
use crate::uplink::json;

/// The file of accepted documents.
const DOCUMENTS: &str = "documents";

/// What must never be forgotten nor go back: kept twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Ledger {
    floors: Floors,
    last_issued: Unix,
    last_synchronised: Unix,
    /// The newest agent that was ever committed by a signed update.
    agent: String,
}

impl doubled::Body for Ledger {
    const KIND: u16 = kinds::TRUST;
}

/// The documents that were accepted. Written before their numbers, so that a number is never raised without its document.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Documents {
    /// Source to the desired state's JSON.
    desired: BTreeMap<String, String>,
    /// The assignment's JSON.
    assign: Option<String>,
}

impl Record for Documents {
    const KIND: u16 = kinds::DOCUMENT;
}

/// A document that came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A secret is kept, or gone; its name.
    Secret(String),
    /// Other keys count from now on; their version.
    Keys(u64),
    /// A desired state was newly accepted for this source.
    Desired(String),
    /// A new assignment.
    Assigned,
    /// Known already, or nothing was said.
    Nothing,
    /// Not accepted.
    Refused(Refusal),
}

/// Why a document was not accepted, with what it says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Reason.
    pub cause: Cause,
    /// The activity, where one could be read from a document with good signatures.
    pub activity: Option<String>,
    /// The generation, likewise.
    pub generation: Option<u64>,
}

/// Puts a secret on disk, or says what is wrong with it.
pub type Keep<'a> = dyn Fn(&Secret) -> Result<Result<(), Cause>, DiskError> + 'a;

/// A document with good signatures that is for this device.
struct Opened {
    /// JSON.
    document: Vec<u8>,
    /// Of what was signed.
    digest: Digest,
    preamble: Preamble,
    activity: Option<String>,
}

impl Opened {
    fn refuse(&self, code: Reason, detail: impl Into<String>) -> Ends {
        Ends::With(Outcome::Refused(Refusal {
            cause: Cause::new(code, detail),
            activity: self.activity.clone(),
            generation: Some(self.preamble.generation),
        }))
    }

    fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Ends> {
        read::json(&self.document).map_err(|error| self.refuse(Reason::Schema, error.to_string()))
    }

    /// As it is kept.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.document).into_owned()
    }

    fn stamp<'a>(
        &self,
        kind: trust::Kind,
        audience: &'a str,
        issued: &str,
        expires: Option<&str>,
    ) -> Result<Stamp<'a>, Ends> {
        let (issued_at, expires_at) = times(issued, expires).map_err(|cause| self.refuse(cause.code, cause.detail))?;
        Ok(Stamp {
            audience,
            kind,
            generation: self.preamble.generation,
            payload: self.digest,
            issued_at,
            expires_at,
        })
    }
}

/// Why a document goes no further.
enum Ends {
    With(Outcome),
    Disk(DiskError),
}

impl From<DiskError> for Ends {
    fn from(error: DiskError) -> Ends {
        Ends::Disk(error)
    }
}

impl From<Refusal> for Ends {
    fn from(refusal: Refusal) -> Ends {
        Ends::With(Outcome::Refused(refusal))
    }
}

fn settled(result: Result<Outcome, Ends>) -> Result<Outcome, DiskError> {
    match result {
        Ok(outcome) | Err(Ends::With(outcome)) => Ok(outcome),
        Err(Ends::Disk(error)) => Err(error),
    }
}

/// Takes documents in.
pub struct Intake {
    path: PathBuf,
    dir: PathBuf,
    device: String,
    ring: Ring,
    built: Unix,
    doubled: Doubled<Ledger>,
    ledger: Ledger,
    stored: Documents,
    documents: BTreeMap<String, Desired>,
    assign: Assign,
    /// Why nothing is accepted: no copy of what must not be forgotten can be read.
    distrust: Option<String>,
    /// Numbers below which the settings say that documents are old.
    first: Vec<String>,
}

/// The documents that were accepted, for others than the agent: desired states by source, and the groups in order.
pub fn accepted(dir: &Path) -> Result<(BTreeMap<String, Desired>, Assign), DiskError> {
    let stored: Documents = record::read_optional(&dir.join(DOCUMENTS))?.unwrap_or_default();
    Ok(parsed(dir, &stored))
}

fn parsed(dir: &Path, stored: &Documents) -> (BTreeMap<String, Desired>, Assign) {
    let mut documents = BTreeMap::new();
    for (source, json) in &stored.desired {
        match read::json::<Desired>(json.as_bytes()) {
            Ok(mut document) => {
                sets::fill(dir, &mut document);
                documents.insert(source.clone(), document);
            }
            Err(error) => crate::warn!("stored desired state of `{source}`: {error}"),
        }
    }
    let assign = stored
        .assign
        .as_deref()
        .and_then(|json| read::json(json.as_bytes()).ok());
    (documents, assign.unwrap_or_default())
}

impl Intake {
    /// Loads what was accepted before from `dir`. Where no copy of the ledger can be read, nothing is accepted until
    /// [`Intake::reset`]: its numbers are what keeps old documents from coming back.
    /// `trusted` are the keys of the settings, `version` is theirs.
    pub fn open(dir: &Path, device: &str, trusted: Trusted, version: u64) -> Result<Intake, DiskError> {
        let (doubled, found) = Doubled::open(&dir.join("trust"))?;
        let (ledger, mut distrust) = match found {
            Found::Good(ledger) => (ledger, None),
            Found::Nothing => (Ledger::default(), None),
            Found::Unreadable(text) => (Ledger::default(), Some(text)),
        };
        let (ring, problem) = Ring::open(dir, trusted, version)?;
        distrust = distrust.or(problem);
        let path = dir.join(DOCUMENTS);
        let stored: Documents = match record::read_optional(&path) {
            Ok(stored) => stored.unwrap_or_default(),
            // They are retained at the broker, and what runs stands in the committed set.
            Err(error @ DiskError::Damaged { .. }) => {
                crate::error!("{error}; documents are taken anew");
                Documents::default()
            }
            Err(error) => return Err(error),
        };
        let (documents, assign) = parsed(dir, &stored);
        Ok(Intake {
            path,
            dir: dir.to_owned(),
            device: device.into(),
            ring,
            built: built(),
            doubled,
            ledger,
            stored,
            documents,
            assign,
            distrust,
            first: Vec::new(),
        })
    }

    /// Gives documents that name their apps those that are here now.
    pub fn fill(&mut self) {
        for document in self.documents.values_mut() {
            sets::fill(&self.dir, document);
        }
    }

    /// What the settings say of the time before anything was accepted.
    pub fn begin(&mut self, fleet: &Fleet) {
        self.first.clone_from(&fleet.floors);
        let since = fleet.since.as_deref().and_then(Unix::parse_rfc3339);
        self.built = self.built.max(since.unwrap_or_default());
    }

    /// Nothing is accepted, for this reason, until [`Intake::reset`].
    pub fn doubt(&mut self, why: Option<String>) {
        self.distrust = self.distrust.take().or(why);
    }

    /// Whose signatures count.
    pub fn trusted(&self) -> &Trusted {
        self.ring.trusted()
    }

    /// Version of the keys in force.
    pub fn key_version(&self) -> u64 {
        self.ring.version()
    }

    /// Why nothing is accepted.
    pub fn distrust(&self) -> Option<&str> {
        self.distrust.as_deref()
    }

    /// Begins anew with no numbers: the next document of each source is accepted whatever its generation. The stored
    /// documents go too; what runs stays.
    pub fn reset(&mut self, now: Option<Unix>) -> Result<(), DiskError> {
        let ledger = Ledger {
            last_synchronised: now.unwrap_or_default(),
            ..Ledger::default()
        };
        record::write(&self.path, &Documents::default())?;
        self.doubled.set_aside()?;
        self.ring.reset()?;
        files::forget_lost(&self.dir)?;
        self.doubled.write(&ledger)?;
        self.ledger = ledger;
        self.stored = Documents::default();
        self.documents.clear();
        self.assign = Assign::default();
        self.distrust = None;
        Ok(())
    }

    /// The newest agent that a signed update ever committed; empty before the first one.
    pub fn agent_floor(&self) -> &str {
        &self.ledger.agent
    }

    /// Raises that.
    pub fn raise_agent(&mut self, version: &str) -> Result<(), DiskError> {
        if self.ledger.agent == version {
            return Ok(());
        }
        let ledger = Ledger {
            agent: version.to_owned(),
            ..self.ledger.clone()
        };
        self.doubled.write(&ledger)?;
        self.ledger = ledger;
        Ok(())
    }

    /// First the documents, then their numbers: after a power cut between the two the same document is simply accepted again.
    fn keep(&mut self, stored: Documents, ledger: Ledger) -> Result<(), DiskError> {
        record::write(&self.path, &stored)?;
        self.stored = stored;
        self.doubled.write(&ledger)?;
        self.ledger = ledger;
        Ok(())
    }

    pub(super) fn distrusted(&self) -> Option<Refusal> {
        let text = self.distrust.as_ref()?;
        let text = format!(
            "what this device has accepted so far cannot be read ({text}); type `dunlin app reset-trust` on it"
        );
        Some(unknown(Cause::new(Reason::Internal, text)))
    }

    /// Stored desired states by source.
    pub fn documents(&self) -> &BTreeMap<String, Desired> {
        &self.documents
    }

    /// The assignment in force.
    pub fn assign(&self) -> &Assign {
        &self.assign
    }

    /// What is known of the time.
    pub fn clock(&self, now: Option<Unix>) -> Clock {
        Clock::new(self.built, self.ledger.last_issued, self.ledger.last_synchronised, now)
    }

    /// Whether a stored document is past its time: `fresh`, `expired`.
    pub fn freshness(&self, source: &str, now: Option<Unix>) -> &'static str {
        let Some(document) = self.documents.get(source) else {
            return "unknown";
        };
        match times(&document.issued_at, document.expires_at.as_deref()) {
            Ok((_, expires)) if expires < self.clock(now).floor => "expired",
            _ => "fresh",
        }
    }

    /// Takes a secret of this name, from the topic; `keep` puts it on disk or says what is wrong with it.
    pub fn secret(
        &mut self,
        name: &str,
        message: &[u8],
        now: Option<Unix>,
        keep: &Keep<'_>,
    ) -> Result<Outcome, DiskError> {
        settled(self.take_secret(name, message, now, keep))
    }

    fn take_secret(&mut self, name: &str, message: &[u8], now: Option<Unix>, keep: &Keep<'_>) -> Result<Outcome, Ends> {
        let audience = format!("d/{}", self.device);
        let opened = self.open_message(Kind::Secret, message, &audience)?;
        let secret: Secret = opened.read()?;
        if secret.name != name || secret.audience != audience {
            let text = format!(
                "the secret is `{}` for `{}`, the topic is for `{name}`",
                secret.name, secret.audience
            );
            return Err(opened.refuse(Reason::NotForMe, text));
        }
        // Each secret counts for itself.
        let whose = format!("{audience}/{name}");
        let stamp = opened.stamp(
            trust::Kind::Secret,
            &whose,
            &secret.issued_at,
            secret.expires_at.as_deref(),
        )?;
        if !self.is_new(
            &opened,
            &stamp,
            now,
            &format!("secret `{name}`, generation {}", stamp.generation),
        )? {
            return Ok(Outcome::Nothing);
        }
        keep(&secret)?.map_err(|cause| opened.refuse(cause.code, cause.detail))?;
        // The secret first, then its number: after a power cut between the two it is taken again.
        let ledger = self.raised(&stamp);
        self.doubled.write(&ledger)?;
        self.ledger = ledger;
        Ok(Outcome::Secret(name.into()))
    }

    /// Takes a key document. Earlier and later ones than the next change nothing: the broker keeps all of them, and after each that counts
    /// they are asked for again.
    pub fn keys(&mut self, message: &[u8]) -> Result<Outcome, DiskError> {
        if self.ring.is_empty() || !self.ring.is_next(message) {
            return Ok(Outcome::Nothing);
        }
        settled(self.take_keys(message))
    }

    fn take_keys(&mut self, message: &[u8]) -> Result<Outcome, Ends> {
        let opened = self.open_message(Kind::Keys, message, "*")?;
        let trusted = ring::set_of(&opened.document).map_err(|text| opened.refuse(Reason::Schema, text))?;
        // By its own roots too: whoever signs the next version must have these keys.
        unwrap(Kind::Keys, message, &trusted)?;
        let version = opened.preamble.generation;
        self.ring.replace(version, opened.document, trusted)?;
        Ok(Outcome::Keys(version))
    }

    /// Takes a desired state for `audience` (`d/DEVICE` or `g/GROUP`, from the topic). On disk when this returns.
    pub fn desired(&mut self, audience: &str, message: &[u8], now: Option<Unix>) -> Result<Outcome, DiskError> {
        settled(self.take_desired(audience, message, now))
    }

    fn take_desired(&mut self, audience: &str, message: &[u8], now: Option<Unix>) -> Result<Outcome, Ends> {
        let mut opened = self.open_message(Kind::Desired, message, audience)?;
        let mut document: Desired = opened.read()?;
        opened.activity = Some(document.activity.clone());
        let stamp = opened.stamp(
            trust::Kind::Desired,
            &opened.preamble.audience,
            &document.issued_at,
            document.expires_at.as_deref(),
        )?;
        let what = format!("generation {} of `{}`", stamp.generation, stamp.audience);
        // What was accepted before and is not stored, because the device had left the group, is stored again.
        if !self.is_new(&opened, &stamp, now, &what)? && self.documents.contains_key(audience) {
            return Ok(Outcome::Nothing);
        }
        let problems = desired::problems(&document, !self.ring.is_empty());
        if !problems.is_empty() {
            return Err(opened.refuse(Reason::Schema, problems.join("; ")));
        }
        let mut ledger = self.raised(&stamp);
        ledger.last_synchronised = ledger.last_synchronised.max(now.unwrap_or_default());
        let mut stored = self.stored.clone();
        stored.desired.insert(audience.into(), opened.text());
        // The set before is what others run while this one goes round; some day this device may be one of them.
        let base = document.rollout.as_ref().and_then(|rollout| rollout.base);
        if let Some(before) = self.documents.get(audience).filter(|one| one.apps_ref.is_none())
            && base == Some(before.set())
        {
            sets::put(&self.dir, &before.set(), &json(&before.apps))?;
        }
        sets::fill(&self.dir, &mut document);
        self.keep(stored, ledger)?;
        self.documents.insert(audience.into(), document);
        Ok(Outcome::Desired(audience.into()))
    }

    /// Takes an assignment. On disk when this returns.
    pub fn assignment(&mut self, message: &[u8], now: Option<Unix>) -> Result<Outcome, DiskError> {
        settled(self.take_assignment(message, now))
    }

    fn take_assignment(&mut self, message: &[u8], now: Option<Unix>) -> Result<Outcome, Ends> {
        let audience = format!("d/{}", self.device);
        let opened = self.open_message(Kind::Assign, message, &audience)?;
        let assign: Assign = opened.read()?;
        let names = assign.groups.iter().chain(&assign.labels).all(|n| is_name(n));
        if assign.groups.len() > GROUPS || assign.labels.len() > 64 || !names {
            let text = format!("at most {GROUPS} groups and 64 labels, each [a-z0-9][a-z0-9_-]{{0,62}}");
            return Err(opened.refuse(Reason::Schema, text));
        }
        let stamp = opened.stamp(
            trust::Kind::Assign,
            &opened.preamble.audience,
            &assign.issued_at,
            assign.expires_at.as_deref(),
        )?;
        if !self.is_new(&opened, &stamp, now, &format!("assignment {}", stamp.generation))? {
            return Ok(Outcome::Nothing);
        }
        let ledger = self.raised(&stamp);
        let mut stored = self.stored.clone();
        stored.assign = Some(opened.text());
        // Desired states of groups that it left are no longer asked for and not kept.
        let keep = |source: &String| {
            source
                .strip_prefix("g/")
                .is_none_or(|g| assign.groups.iter().any(|a| a == g))
        };
        stored.desired.retain(|source, _| keep(source));
        self.keep(stored, ledger)?;
        self.documents.retain(|source, _| keep(source));
        self.assign = assign;
        Ok(Outcome::Assigned)
    }

    /// What every document passes first: it says something, what was accepted before is known, signatures, audience, version.
    fn open_message(&self, kind: Kind, message: &[u8], audience: &str) -> Result<Opened, Ends> {
        if message.is_empty() {
            return Err(Ends::With(Outcome::Nothing));
        }
        if let Some(refusal) = self.distrusted() {
            return Err(refusal.into());
        }
        let payload = unwrap(kind, message, self.ring.trusted())?;
        let digest = Digest::of(&payload.bytes);
        let document = as_json(payload)?;
        let preamble = preamble(&document, audience)?;
        Ok(Opened {
            document,
            digest,
            preamble,
            activity: None,
        })
    }

    /// Whether it is newly accepted, by its number and time; false when it was before. `what` names it.
    fn is_new(&self, opened: &Opened, stamp: &Stamp<'_>, now: Option<Unix>, what: &str) -> Result<bool, Ends> {
        let mut first = self.first.iter().filter_map(|text| floor(text));
        if first.any(|(audience, least)| audience == stamp.audience && stamp.generation < least) {
            return Err(opened.refuse(Reason::Stale, what));
        }
        match self.ledger.floors.judge(stamp, &self.clock(now)) {
            Verdict::Same => Ok(false),
            Verdict::Accept => Ok(true),
            Verdict::Refuse(reason) => Err(opened.refuse(reason, what)),
        }
    }

    /// The numbers with a document that was accepted.
    fn raised(&self, stamp: &Stamp<'_>) -> Ledger {
        let mut ledger = self.ledger.clone();
        ledger.floors.raise(stamp);
        ledger.last_issued = ledger.last_issued.max(stamp.issued_at);
        ledger
    }

    /// The document of an envelope that is good by its signatures, whatever it says.
    pub fn unwrap(&self, kind: Kind, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        as_json(unwrap(kind, message, self.ring.trusted())?)
    }
}

/// What is read first of a document: it is for this topic and this agent.
fn preamble(document: &[u8], audience: &str) -> Result<Preamble, Refusal> {
    let preamble: Preamble = read::json(document).map_err(|e| unknown(Cause::new(Reason::Schema, e.to_string())))?;
    let refuse = |code, text: String| Refusal {
        cause: Cause::new(code, text),
        activity: None,
        generation: Some(preamble.generation),
    };
    // A document for everybody may stand in a group's or the device's topic; any other must be for that topic.
    if preamble.audience != audience && preamble.audience != "*" {
        let text = format!(
            "the document is for `{}`, the topic for `{audience}`",
            preamble.audience
        );
        return Err(refuse(Reason::NotForMe, text));
    }
    if let Some(least) = preamble.min_agent.as_deref()
        && newer(least, VERSION)
    {
        return Err(refuse(
            Reason::AgentTooOld,
            format!("needs agent {least}, this is {VERSION}"),
        ));
    }
    Ok(preamble)
}

/// Of a document that nothing is known of.
pub(super) fn unknown(cause: Cause) -> Refusal {
    Refusal {
        cause,
        activity: None,
        generation: None,
    }
}

fn as_json(payload: Payload) -> Result<Vec<u8>, Refusal> {
    let json = payload.into_json();
    json.map_err(|error| unknown(Cause::new(Reason::Schema, error.to_string())))
}

fn unwrap(kind: Kind, message: &[u8], trusted: &Trusted) -> Result<Payload, Refusal> {
    dsse::payload(message, kind, trusted).map_err(|error| {
        let code = match error {
            EnvelopeError::TooLarge(_) | EnvelopeError::WrongType { .. } => Reason::Schema,
            EnvelopeError::Malformed(_) if trusted.keys.is_empty() => Reason::Schema,
            _ => Reason::SigInvalid,
        };
        unknown(Cause::new(code, error.to_string()))
    })
}

/// When this program was built (seconds since 1970), where the build says so, as `tests/release` does: no document's time lies before it.
fn built() -> Unix {
    let seconds = option_env!("DUNLIN_BUILT").and_then(|text| text.parse::<u64>().ok());
    Unix(seconds.unwrap_or(0).saturating_mul(1000))
}

fn times(issued: &str, expires: Option<&str>) -> Result<(Unix, Unix), Cause> {
    let bad = |key: &str| Cause::new(Reason::Schema, format!("`{key}` is not an RFC 3339 time"));
    let issued = Unix::parse_rfc3339(issued).ok_or_else(|| bad("issued_at"))?;
    let expires = match expires {
        Some(text) => Unix::parse_rfc3339(text).ok_or_else(|| bad("expires_at"))?,
        None => Unix(issued.0.saturating_add(DOCUMENT_LIFE_MS)),
    };
    Ok((issued, expires))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::compact;
    use crate::uplink::dsse::SigningKey;

    const NOW: Option<Unix> = Some(Unix(1_795_302_000_000));

    fn document(audience: &str, generation: u64, activity: &str) -> String {
        let image = format!("r.example/web@{}", Digest::of(b"x"));
        format!(
            r#"{{"audience":"{audience}","generation":{generation},"activity":"{activity}","issued_at":"2026-11-21T22:00:00Z","apps":[{{"name":"web","image":"{image}"}}]}}"#
        )
    }

    fn sign(document: &str, key: &SigningKey) -> Vec<u8> {
        let mut envelope = dsse::wrap(Kind::Desired, document.as_bytes());
        key.sign(&mut envelope).unwrap();
        serde_json::to_vec(&envelope).unwrap()
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("dunlin-intake-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        fn intake(&self, trusted: Trusted) -> Intake {
            Intake::open(&self.0, "gw-1", trusted, 1).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn code(outcome: Outcome) -> Reason {
        match outcome {
            Outcome::Refused(refusal) => refusal.cause.code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unsigned_replayed_stale_and_misdirected_documents_change_nothing() {
        let scratch = Scratch::new("signed");
        let (key, stranger) = (SigningKey::generate("op").unwrap(), SigningKey::generate("op").unwrap());
        let trusted = Trusted {
            keys: vec![key.public()],
            threshold: 1,
            ..Trusted::default()
        };
        let mut intake = scratch.intake(trusted.clone());
        let own = "d/gw-1";
        let first = sign(&document(own, 10, "a"), &key);
        assert_eq!(intake.desired(own, &first, NOW).unwrap(), Outcome::Desired(own.into()));
        assert_eq!(intake.desired(own, &first, NOW).unwrap(), Outcome::Nothing, "replayed");
        let accepted = intake.documents().clone();
        for (message, expected) in [
            (document(own, 11, "b").into_bytes(), Reason::SigInvalid),
            (sign(&document(own, 11, "b"), &stranger), Reason::SigInvalid),
            (sign(&document(own, 9, "b"), &key), Reason::Stale),
            (sign(&document(own, 10, "b"), &key), Reason::Conflict),
            (sign(&document("d/gw-2", 11, "b"), &key), Reason::NotForMe),
            (
                sign(&document(own, 11, "b").replace("\"apps\"", "\"appz\""), &key),
                Reason::Schema,
            ),
            (
                sign(&document(own, 11, "b").replace("2026-11-21", "2027-11-21"), &key),
                Reason::Future,
            ),
            (
                sign(&document(own, 11, "b").replace("2026-11-21", "2020-11-21"), &key),
                Reason::Expired,
            ),
            (
                sign(
                    &document(own, 11, "b").replace("\"apps\"", "\"min_agent\":\"99.0.0\",\"apps\""),
                    &key,
                ),
                Reason::AgentTooOld,
            ),
            (
                sign(&document(own, 11, "b").replace("@sha256:", ":"), &key),
                Reason::Schema,
            ),
        ] {
            let text = String::from_utf8_lossy(&message).into_owned();
            assert_eq!(code(intake.desired(own, &message, NOW).unwrap()), expected, "{text}");
        }
        assert_eq!(
            intake.desired(own, b"", NOW).unwrap(),
            Outcome::Nothing,
            "an empty message changes nothing"
        );
        assert_eq!(*intake.documents(), accepted);
        let again = scratch.intake(trusted);
        assert_eq!(*again.documents(), accepted, "kept on disk");
    }

    #[test]
    fn a_generation_has_one_form_and_both_are_kept_as_json() {
        let scratch = Scratch::new("forms");
        let key = SigningKey::generate("op").unwrap();
        let trusted = Trusted {
            keys: vec![key.public()],
            threshold: 1,
            ..Trusted::default()
        };
        let mut intake = scratch.intake(trusted.clone());
        let own = "d/gw-1";
        let value =
            |generation| -> serde_json::Value { serde_json::from_str(&document(own, generation, "a")).unwrap() };
        // The envelope as text, and as bytes.
        let compact = |payload: Vec<u8>| {
            let mut envelope = dsse::wrap(Kind::Desired, &payload);
            envelope.payload_type = "application/vnd.dunlin.desired.v1+postcard".into();
            key.sign(&mut envelope).unwrap();
            (json(&envelope), compact::message(&envelope).unwrap())
        };
        let taken = Outcome::Desired(own.into());
        let (text, bytes) = compact(compact::document(&value(10)));
        assert_eq!(intake.desired(own, &bytes, NOW).unwrap(), taken);
        assert_eq!(intake.desired(own, &bytes, NOW).unwrap(), Outcome::Nothing, "replayed");
        assert_eq!(
            intake.desired(own, &text, NOW).unwrap(),
            Outcome::Nothing,
            "the same was signed"
        );
        let same = sign(&document(own, 10, "a"), &key);
        assert_eq!(code(intake.desired(own, &same, NOW).unwrap()), Reason::Conflict);
        let kept = std::fs::read(scratch.0.join(DOCUMENTS)).unwrap();
        assert!(
            kept.windows(12).any(|part| part == b"\"audience\":\""),
            "any agent can read it"
        );
        assert_eq!(scratch.intake(trusted.clone()).documents(), intake.documents());
        // And the other way round.
        let next = sign(&document(own, 11, "a"), &key);
        assert_eq!(intake.desired(own, &next, NOW).unwrap(), taken);
        let (_, bytes) = compact(compact::document(&value(11)));
        assert_eq!(code(intake.desired(own, &bytes, NOW).unwrap()), Reason::Conflict);
        // Signed, and no document.
        let mut unknown = value(12);
        unknown["appz"] = 1.into();
        for payload in [vec![0, 1, 9], b"{}".to_vec(), compact::document(&unknown)] {
            let (_, bytes) = compact(payload);
            assert_eq!(code(intake.desired(own, &bytes, NOW).unwrap()), Reason::Schema);
        }
        let (_, mut forged) = compact(compact::document(&value(13)));
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(code(intake.desired(own, &forged, NOW).unwrap()), Reason::SigInvalid);
        assert_eq!(*scratch.intake(trusted).documents(), *intake.documents());
    }

    #[test]
    fn without_keys_bare_documents_are_accepted_but_numbers_still_count() {
        let scratch = Scratch::new("bare");
        let mut intake = scratch.intake(Trusted::default());
        let message = document("*", 5, "a").into_bytes();
        assert_eq!(
            intake.desired("g/line", &message, None).unwrap(),
            Outcome::Desired("g/line".into())
        );
        let stale = document("*", 4, "a").into_bytes();
        assert_eq!(code(intake.desired("g/line", &stale, None).unwrap()), Reason::Stale);
        assert_eq!(code(intake.desired("g/line", b"{", None).unwrap()), Reason::Schema);
    }

    #[test]
    fn one_rotten_copy_of_the_numbers_is_borne_and_two_refuse_everything_until_they_are_reset() {
        let scratch = Scratch::new("rotten");
        let mut intake = scratch.intake(Trusted::default());
        let own = "d/gw-1";
        let (old, new) = (document(own, 5, "a").into_bytes(), document(own, 6, "b").into_bytes());
        intake.desired(own, &new, NOW).unwrap();
        std::fs::write(scratch.0.join("trust"), "rot").unwrap();
        let mut intake = scratch.intake(Trusted::default());
        assert_eq!(code(intake.desired(own, &old, NOW).unwrap()), Reason::Stale);
        std::fs::write(scratch.0.join("trust.2"), "rot").unwrap();
        let mut intake = scratch.intake(Trusted::default());
        let newer = document(own, 7, "c").into_bytes();
        for message in [&old, &new, &newer] {
            assert_eq!(code(intake.desired(own, message, NOW).unwrap()), Reason::Internal);
        }
        assert_eq!(intake.documents().len(), 1, "what was accepted stays known");
        intake.reset(NOW).unwrap();
        let mut intake = scratch.intake(Trusted::default());
        assert_eq!(intake.distrust(), None);
        assert_eq!(intake.desired(own, &newer, NOW).unwrap(), Outcome::Desired(own.into()));
    }

    #[test]
    fn a_power_cut_between_a_document_and_its_number_lets_it_be_accepted_again() {
        let scratch = Scratch::new("between");
        let mut intake = scratch.intake(Trusted::default());
        let own = "d/gw-1";
        intake.desired(own, document(own, 5, "a").as_bytes(), NOW).unwrap();
        let before = ["trust", "trust.2"].map(|name| std::fs::read(scratch.0.join(name)).unwrap());
        let second = document(own, 6, "b").into_bytes();
        intake.desired(own, &second, NOW).unwrap();
        for (name, bytes) in ["trust", "trust.2"].iter().zip(&before) {
            std::fs::write(scratch.0.join(name), bytes).unwrap();
        }
        let mut intake = scratch.intake(Trusted::default());
        assert_eq!(intake.desired(own, &second, NOW).unwrap(), Outcome::Desired(own.into()));
    }

    #[test]
    fn leaving_a_group_forgets_its_document() {
        let scratch = Scratch::new("assign");
        let mut intake = scratch.intake(Trusted::default());
        let assign = |generation: u64, groups: &str| {
            format!(
                r#"{{"audience":"d/gw-1","generation":{generation},"issued_at":"2026-11-21T22:00:00Z","groups":[{groups}]}}"#
            )
        };
        assert_eq!(
            intake.assignment(assign(1, "\"line\"").as_bytes(), NOW).unwrap(),
            Outcome::Assigned
        );
        intake
            .desired("g/line", document("g/line", 5, "a").as_bytes(), NOW)
            .unwrap();
        assert_eq!(intake.documents().len(), 1);
        assert_eq!(
            intake
                .assignment(assign(2, "\"Bad\"").as_bytes(), NOW)
                .map(code)
                .unwrap(),
            Reason::Schema
        );
        assert_eq!(
            intake.assignment(assign(2, "\"other\"").as_bytes(), NOW).unwrap(),
            Outcome::Assigned
        );
        assert!(intake.documents().is_empty());
    }
}
