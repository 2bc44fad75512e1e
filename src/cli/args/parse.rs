//! From argv to [`Cli`]: podman's boolean flags (`--rm=false`), its groups (`container ls`) and its error texts.

use super::{Cli, Verb};
use crate::cli::lazy::Change;
use clap::error::ErrorKind;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches};
use std::ffi::OsString;

/// What argv asks for.
#[derive(Debug)]
pub enum Parsed {
    /// A verb with its arguments.
    Run(Box<Cli>),
    /// Help or version, for stdout.
    Show(String),
    /// A mistake, for stderr, exit code 125.
    Wrong(String),
}

/// Parses argv without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(answer) = group_alone(&arguments) {
        return answer;
    }
    let arguments: Vec<OsString> = std::iter::once("dunlin".into()).chain(regroup(arguments)).collect();
    let flexible = Verb::deferred::<BoolValues>(Cli::command());
    let error = match flexible.try_get_matches_from(&arguments) {
        Ok(mut matches) => match Cli::from_arg_matches_mut(&mut matches) {
            Ok(cli) => return Parsed::Run(Box::new(cli)),
            Err(error) => error,
        },
        Err(error) => error,
    };
    match error.kind() {
        // The help of the plain command shows flags without their optional value.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match Cli::command().try_get_matches_from(&arguments) {
            Err(plain) if matches!(plain.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                Parsed::Show(plain.to_string())
            }
            _ => Parsed::Show(error.to_string()),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Parsed::Wrong(format!(
            "{}\nError: missing command `dunlin COMMAND`",
            Cli::command().render_help()
        )),
        _ => Parsed::Wrong(reword(&error.to_string())),
    }
}

/// Lets every plain flag also take `=true` and `=false`.
struct BoolValues;

impl Change for BoolValues {
    fn change(command: Command) -> Command {
        command.mut_args(|argument| match argument.get_action() {
            ArgAction::SetTrue => argument
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false"),
            _ => argument,
        })
    }
}

const APP_VERBS: &str = "apply, history, import, list, ls, remove, reset-trust, retry, rm, rollback, unlock";
const CONTAINER_VERBS: &str = "attach, commit, cp, create, diff, exec, exists, export, inspect, kill, list, logs, ls, pause, port, \
                               prune, ps, rename, restart, rm, run, start, stats, stop, top, unpause, update, wait";
const IMAGE_VERBS: &str = "delete, diff, exists, history, import, inspect, list, load, ls, mount, prune, pull, push, remove, rm, save, tag, tree, \
     umount, unmount, untag";
const NETWORK_VERBS: &str = "list, ls";
const POD_VERBS: &str = "create, inspect, list, ls, ps, rm, start, stop";
const SYSTEM_VERBS: &str = "check, df, events, info, prune";
const VOLUME_VERBS: &str = "create, exists, inspect, list, ls, prune, remove, rm";

