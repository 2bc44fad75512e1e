//! `fleet VERB`: its verbs and options from one table, all read as text.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// An option or a word of a verb.
struct Word {
    /// `percent`; `g|group` with a letter; `TARGET` for a word that is no option.
    name: &'static str,
    /// What stands for the value; empty for a flag; `FILE...` when it may be given several times.
    value: &'static str,
    /// For people.
    help: &'static str,
}

/// A verb.
struct Shape {
    name: &'static str,
    about: &'static str,
    /// Its words, those that must be there first, then its options.
    words: &'static [Word],
    after: &'static str,
}

const fn word(name: &'static str, value: &'static str, help: &'static str) -> Word {
    Word { name, value, help }
}

/// Options of every verb.
const COMMON: &[Word] = &[
    word("broker", "URL", "Broker: mqtts://HOST[:PORT] or mqtt://HOST[:PORT]"),
    word("ca", "FILE", "CA that signed the broker's certificate"),
    word("cert", "FILE", "The operator's certificate for the broker"),
    word("key", "FILE", "Private key of that certificate"),
    word("username", "NAME", "User name at the broker"),
    word("password-file", "FILE", "File that holds the password"),
    word("topic-root", "TOPIC", "Root of all topics [default: dunlin/v1]"),
    word("sign-key", "FILE...", "Private key that signs, made by `fleet keygen`"),
    word(
        "devices",
        "FILE",
        "Names of devices, one a line, for brokers that keep retained messages from wildcards",
    ),
    word(
        "timeout",
        "TIME",
        "The longest wait for what the broker has [default: 60s]",
    ),
];

const TARGET: Word = word("TARGET", "TARGET", "A device `d/NAME` or a group `g/NAME`");
const DEVICE: Word = word("DEVICE", "DEVICE", "Name of the device");
const PERCENT: Word = word("percent", "NUMBER", "Share of the devices that take part");
const WAVE: Word = word("wave", "LABEL...", "Devices with this label take part in any case");
const ENCODING: Word = word(
    "encoding",
    "FORM",
    "json, or postcard: fewer bytes, for devices whose caps name it [default: `encoding` of fleet.toml, else json]",
);
const FORMAT: Word = word("format", "FORMAT", "json, or a Go template");
const DEADLINE: Word = word(
    "deadline",
    "TIME",
    "Devices that say nothing for so long have failed [default: 30m]",
);

