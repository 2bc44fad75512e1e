//! Manual pages, from the definition of the command line.

use super::args::commands;
use clap::Command;

/// Every page: its file's name and its text. `date` is that of the pages, `version` dunlin's.
pub fn pages(date: &str, version: &str) -> Vec<(String, String)> {
    let all = commands();
    let mut list = String::from(".SH COMMANDS\n");
    let mut pages = Vec::new();
    for (verb, command) in &all {
        let name = format!("dunlin-{}", verb.replace(' ', "-"));
        let about = plain(&command.get_about().map(ToString::to_string).unwrap_or_default());
        list.push_str(&format!(".TP\n.BR {name} (1)\n{about}\n"));
        let mut text = heading(&name, date, version, &about);
        text.push_str(&page(verb, command));
        text.push_str(".SH SEE ALSO\n.BR dunlin (1)\n");
        pages.push((format!("{name}.1"), text));
    }
    let about = "pull, run and look after containers on this device";
    let mut text = heading("dunlin", date, version, about);
    text.push_str(".SH SYNOPSIS\n.B dunlin\n[OPTIONS] COMMAND\n");
    text.push_str(&list);
    pages.push(("dunlin.1".to_owned(), text));
    pages
}

fn heading(name: &str, date: &str, version: &str, about: &str) -> String {
    format!(
        ".TH {} 1 {date} \"dunlin {version}\"\n.SH NAME\n{name} \\- {about}\n",
        name.to_uppercase()
    )
}

fn page(verb: &str, command: &Command) -> String {
    let mut text = format!(".SH SYNOPSIS\n.B dunlin {verb}\n[OPTIONS]");
    for argument in command.get_positionals() {
        let name = argument.get_value_names().and_then(|names| names.first());
        let name = name.map_or_else(|| argument.get_id().as_str().to_uppercase(), ToString::to_string);
        let many = argument.get_num_args().is_some_and(|range| range.max_values() > 1)
            || matches!(argument.get_action(), clap::ArgAction::Append);
        let shown = if many { format!("{name}...") } else { name };
        text.push_str(&match argument.is_required_set() {
            true => format!(" {shown}"),
            false => format!(" [{shown}]"),
        });
    }
    text.push_str("\n.SH OPTIONS\n");
    for argument in command
        .get_arguments()
        .filter(|argument| !argument.is_positional() && !argument.is_hide_set())
    {
        let mut names: Vec<String> = argument
            .get_short()
            .map(|short| format!("\\-{short}"))
            .into_iter()
            .collect();
        names.extend(
            argument
                .get_long()
                .map(|long| format!("\\-\\-{}", long.replace('-', "\\-"))),
        );
        let value = match argument.get_action() {
            clap::ArgAction::Set | clap::ArgAction::Append => argument
                .get_value_names()
                .and_then(|names| names.first())
                .map(|name| format!(" {}", plain(name)))
                .unwrap_or_default(),
            _ => String::new(),
        };
        let help = plain(&argument.get_help().map(ToString::to_string).unwrap_or_default());
        text.push_str(&format!(".TP\n.B {}{value}\n{help}\n", names.join(", ")));
    }
    if let Some(examples) = command.get_after_help() {
        let examples = examples.to_string();
        let examples = examples.strip_prefix("Examples:\n").unwrap_or(&examples);
        text.push_str(".SH EXAMPLES\n.nf\n");
        for line in examples.lines() {
            text.push_str(&plain(line));
            text.push('\n');
        }
        text.push_str(".fi\n");
    }
    text
}

/// Text that roff shows as it is.
fn plain(text: &str) -> String {
    let mut ascii = String::new();
    for c in text.chars() {
        match c {
            '\\' => ascii.push_str("\\e"),
            '-' => ascii.push_str("\\-"),
            c if c.is_ascii() => ascii.push(c),
            c => ascii.push_str(&format!("\\[u{:04X}]", u32::from(c))),
        }
    }
    let guarded: Vec<String> = ascii
        .lines()
        .map(|line| {
            if line.starts_with(['.', '\'']) {
                format!("\\&{line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    guarded.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_options_and_examples() {
        let pages = pages("2026-11-23", "0.1.0");
        let page = |name: &str| {
            pages
                .iter()
                .find(|(file, _)| file == name)
                .map(|(_, text)| text.as_str())
                .unwrap_or_default()
        };
        let run = page("dunlin-run.1");
        for text in [
            ".TH DUNLIN-RUN 1",
            "\\-\\-memory\\-swap SIZE",
            ".SH EXAMPLES",
            "dunlin run \\-it",
            "[COMMAND...]",
            " IMAGE",
        ] {
            assert!(run.contains(text), "{text}: {run}");
        }
        assert!(page("dunlin-volume-ls.1").contains("\\-\\-filter KEY=VALUE"));
        assert!(page("dunlin.1").contains(".BR dunlin-doctor (1)"));
        for (file, text) in &pages {
            let wrong = text
                .lines()
                .find(|line| line.starts_with('\'') || line.contains("\\\\"));
            assert!(
                text.starts_with(".TH ") && text.contains(".SH NAME") && text.is_ascii() && wrong.is_none(),
                "{file}: {wrong:?}"
            );
        }
    }
}