/// `container VERB` and `image VERB` are the same verbs; `system VERB` is `system-VERB`.
fn regroup(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let Some(at) = verb_at(&arguments) else {
        return arguments;
    };
    let word = |at: usize| arguments.get(at).and_then(|word| word.to_str()).unwrap_or("");
    // skopeo's `inspect --config` is not the settings file.
    if word(at) == "inspect"
        && arguments
            .iter()
            .any(|word| word.as_encoded_bytes().starts_with(b"docker://"))
    {
        for word in arguments.iter_mut().skip(at).filter(|word| *word == "--config") {
            *word = "--image-config".into();
        }
        return arguments;
    }
    let replacement: &[&str] = match (word(at), word(at + 1)) {
        ("container", "ls" | "list" | "ps") => &["ps"],
        ("container", "inspect") => &["inspect", "--type", "container"],
        (
            "container",
            verb @ ("run" | "create" | "start" | "stop" | "kill" | "restart" | "pause" | "unpause" | "rm" | "logs"
            | "exec" | "top" | "stats" | "port" | "wait" | "rename" | "commit" | "diff" | "attach" | "cp"
            | "export" | "update"),
        ) => &[verb],
        ("container", "exists") => &["container-exists"],
        ("container", "prune") => &["container-prune"],
        ("healthcheck", "run") => &["healthcheck-run"],
        ("volume", "create") => &["volume-create"],
        ("volume", "ls" | "list") => &["volume-ls"],
        ("volume", "inspect") => &["volume-inspect"],
        ("volume", "rm" | "remove") => &["volume-rm"],
        ("volume", "prune") => &["volume-prune"],
        ("volume", "exists") => &["volume-exists"],
        ("image", "ls" | "list") => &["images"],
        ("image", "inspect") => &["inspect", "--type", "image"],
        ("image", verb @ ("pull" | "push" | "import" | "tag" | "untag" | "history" | "save" | "load")) => &[verb],
        ("image", "rm" | "remove") => &["rmi"],
        ("image", "exists") => &["image-exists"],
        ("image", "diff") => &["diff", "--image"],
        ("image", "mount") => &["image-mount"],
        ("image", "unmount" | "umount") => &["image-unmount"],
        ("image", "tree") => &["image-tree"],
        ("image", "delete") => &["image-delete"],
        ("image", "prune") => &["image-prune"],
        ("agent", "update") => &["agent-update"],
        ("agent", "enroll") => &["agent-enroll"],
        ("app", "ls" | "list") => &["app-ls"],
        ("app", "apply") => &["app-apply"],
        ("app", "import") => &["app-import"],
        ("generate", "systemd") => &["generate-systemd"],
        ("app", "rm" | "remove") => &["app-rm"],
        ("app", "rollback") => &["app-rollback"],
        ("app", "retry") => &["app-retry"],
        ("app", "unlock") => &["app-unlock"],
        ("app", "history") => &["app-history"],
        ("app", "reset-trust") => &["app-reset-trust"],
        ("network", "ls" | "list") => &["network-ls"],
        ("pod", "create") => &["pod-create"],
        ("pod", "ps" | "ls" | "list") => &["pod-ps"],
        ("pod", "inspect") => &["pod-inspect"],
        ("pod", "start") => &["pod-start"],
        ("pod", "stop") => &["pod-stop"],
        ("pod", "rm") => &["pod-rm"],
        ("system", "events") => &["events"],
        ("system", "info") => &["info"],
        ("system", "check") => &["system-check"],
        ("system", "df") => &["system-df"],
        ("system", "prune") => &["system-prune"],
        _ => return arguments,
    };
    let replacement: Vec<OsString> = replacement.iter().map(OsString::from).collect();
    arguments.splice(at..at + 2, replacement);
    arguments
}

/// A group without a verb, or with one that is not its own.
fn group_alone(arguments: &[OsString]) -> Option<Parsed> {
    let at = verb_at(arguments)?;
    let group = arguments[at].to_str()?;
    let verbs = match group {
        "app" => APP_VERBS,
        "container" => CONTAINER_VERBS,
        "image" => IMAGE_VERBS,
        "generate" => "systemd",
        "healthcheck" => "run",
        "network" => NETWORK_VERBS,
        "pod" => POD_VERBS,
        "system" => SYSTEM_VERBS,
        "volume" => VOLUME_VERBS,
        _ => return None,
    };
    let list = format!("dunlin {group} VERB, where VERB is one of: {verbs}");
    match arguments.get(at + 1).map(|word| word.to_string_lossy()).as_deref() {
        Some("--help" | "-h") => Some(Parsed::Show(format!("Usage: {list}\n"))),
        None => Some(Parsed::Wrong(format!("Error: missing command: {list}"))),
        Some(verb) if !verbs.split(", ").any(|known| known == verb) => Some(Parsed::Wrong(format!(
            "Error: unrecognized command `dunlin {group} {verb}`: {list}"
        ))),
        Some(_) => None,
    }
}

/// Groups whose verbs are described by names of their own, `GROUP-VERB`.
#[cfg(feature = "operator")]
const GROUPS: [&str; 10] = [
    "agent",
    "app",
    "container",
    "generate",
    "healthcheck",
    "image",
    "network",
    "pod",
    "system",
    "volume",
];

/// Every verb that people type, as they type it, and its description.
#[cfg(feature = "operator")]
pub fn commands() -> Vec<(String, Command)> {
    let mut all = Cli::command();
    all.build();
    let mut commands: Vec<(String, Command)> = Vec::new();
    for command in all.get_subcommands() {
        let name = command.get_name();
        let group = GROUPS
            .iter()
            .find_map(|group| name.strip_prefix(group)?.strip_prefix('-').map(|verb| (group, verb)));
        let inner = ["cp-local", "agent-watch", "container-cleanup"];
        let verb = match group {
            _ if inner.contains(&name) => continue,
            Some((group, verb)) => format!("{group} {verb}"),
            None => name.to_owned(),
        };
        commands.push((verb, command.clone()));
    }
    commands.sort_by(|a, b| a.0.cmp(&b.0));
    commands
}

