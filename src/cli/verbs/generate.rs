//! completion and app import: for people at their desks, not in what devices get.

use super::super::args::{AppImportArgs, CompletionArgs, commands};
use super::super::failure::{Failure, say};
use super::super::quadlet::{self, Unit};
use super::super::{man, time};
use super::print;
use super::technician::write_new;
use super::transfer::Given;
use std::fmt::Write as _;
use std::io::Read as _;

/// Bytes of a unit that is read.
const UNIT_BYTES: u64 = 1 << 20;

pub fn app_import(args: &AppImportArgs, given: Given) -> Result<u8, Failure> {
    let mut texts = Vec::new();
    for (path, file) in args.files.iter().zip(given.into_iter().flatten()) {
        let mut text = String::new();
        let read = file.take(UNIT_BYTES).read_to_string(&mut text);
        read.map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))?;
        texts.push((path, text));
    }
    let of = |extension: &str| -> Vec<Unit<'_>> {
        let fits = texts
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|found| found == extension));
        fits.filter_map(|(path, text)| {
            Some(Unit {
                stem: path.file_stem()?.to_str()?,
                text,
            })
        })
        .collect()
    };
    let (containers, volumes) = (of("container"), of("volume"));
    if containers.len() + volumes.len() < texts.len() || containers.is_empty() {
        return Err(Failure::new(
            "name .container files, and the .volume files that they name",
        ));
    }
    let volumes = quadlet::volume_names(&volumes).map_err(Failure::new)?;
    let mut made = Vec::new();
    let mut refused = false;
    for unit in &containers {
        let wrong = |why: String| Failure::new(format!("{}.container: {why}", unit.stem));
        let import = quadlet::import(unit, &volumes).map_err(wrong)?;
        for problem in &import.problems {
            say(&format!("{}.container: {problem}", unit.stem));
        }
        refused |= !import.problems.is_empty();
        made.push((unit.stem, import.toml));
    }
    if refused && !args.force {
        return Err(Failure::new(
            "nothing was imported; --force leaves out what has no counterpart",
        ));
    }
    for (stem, toml) in made {
        match &args.output {
            Some(dir) => write_new(&dir.join(format!("{stem}.toml")), &toml)?,
            None => print(&toml)?,
        }
    }
    Ok(0)
}

pub fn completion(args: &CompletionArgs) -> Result<u8, Failure> {
    if let (Some(dir), "man") = (&args.dir, args.shell.as_str()) {
        let (year, month, day, ..) = time::now().civil();
        for (name, text) in man::pages(&format!("{year:04}-{month:02}-{day:02}"), env!("CARGO_PKG_VERSION")) {
            write_new(&dir.join(name), &text)?;
        }
        return Ok(0);
    }
    if args.shell == "man" || args.dir.is_some() {
        return Err(Failure::new("manual pages need a folder: `dunlin completion man DIR`"));
    }
    let words: Vec<Word> = commands().into_iter().map(word).collect();
    print(&script(&args.shell, &words))?;
    Ok(0)
}

/// A verb as it is typed, and its options.
struct Word {
    verb: String,
    about: String,
    options: Vec<String>,
}

fn word((verb, command): (String, clap::Command)) -> Word {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    Word {
        verb,
        about: command.get_about().map(ToString::to_string).unwrap_or_default(),
        options: shown
            .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
            .collect(),
    }
}

/// What is completed where a name is expected.
const NAMES: &str = "$(dunlin ps -a --format '{{.Names}}' 2>/dev/null)";

fn script(shell: &str, all: &[Word]) -> String {
    let mut out = String::new();
    let mut say = |text: std::fmt::Arguments<'_>| {
        // Writing to a text cannot fail.
        let _ = out.write_fmt(text);
    };
    let first = |word: &Word| word.verb.split(' ').next().unwrap_or_default().to_owned();
    let mut firsts: Vec<String> = all.iter().map(first).collect();
    firsts.dedup();
    if shell == "fish" {
        say(format_args!("complete -c dunlin -f\n"));
        for word in all {
            let (group, rest) = word.verb.split_once(' ').unwrap_or((&word.verb, ""));
            let about = word.about.replace('\'', "");
            if rest.is_empty() {
                say(format_args!(
                    "complete -c dunlin -n __fish_use_subcommand -a {group} -d '{about}'\n"
                ));
            } else {
                say(format_args!("complete -c dunlin -n __fish_use_subcommand -a {group}\n"));
                say(format_args!(
                    "complete -c dunlin -n '__fish_seen_subcommand_from {group}' -a {rest} -d '{about}'\n"
                ));
            }
            for option in word.options.iter().filter_map(|option| option.strip_prefix("--")) {
                say(format_args!(
                    "complete -c dunlin -n '__fish_seen_subcommand_from {group}' -l {option}\n"
                ));
            }
        }
        return out;
    }
    if shell == "zsh" {
        say(format_args!(
            "#compdef dunlin\nautoload -U +X bashcompinit && bashcompinit\n"
        ));
    }
    say(format_args!(
        "_dunlin() {{\n  local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" verb=\"${{COMP_WORDS[1]}}\" opts=\n"
    ));
    say(format_args!(
        "  if [ \"$COMP_CWORD\" -eq 1 ]; then COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return; fi\n",
        firsts.join(" ")
    ));
    say(format_args!("  case \"$verb\" in\n"));
    for group in &firsts {
        let members: Vec<&str> = all
            .iter()
            .filter_map(|word| word.verb.strip_prefix(group)?.strip_prefix(' '))
            .collect();
        if !members.is_empty() {
            say(format_args!(
                "  {group}) if [ \"$COMP_CWORD\" -eq 2 ]; then COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return; fi; verb=\"$verb ${{COMP_WORDS[2]}}\";;\n",
                members.join(" ")
            ));
        }
    }
    say(format_args!("  esac\n  case \"$verb\" in\n"));
    for word in all {
        say(format_args!(
            "  \"{}\") opts=\"{}\";;\n",
            word.verb,
            word.options.join(" ")
        ));
    }
    say(format_args!(
        "  esac\n  case \"$cur\" in\n  -*) COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\"));;\n  \
         *) COMPREPLY=($(compgen -f -W \"{NAMES}\" -- \"$cur\"));;\n  esac\n}}\ncomplete -F _dunlin dunlin\n"
    ));
    out
}