const SHAPES: &[Shape] = &[
    Shape {
        name: "keygen",
        about: "Make a signing key",
        words: &[
            word("FILE", "FILE", "Where the private key is written; never overwritten"),
            word("id", "NAME", "Its name in envelopes [default: the file's name]"),
            word(
                "role",
                "ROLE...",
                "What it may sign: root, deploy, command, secret [default: all but root]",
            ),
        ],
        after: "Examples:\n  dunlin fleet keygen operator.pem\n  dunlin fleet keygen --id anna --role deploy anna.pem\n\n\
                Prints the lines of agent.toml that make a device trust the key.",
    },
    Shape {
        name: "sign",
        about: "Sign a document, or add a signature to one",
        words: &[
            word("[FILE]", "FILE", "The document or envelope; stdin when nothing is said"),
            word(
                "kind",
                "KIND",
                "desired, assign, command, secret, keys or agent [default: desired]",
            ),
            ENCODING,
        ],
        after: "Examples:\n  dunlin fleet sign --sign-key anna.pem desired.json >once.json\n  \
                dunlin fleet sign --sign-key bert.pem once.json >twice.json\n  dunlin fleet deploy g/line-3 twice.json\n\n\
                Where devices want more than one signature, pass the file round.",
    },
    Shape {
        name: "keys",
        about: "Replace the fleet's keys",
        words: &[
            word("ACTION", "rotate", "rotate"),
            word(
                "FILE",
                "FILE",
                "All keys as in agent.toml (`[[fleet.keys]]`), or an envelope that is signed",
            ),
            word("dry-run", "", "Show the document; publish nothing"),
        ],
        after: "Examples:\n  dunlin fleet keys rotate --sign-key old-root.pem --sign-key new-root.pem keys.toml\n  \
                dunlin fleet keys rotate --dry-run keys.toml >keys.json\n\n\
                The roots of the present keys and those of the new ones sign. A key that is not in the file is revoked.",
    },
    Shape {
        name: "deploy",
        about: "Bring a device or a group to a set of apps",
        words: &[
            TARGET,
            word(
                "FILE",
                "FILE...",
                "App documents (TOML), a desired state (JSON) or an envelope that is signed",
            ),
            PERCENT,
            WAVE,
            word(
                "window",
                "FROM-TO",
                "Only between these times of the device's day: 02:00-04:00",
            ),
            word("spread", "TIME", "Starts are spread over this time"),
            word("not-before", "TIME", "Not before this time (RFC 3339)"),
            word("max-rate", "RATE", "Bytes per second of each device's pulls: 256KiB/s"),
            word("urgent", "", "Windows, spread and metered links do not hold it back"),
            word("retry", "APP...", "Try this app's version again where it has failed"),
            word(
                "expires",
                "TIME",
                "The document is not newly accepted after this time [default: 90d]",
            ),
            word(
                "apps-ref",
                "REPOSITORY",
                "Put the set there (also with --dry-run) and name it in the document: for sets above 32 KiB, and for devices that join later",
            ),
            word(
                "base",
                "DIGEST",
                "Digest of the set that the other devices run [default: the one before]",
            ),
            ENCODING,
            word(
                "dry-run",
                "",
                "Show the document and who would take part; publish nothing",
            ),
        ],
        after: "Examples:\n  dunlin fleet deploy d/gw-0017 web.toml\n  dunlin fleet deploy --percent 5 --wave canary g/line-3 web.toml db.toml\n  \
                dunlin fleet deploy --dry-run --percent 5 g/line-3 apps.json\n\n\
                The files are the whole set of the target. Tags are resolved to digests. With --encoding postcard all devices of the target \
                must name it under `Encodings` of `fleet status --format json`; those that do not refuse the document, and say so.",
    },
    Shape {
        name: "promote",
        about: "Let more devices of a group take part",
        words: &[TARGET, PERCENT, WAVE],
        after: "Examples:\n  dunlin fleet promote --percent 25 g/line-3\n  dunlin fleet promote g/line-3\n\n\
                Without --percent all devices take part. The document keeps its form, JSON or postcard.",
    },
    Shape {
        name: "halt",
        about: "Let no device begin to switch",
        words: &[TARGET],
        after: "Examples:\n  dunlin fleet halt g/line-3\n\nDevices that switch already finish.",
    },
    Shape {
        name: "resume",
        about: "Let a halted rollout go on",
        words: &[TARGET],
        after: "Examples:\n  dunlin fleet resume g/line-3",
    },
    Shape {
        name: "assign",
        about: "Say a device's groups, labels and time zone",
        words: &[
            DEVICE,
            word("group", "NAME...", "Its groups, in order; replaces those before"),
            word("label", "NAME...", "Its labels; replaces those before"),
            word("time-zone", "ZONE", "UTC or an offset such as +01:00"),
            word("metered", "BOOL", "Its link costs money: true or false"),
            ENCODING,
        ],
        after: "Examples:\n  dunlin fleet assign --group line-3 --label canary gw-0017\n  dunlin fleet assign --metered true gw-0017\n\n\
                What is not said stays as it is.",
    },
    Shape {
        name: "retire",
        about: "Take a device out and clear its topics",
        words: &[DEVICE, word("force", "", "Do not wait until the device has confirmed")],
        after: "Examples:\n  dunlin fleet retire gw-0017\n  dunlin fleet retire --force gw-0017",
    },
    Shape {
        name: "secret",
        about: "Seal a secret, or a registry's password, for a device",
        words: &[
            word("ACTION", "ACTION", "put or rm"),
            DEVICE,
            word(
                "NAME",
                "NAME",
                "Its name; an app with `secrets = [\"NAME\"]` finds it at /run/secrets/NAME",
            ),
            word("[FILE]", "FILE", "What is put; stdin when nothing is said"),
            word(
                "registry",
                "HOST",
                "It is `{\"username\": …, \"password\": …}` for this registry",
            ),
            word(
                "sealing-key",
                "KEY",
                "The device's key for this in base64 [default: what the broker has in its caps]",
            ),
            ENCODING,
        ],
        after: "Examples:\n  dunlin fleet secret put gw-0017 api-token token.txt\n  dunlin fleet secret rm gw-0017 api-token\n\n\
                Only the device can open it. Whose key it is, the broker says: where that is not to be trusted, say --sealing-key.",
    },
    Shape {
        name: "status",
        about: "Show devices as the broker's retained messages have them",
        words: &[
            word("[TARGET]", "TARGET", "Only this device `d/NAME` or group `g/NAME`"),
            FORMAT,
        ],
        after: "Examples:\n  dunlin fleet status\n  dunlin fleet status g/line-3\n  dunlin fleet status --format json d/gw-0017",
    },
    Shape {
        name: "explain",
        about: "Show what a device was told, what it does and what stands between",
        words: &[DEVICE],
        after: "Examples:\n  dunlin fleet explain gw-0017",
    },
    Shape {
        name: "watch",
        about: "Follow a rollout",
        words: &[
            TARGET,
            word("wait", "", "End when all have finished: 0 when all committed, else 1"),
            DEADLINE,
        ],
        after: "Examples:\n  dunlin fleet watch g/line-3\n  dunlin fleet watch --wait --deadline 10m g/line-3",
    },
    Shape {
        name: "guard",
        about: "Halt a group's rollouts when too many devices fail",
        words: &[TARGET, DEADLINE],
        after: "Examples:\n  dunlin fleet guard g/line-3\n  systemd-run --user -p Type=notify dunlin fleet guard g/line-3\n\n\
                Runs until it is ended. It halts when 2 devices, or 5 % where that is more, have failed.",
    },
    Shape {
        name: "command",
        about: "Let a device do something now",
        words: &[
            DEVICE,
            word(
                "VERB",
                "VERB",
                "restart, rollback, logs, metrics, probe, gc, unlock, explain, update-agent",
            ),
            word("[NAME=VALUE]", "NAME=VALUE...", "What the verb is given"),
            ENCODING,
        ],
        after: "Examples:\n  dunlin fleet command gw-0017 restart app=web\n  dunlin fleet command gw-0017 explain",
    },
    Shape {
        name: "logs",
        about: "Show what an app on a device writes",
        words: &[
            DEVICE,
            word("APP", "APP", "Name of the app"),
            word("f|follow", "", "Go on until interrupted"),
            word("tail", "LINES", "So many of its last lines first [default: 100]"),
        ],
        after: "Examples:\n  dunlin fleet logs gw-0017 web\n  dunlin fleet logs -f gw-0017 web",
    },
    #[cfg(feature = "simulate")]
    Shape {
        name: "simulate",
        about: "Run many devices that speak the protocol and have no containers",
        words: &[
            word("count", "NUMBER", "Devices [default: 100]"),
            word("group", "NAME", "Their group [default: sim]"),
            word("fail", "PERCENT", "Share that rolls back"),
            word("silent", "PERCENT", "Share that says nothing"),
            word("slow", "PERCENT", "Share that takes ten times as long"),
            word(
                "bad",
                "TEXT",
                "Images with this in their names make every device roll back",
            ),
            word("step", "TIME", "Time that fetching takes, and soaking [default: 1s]"),
            word("rate", "NUMBER", "New connections in a second [default: 200]"),
        ],
        after: "Examples:\n  dunlin fleet simulate --count 1000 --group line-3 --fail 2% --silent 1% --slow 5%",
    },
];