/// Where the verb stands: the first word that is neither a global option nor its value.
fn verb_at(arguments: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = arguments.get(at).and_then(|word| word.to_str()) {
        match word {
            "--root" | "--runroot" | "--config" | "--log-level" | "--runtime" => at += 2,
            _ if word.starts_with('-') => at += 1,
            _ => return Some(at),
        }
    }
    None
}

/// clap's text in podman's form: `Error: …` and where to read on.
fn reword(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text).trim_end();
    let text = text.split("\n\nFor more information").next().unwrap_or(text).trim_end();
    format!("Error: {text}\nSee `dunlin --help` or `dunlin VERB --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(OsString::from)
            .collect()
    }

    fn run_args(line: &str) -> Box<super::super::RunArgs> {
        match parse(words(line)) {
            Parsed::Run(cli) => match cli.verb {
                Verb::Run(args) => args,
                other => panic!("{other:?}"),
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
        Verb::deferred::<BoolValues>(Cli::command()).debug_assert();
    }

    #[test]
    fn the_help_of_every_verb_has_examples() {
        let mut all = Cli::command();
        all.build();
        for verb in all.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n  dunlin "), "{}", verb.get_name());
        }
    }

    #[test]
    fn letters_bundle_and_the_rest_belongs_to_the_container() {
        let args = run_args("run -it --rm --name x alpine sh -c -it --rm");
        assert!(args.create.interactive && args.create.tty && args.create.rm && !args.detach);
        assert_eq!(args.create.image, "alpine");
        assert_eq!(args.create.command, ["sh", "-c", "-it", "--rm"]);
        let args = run_args("run -dit --rm=false -h box -e A=1 -e B alpine");
        assert!(args.detach && !args.create.rm);
        assert_eq!(args.create.hostname.as_deref(), Some("box"));
        assert_eq!(args.create.env, ["A=1", "B"]);
        let args = run_args("run --cap-drop all --cap-add chown,kill -- alpine -x");
        assert_eq!(args.create.cap_add, ["chown", "kill"]);
        assert_eq!(args.create.command, ["-x"]);
        let args = run_args("--root /x run --sig-proxy=false --pids-limit -1 --memory-swap -1 a");
        assert_eq!(args.sig_proxy, Some(false));
        assert_eq!(args.create.limits.pids_limit, Some(-1));
    }

    #[test]
    fn groups_are_other_names_of_the_verbs() {
        for (line, want) in [
            ("container ls -a", "ps"),
            ("--log-level debug container inspect x", "inspect"),
            ("image ls", "images"),
            ("image rm x", "rmi"),
            ("image history x", "history"),
            ("--log-level debug image exists x", "imageexists"),
            ("image tree x", "imagetree"),
            ("image prune -af", "imageprune"),
            ("container rm x", "rm"),
            ("system check --repair", "systemcheck"),
        ] {
            match parse(words(line)) {
                Parsed::Run(cli) => {
                    let name = format!("{:?}", cli.verb).to_lowercase();
                    assert!(name.starts_with(want), "{line}: {name}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_word_of_a_group_is_understood() {
        for (group, verbs) in [
            ("container", CONTAINER_VERBS),
            ("image", IMAGE_VERBS),
            ("system", SYSTEM_VERBS),
        ] {
            for verb in verbs.split(", ") {
                let line = format!("{group} {verb} --help");
                match parse(words(&line)) {
                    Parsed::Show(text) => assert!(text.contains("Examples:"), "{line}: {text}"),
                    other => panic!("{line}: {other:?}"),
                }
            }
        }
        let Parsed::Show(help) = parse(words("image tree --help")) else {
            panic!("no help")
        };
        assert!(help.contains("Usage: dunlin image tree [OPTIONS]"), "{help}");
    }

    #[test]
    fn mistakes_read_as_podmans() {
        for line in [
            "",
            "nope",
            "run",
            "run --nope x",
            "run -t --nope",
            "exec -k x y",
            "ps --sort nope",
            "rm --time x y",
            "rmi",
            "image",
            "image nope x",
            "container",
            "image exists",
        ] {
            match parse(words(line)) {
                Parsed::Wrong(text) => assert!(text.contains("Error: "), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        for line in [
            "--help",
            "run --help",
            "--version",
            "ps -h",
            "image --help",
            "image tree --help",
        ] {
            assert!(matches!(parse(words(line)), Parsed::Show(_)), "{line}");
        }
    }
}
