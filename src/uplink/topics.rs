//! Topic names of the fleet protocol (PROTOCOL.md, Topics).

use crate::types::text::is_name;

/// Names of topics for one device below one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    root: String,
    device: String,
}

/// A topic to the device, recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// Groups, labels, time zone.
    Assign,
    /// Desired state of the device itself.
    Desired,
    /// Desired state of a group.
    GroupDesired(String),
    /// A command, by verb.
    Command(String),
    /// The device's own presence, as the broker has it.
    Presence,
    /// A key document.
    Keys(u64),
    /// A secret, by name.
    Secret(String),
}

impl Topics {
    /// `root` without wildcards, `device` a protocol name.
    pub fn new(root: &str, device: &str) -> Topics {
        Topics {
            root: root.to_owned(),
            device: device.to_owned(),
        }
    }

    /// A topic of the device: `presence`, `reported`, `deploy`, `caps`, …
    pub fn own(&self, leaf: &str) -> String {
        format!("{}/d/{}/{leaf}", self.root, self.device)
    }

    /// Desired state of a group.
    pub fn group(&self, group: &str) -> String {
        format!("{}/g/{group}/desired", self.root)
    }

    /// Filters of everything that is retained for the device; 8 at the most in one SUBSCRIBE. `keys` is the version of the fleet's keys
    /// that counts: of key documents only the next one is asked for, by its name, since some brokers keep retained messages from
    /// wildcards.
    pub fn retained_filters(&self, groups: &[String], keys: u64) -> Vec<String> {
        let own = ["assign", "desired", "presence", "secret/+"].map(|leaf| self.own(leaf));
        let keys = format!("{}/keys/{}", self.root, keys.saturating_add(1));
        own.into_iter()
            .chain([keys])
            .chain(groups.iter().map(|g| self.group(g)))
            .collect()
    }

    /// Filter of the commands.
    pub fn command_filter(&self) -> String {
        self.own("cmd/+")
    }

    /// Whether answers may go there: below `d/DEVICE/res/`, one level, no wildcards.
    pub fn is_reply(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.own("res/")).is_some_and(is_name)
    }

    /// What a message on `topic` is; `None` for topics that are not for this device.
    pub fn recognise(&self, topic: &str) -> Option<Inbound> {
        let rest = topic.strip_prefix(&self.root)?.strip_prefix('/')?;
        let words: Vec<&str> = rest.split('/').collect();
        match words[..] {
            ["keys", version] => version.parse().ok().map(Inbound::Keys),
            ["g", group, "desired"] if is_name(group) => Some(Inbound::GroupDesired(group.into())),
            ["d", device, ..] if device != self.device => None,
            ["d", _, "assign"] => Some(Inbound::Assign),
            ["d", _, "desired"] => Some(Inbound::Desired),
            ["d", _, "presence"] => Some(Inbound::Presence),
            ["d", _, "cmd", verb] if is_name(verb) => Some(Inbound::Command(verb.into())),
            ["d", _, "secret", name] if is_name(name) => Some(Inbound::Secret(name.into())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_recognised_and_others_are_not() {
        let topics = Topics::new("dunlin/v1", "gw-1");
        for (topic, expected) in [
            ("dunlin/v1/d/gw-1/desired", Some(Inbound::Desired)),
            ("dunlin/v1/d/gw-1/assign", Some(Inbound::Assign)),
            ("dunlin/v1/d/gw-1/presence", Some(Inbound::Presence)),
            ("dunlin/v1/d/gw-1/cmd/restart", Some(Inbound::Command("restart".into()))),
            (
                "dunlin/v1/g/line-3/desired",
                Some(Inbound::GroupDesired("line-3".into())),
            ),
            ("dunlin/v1/keys/2", Some(Inbound::Keys(2))),
            ("dunlin/v1/d/gw-2/desired", None),
            ("dunlin/v1/d/gw-1/desired/x", None),
            ("dunlin/v1/keys/x", None),
            ("dunlin/v1x/d/gw-1/desired", None),
            ("", None),
        ] {
            assert_eq!(topics.recognise(topic), expected, "{topic}");
        }
        assert!(topics.is_reply("dunlin/v1/d/gw-1/res/cli-1"));
        for bad in [
            "dunlin/v1/d/gw-1/res/",
            "dunlin/v1/d/gw-2/res/x",
            "dunlin/v1/d/gw-1/res/a/b",
            "dunlin/v1/d/gw-1/res/+",
        ] {
            assert!(!topics.is_reply(bad), "{bad}");
        }
        assert!(topics.retained_filters(&["g".into(), "h".into()], 1).len() <= 8);
    }
}
