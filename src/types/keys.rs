//! The keys of a fleet: who may sign what, and how many must.

use super::base64;

/// Keys of a fleet at the most.
pub const KEYS: usize = 32;
/// What keys may sign.
pub const ROLES: [&str; 4] = ["root", "deploy", "command", "secret"];

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Hint in envelopes.
    pub id: String,
    /// Ed25519, 32 bytes in base64.
    pub public: String,
    /// What it may sign: [`ROLES`]; all but `root` when nothing is said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

impl Key {
    /// Its 32 bytes.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        base64::decode(&self.public)?.try_into().ok()
    }

    /// Whether it has a role.
    pub fn has(&self, role: &str) -> bool {
        if self.roles.is_empty() {
            role != ROLES[0]
        } else {
            self.roles.iter().any(|one| one == role)
        }
    }
}

/// How many keys must sign, by role; 1 where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Key documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<u32>,
    /// Desired states, assignments, the agent's releases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy: Option<u32>,
    /// Commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<u32>,
    /// Secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<u32>,
}

impl Thresholds {
    /// What is said of a role.
    pub fn of(&self, role: &str) -> Option<u32> {
        match role {
            "root" => self.root,
            "deploy" => self.deploy,
            "command" => self.command,
            "secret" => self.secret,
            _ => None,
        }
    }
}

/// A key document: version N is signed by the roots of N-1 and by its own, and replaces all keys of N-1.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Always `*`.
    pub audience: String,
    /// The version; that in the device's settings is 1.
    pub generation: u64,
    /// RFC 3339.
    pub issued_at: String,
    /// All that count from now on; who is not here is revoked.
    pub keys: Vec<Key>,
    /// How many of them must sign.
    #[serde(default)]
    pub thresholds: Thresholds,
}

/// What is wrong with a set of keys; `path` is where it stands.
pub fn problems(keys: &[Key], thresholds: &Thresholds, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    if keys.len() > KEYS {
        found.push(format!("`{path}`: at most {KEYS}"));
    }
    let mut seen: Vec<[u8; 32]> = Vec::new();
    for key in keys.iter().take(KEYS) {
        let name: String = key.id.chars().take(64).collect();
        if key.id.is_empty() || key.id.len() > 64 {
            found.push(format!("`{path}`: an `id` has 1 to 64 characters"));
        }
        match key.bytes() {
            None => found.push(format!("`{path}`: key `{name}` is not 32 bytes of base64")),
            Some(bytes) if seen.contains(&bytes) => found.push(format!("`{path}`: key `{name}` is there twice")),
            Some(bytes) => seen.push(bytes),
        }
        if key.roles.iter().any(|role| !ROLES.contains(&role.as_str())) {
            found.push(format!("`{path}.roles` knows root, deploy, command, secret"));
        }
    }
    for role in ROLES {
        let able = keys.iter().filter(|key| key.has(role)).count();
        if let Some(needed) = thresholds.of(role)
            && (needed == 0 || needed as usize > able)
        {
            found.push(format!(
                "threshold of `{role}` must be 1 to the number of keys with that role, which is {able}"
            ));
        }
    }
    found
}

/// The same of a set that others are to follow: it must leave somebody who can name the next one.
pub fn document_problems(document: &Keys, path: &str) -> Vec<String> {
    let mut found = problems(&document.keys, &document.thresholds, path);
    if !document.keys.iter().any(|key| key.has(ROLES[0])) {
        found.push(format!(
            "`{path}`: none has the role root, so that there could be no next version"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, byte: u8, roles: &[&str]) -> Key {
        Key {
            id: id.into(),
            public: base64::encode(&[byte; 32]),
            roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        }
    }

    #[test]
    fn roles_are_all_but_root_when_nothing_is_said() {
        for (key, root, deploy, command) in [
            (key("a", 1, &[]), false, true, true),
            (key("a", 1, &["root"]), true, false, false),
            (key("a", 1, &["command"]), false, false, true),
        ] {
            assert_eq!(
                (key.has("root"), key.has("deploy"), key.has("command")),
                (root, deploy, command)
            );
        }
    }

    #[test]
    fn sets_that_cannot_work_are_refused() {
        let none = Thresholds::default();
        let two = |role: &str| {
            let mut thresholds = Thresholds::default();
            match role {
                "root" => thresholds.root = Some(2),
                _ => thresholds.deploy = Some(2),
            }
            thresholds
        };
        let bad = Key {
            public: "AAAA".into(),
            ..key("a", 1, &[])
        };
        for (keys, thresholds, good) in [
            (vec![], none.clone(), true),
            (vec![key("a", 1, &["root"]), key("b", 2, &[])], none.clone(), true),
            (vec![key("a", 1, &[]), key("b", 2, &[])], two("deploy"), true),
            (vec![key("a", 1, &[]), key("b", 2, &["command"])], two("deploy"), false),
            (vec![key("a", 1, &[]), key("b", 2, &[])], two("root"), false),
            (vec![key("a", 1, &[]), key("b", 1, &[])], none.clone(), false),
            (vec![key("", 1, &[])], none.clone(), false),
            (vec![key("a", 1, &["admin"])], none.clone(), false),
            (vec![bad], none.clone(), false),
            ((0..33).map(|n| key("a", n, &[])).collect(), none, false),
        ] {
            assert_eq!(problems(&keys, &thresholds, "keys").is_empty(), good, "{keys:?}");
        }
    }
}