/// `fleet`, as given: the verb, and by name what was said.
#[derive(Debug, Default)]
pub struct FleetArgs {
    /// The verb.
    pub verb: String,
    given: Vec<(&'static str, Vec<String>)>,
}

impl FleetArgs {
    /// The values of an option or word.
    pub fn many(&self, name: &str) -> &[String] {
        self.given
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(&[], |(_, values)| values)
    }

    /// The value of an option or word.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.many(name).last().map(String::as_str)
    }

    /// The value of a word that must be there.
    pub fn sure(&self, name: &str) -> &str {
        self.one(name).unwrap_or_default()
    }

    /// Whether a flag was given.
    pub fn has(&self, name: &str) -> bool {
        !self.many(name).is_empty()
    }
}

impl Word {
    /// Its name without letter and brackets.
    fn id(&self) -> &'static str {
        let name = self.name.trim_matches(['[', ']']);
        name.split_once('|').map_or(name, |(_, long)| long)
    }

    fn arg(&self) -> Arg {
        let id = self.id();
        let (value, several) = match self.value.strip_suffix("...") {
            Some(value) => (value, true),
            None => (self.value, false),
        };
        let arg = Arg::new(id).help(self.help);
        let arg = if id.starts_with(char::is_uppercase) {
            arg.required(!self.name.starts_with('['))
                .num_args(if several { 1..=4096 } else { 1..=1 })
        } else {
            let letter = self.name.split_once('|').and_then(|(letter, _)| letter.chars().next());
            arg.long(id).short(letter)
        };
        match (value.is_empty(), several) {
            (true, _) => arg.action(ArgAction::SetTrue),
            (_, true) => arg.value_name(value).action(ArgAction::Append),
            _ => arg.value_name(value).action(ArgAction::Set),
        }
    }
}

