//! The house's rules: who may import whom, how long a file may be, where `unsafe` may stand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of code (blank lines, comments and test modules apart) that one file may have.
const FILE_LINES: usize = 600;

/// A storey and what it may import; the crate documentation draws the same picture.
const TABLE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &[]),
    ("disk", &["types", "sys"]),
    ("log", &[]),
    ("config", &["types", "disk", "log"]),
    ("plan", &["types"]),
    ("registry", &["types", "sys", "log", "config"]),
    ("store", &["types", "sys", "disk", "log"]),
    ("uplink", &["types", "sys", "disk", "log", "config"]),
    ("image", &["types", "sys", "disk", "log", "config", "registry", "store"]),
    ("runtime", &["types", "sys", "disk", "log"]),
    ("monitor", &["types", "sys", "disk", "log", "plan", "runtime"]),
    (
        "keeper",
        &["types", "sys", "disk", "log", "config", "runtime", "monitor"],
    ),
    (
        "engine",
        &[
            "types", "sys", "disk", "log", "config", "plan", "registry", "store", "image", "runtime", "monitor",
            "keeper",
        ],
    ),
    (
        "deploy",
        &[
            "types", "sys", "disk", "log", "config", "plan", "registry", "store", "image", "runtime", "monitor",
            "keeper", "engine",
        ],
    ),
    (
        "agent",
        &[
            "types", "sys", "disk", "log", "config", "plan", "registry", "store", "uplink", "image", "runtime",
            "monitor", "keeper", "engine", "deploy",
        ],
    ),
    ("fleet", &["types", "config", "plan", "registry", "uplink", "log"]),
    (
        "cli",
        &[
            "types", "sys", "disk", "log", "config", "plan", "registry", "store", "uplink", "image", "runtime",
            "monitor", "keeper", "engine", "deploy", "agent", "fleet",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    found.sort();
    assert!(found.len() > 20, "the sources were found");
    found
        .into_iter()
        .map(|p| (p.clone(), fs::read_to_string(p).unwrap()))
        .collect()
}

fn storey(path: &Path) -> Option<String> {
    let below = path.strip_prefix(root()).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.trim_end_matches(".rs");
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

/// Text without comments, strings' contents kept: good enough for names of modules.
fn code(text: &str) -> String {
    text.lines()
        .map(|l| l.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Production code: what stands before the first test module at the margin.
fn production(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => found.push(std::mem::take(&mut word)),
                    _ if depth == 1 => word.push(c),
                    _ => {}
                }
                if depth == 0 {
                    found.push(word);
                    break;
                }
            }
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
        .into_iter()
        .map(|w| w.trim().split("::").next().unwrap_or("").to_owned())
        .filter(|w| !w.is_empty())
        .collect()
}

#[test]
fn every_storey_imports_only_what_lies_below_it() {
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let Some(storey) = storey(&path) else { continue };
        let Some(allowed) = table.get(storey.as_str()) else {
            wrong.push(format!("{}: `{storey}` is not in the table", path.display()));
            continue;
        };
        for import in imports(production(&code(&text))) {
            let known = table.contains_key(import.as_str());
            if known && import != storey && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: `{storey}` imports `{import}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_itself_only_points_down() {
    for (at, (storey, allowed)) in TABLE.iter().enumerate() {
        for import in *allowed {
            let below = TABLE[..at].iter().any(|(name, _)| name == import);
            let beside = (*storey, *import) == ("config", "log");
            assert!(below || beside, "`{storey}` → `{import}`");
        }
    }
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let text = code(production(&text));
        let lines = text.lines().filter(|l| !l.trim().is_empty()).count();
        if lines > FILE_LINES {
            wrong.push(format!("{}: {lines} lines of code", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_in_sys_and_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let in_sys = storey(&path).is_some_and(|s| s == "sys");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let bare = line.split("//").next().unwrap_or("");
            let opens = bare.contains("unsafe {") || bare.contains("unsafe impl") || bare.contains("unsafe fn");
            if !opens || bare.contains('"') {
                continue;
            }
            let place = format!("{}:{}", path.display(), at + 1);
            if !in_sys {
                wrong.push(format!("{place}: unsafe outside of sys"));
            } else if !bare.contains("unsafe fn")
                && !lines[at.saturating_sub(8)..=at].iter().any(|l| l.contains("SAFETY:"))
            {
                wrong.push(format!("{place}: unsafe without its reason"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let wrong: Vec<String> = all()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn sources_hold_no_unfinished_marks() {
    let marks = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in all() {
        for mark in marks {
            if text.contains(mark) {
                wrong.push(format!("{}: {mark}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