impl Args for FleetArgs {
    fn augment_args(command: Command) -> Command {
        let common = COMMON
            .iter()
            .map(|word| word.arg().global(true).help_heading("Broker and keys"));
        let verbs = SHAPES.iter().map(|shape| {
            Command::new(shape.name)
                .about(shape.about)
                .after_help(shape.after)
                .args(shape.words.iter().map(Word::arg))
        });
        command
            .args(common)
            .subcommands(verbs)
            .subcommand_required(true)
            .disable_help_subcommand(true)
            .after_help(
                "Examples:\n  dunlin fleet deploy g/line-3 web.toml\n  dunlin fleet status\n\n\
                 Settings: $XDG_CONFIG_HOME/dunlin/fleet.toml, or another file with `dunlin --config FILE fleet …`.",
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FleetArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (verb, matches) = matches.subcommand().ok_or_else(missing)?;
        let shape = SHAPES.iter().find(|shape| shape.name == verb).ok_or_else(missing)?;
        let mut given = Vec::new();
        for word in shape.words.iter().chain(COMMON) {
            let id = word.id();
            let values: Vec<String> = if word.value.is_empty() {
                matches.get_flag(id).then(String::new).into_iter().collect()
            } else {
                matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
            };
            given.push((id, values));
        }
        Ok(FleetArgs {
            verb: verb.into(),
            given,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, Verb, parse};
    use super::*;

    fn parsed(line: &str) -> Parsed {
        parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn verbs_take_their_words_and_the_common_options_anywhere() {
        let Parsed::Run(cli) =
            parsed("fleet --broker mqtt://x deploy --percent 5 --wave a --wave b g/line a.toml b.toml --sign-key k")
        else {
            panic!();
        };
        let Verb::Fleet(args) = cli.verb else { panic!() };
        assert_eq!(args.verb, "deploy");
        assert_eq!((args.one("percent"), args.sure("TARGET")), (Some("5"), "g/line"));
        assert_eq!((args.many("FILE").len(), args.many("wave").len()), (2, 2));
        assert_eq!(
            (args.one("broker"), args.one("sign-key")),
            (Some("mqtt://x"), Some("k"))
        );
        assert!(!args.has("urgent"));
        let Parsed::Run(cli) = parsed("--config f fleet logs -f gw web") else {
            panic!()
        };
        let Verb::Fleet(args) = cli.verb else { panic!() };
        assert!(args.has("follow") && args.one("tail").is_none());
    }

    #[test]
    fn mistakes_are_told_and_every_verb_has_examples() {
        for line in [
            "fleet",
            "fleet fly",
            "fleet deploy",
            "fleet deploy g/x",
            "fleet halt --percent 5 g/x",
        ] {
            assert!(matches!(parsed(line), Parsed::Wrong(_)), "{line}");
        }
        for shape in SHAPES {
            let Parsed::Show(text) = parsed(&format!("fleet {} --help", shape.name)) else {
                panic!("{}", shape.name);
            };
            assert!(text.contains("Examples:\n  dunlin "), "{text}");
            assert!(shape.after.contains(&format!("dunlin fleet {}", shape.name)));
        }
        Command::new("x").debug_assert();
        FleetArgs::augment_args(Command::new("fleet")).debug_assert();
    }
}
