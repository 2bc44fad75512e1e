//! Quadlet's `.container` and `.volume` files as app documents. What an app document has no word for is an error, all of them at
//! once.

use crate::types::app::App;
use crate::types::read;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A file as typed: its stem and its text.
pub struct Unit<'a> {
    /// `web` of `web.container`.
    pub stem: &'a str,
    /// What is in it.
    pub text: &'a str,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// The document.
    pub toml: String,
    /// What has no counterpart, one line each.
    pub problems: Vec<String>,
}

/// Names of volumes by the names of their `.volume` units.
pub fn volume_names(units: &[Unit]) -> Result<BTreeMap<String, String>, String> {
    let mut names = BTreeMap::new();
    for unit in units {
        let mut name = format!("systemd-{}", unit.stem);
        for (section, key, value) in entries(unit.text)? {
            match (section.as_str(), key.as_str()) {
                ("Volume", "VolumeName") => name = value,
                ("Volume", "Label") | ("Unit" | "Install" | "Service", _) => {}
                (_, key) => return Err(format!("{}.volume: `{key}` has no counterpart", unit.stem)),
            }
        }
        names.insert(format!("{}.volume", unit.stem), name);
    }
    Ok(names)
}

/// Sections, keys and values, lines that go on joined.
fn entries(text: &str) -> Result<Vec<(String, String, String)>, String> {
    let mut all = Vec::new();
    let mut section = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        while let Some(begun) = line.strip_suffix('\\') {
            let next = lines.next().map_or("", |(_, next)| next.trim());
            line = format!("{} {next}", begun.trim_end());
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {}: `{line}` is neither a section nor KEY=VALUE", number + 1))?;
        all.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(all)
}

/// Words as systemd splits them: by blanks, with quotes and backslashes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(chars.next()),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed in `{text}`"));
    }
    words.extend(word);
    Ok(words)
}

/// What the keys of a `.container` file add up to.
#[derive(Default)]
struct Parts {
    name: String,
    plain: Vec<(&'static str, String)>,
    lists: BTreeMap<&'static str, Vec<String>>,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    limits: Vec<(&'static str, String)>,
    health: Vec<(&'static str, String)>,
    restart: Option<&'static str>,
    auto: bool,
    problems: Vec<String>,
}

/// The app document of a `.container` file.
pub fn import(unit: &Unit, volumes: &BTreeMap<String, String>) -> Result<Import, String> {
    let mut parts = Parts {
        name: unit.stem.to_owned(),
        ..Parts::default()
    };
    for (section, key, value) in entries(unit.text)? {
        if value.replace("%%", "").contains('%') {
            parts.problems.push(format!(
                "{section}.{key}: specifiers such as `%h` mean nothing here: `{value}`"
            ));
            continue;
        }
        let value = value.replace("%%", "%");
        if let Err(problem) = parts.take(&section, &key, &value, volumes) {
            parts.problems.push(format!("{section}.{key}: {problem}"));
        }
    }
    Ok(parts.finish())
}

impl Parts {
    fn take(
        &mut self,
        section: &str,
        key: &str,
        value: &str,
        volumes: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        match (section, key) {
            ("Container", key) => self.container(key, value, volumes)?,
            ("Service", "Restart") => {
                self.restart = Some(match value {
                    "no" => "no",
                    "always" | "on-success" => "always",
                    "on-failure" | "on-abnormal" | "on-abort" | "on-watchdog" => "on-failure",
                    _ => return Err(format!("`{value}` is not known")),
                });
            }
            ("Unit", "Requires" | "Wants" | "BindsTo" | "After") => {
                for name in words(value)? {
                    let Some(name) = name.strip_suffix(".service").filter(|_| !name.contains('@')) else {
                        continue;
                    };
                    let list = self.lists.entry("depends_on").or_default();
                    if !list.iter().any(|known| known == name) {
                        list.push(name.to_owned());
                    }
                }
            }
            // How and when systemd starts it: the agent does that.
            ("Unit" | "Install", _) => {}
            (
                "Service",
                "TimeoutStartSec" | "TimeoutStopSec" | "RestartSec" | "StartLimitBurst" | "StartLimitIntervalSec",
            ) => {}
            _ => return Err("has no counterpart in an app document".to_owned()),
        }
        Ok(())
    }

    fn container(&mut self, key: &str, value: &str, volumes: &BTreeMap<String, String>) -> Result<(), String> {
        let mut list = |key: &'static str, values: Vec<String>| self.lists.entry(key).or_default().extend(values);
        match key {
            "Image" if value.ends_with(".image") || value.ends_with(".build") => {
                return Err("name the image itself".to_owned());
            }
            "Image" => self.plain.push(("image", value.to_owned())),
            "ContainerName" => self.name = value.to_owned(),
            "Exec" => list("command", words(value)?),
            "Entrypoint" => list("entrypoint", words(value)?),
            "Environment" => pairs(value, &mut self.env)?,
            "Label" => pairs(value, &mut self.labels)?,
            "EnvironmentFile" => list("env_file", vec![value.to_owned()]),
            "User" => self.plain.push(("user", value.to_owned())),
            "WorkingDir" => self.plain.push(("workdir", value.to_owned())),
            "HostName" => self.plain.push(("hostname", value.to_owned())),
            "Volume" => {
                let (source, rest) = value.split_once(':').ok_or("write SOURCE:PATH")?;
                let source = match source.strip_suffix(".volume") {
                    Some(stem) => volumes
                        .get(source)
                        .cloned()
                        .unwrap_or_else(|| format!("systemd-{stem}")),
                    None => source.to_owned(),
                };
                let (path, options) = rest.split_once(':').unwrap_or((rest, ""));
                let mut kept = String::new();
                for option in options.split(',').filter(|option| !option.is_empty()) {
                    match option {
                        "ro" => kept = ":ro".to_owned(),
                        "rw" | "z" | "Z" => {}
                        _ => return Err(format!("option `{option}` has no counterpart")),
                    }
                }
                list("volumes", vec![format!("{source}:{path}{kept}")]);
            }
            "Tmpfs" => list("tmpfs", vec![value.split(':').next().unwrap_or(value).to_owned()]),
            "PublishPort" => list("ports", vec![value.to_owned()]),
            "AddDevice" => list("devices", vec![value.trim_start_matches('-').to_owned()]),
            "Secret" => {
                let name = value.split(',').next().unwrap_or(value);
                list("secrets", vec![name.to_owned()]);
                if name != value {
                    return Err("a secret is a file below /run/secrets, without options".to_owned());
                }
            }
            "Network" => match value {
                "none" | "host" => self.plain.push(("network", value.to_owned())),
                "pasta" | "slirp4netns" | "bridge" | "private" => self.plain.push(("network", "private".to_owned())),
                _ => return Err(format!("network `{value}` has no counterpart")),
            },
            "ReadOnly" => self.plain.push(("read_only", boolean(value)?.to_string())),
            "AutoUpdate" => match value {
                "registry" => self.auto = true,
                _ => return Err("only `registry`".to_owned()),
            },
            "PidsLimit" => self.limits.push(("pids", number(value)?)),
            "Memory" => self.limits.push(("memory", quoted(value))),
            "HealthCmd" if value == "none" => return Err("leave it out: nothing else makes a health check".to_owned()),
            "HealthCmd" => {
                let command = match read::json::<Vec<String>>(value.as_bytes()) {
                    Ok(list) => list,
                    Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()],
                };
                self.health.push(("exec", array(&command)));
            }
            "HealthInterval" => self.health.push(("interval", quoted(value))),
            "HealthTimeout" => self.health.push(("timeout", quoted(value))),
            "HealthStartPeriod" => self.health.push(("start_period", quoted(value))),
            "HealthRetries" => self.health.push(("failures", number(value)?)),
            "NoNewPrivileges" if boolean(value) == Ok(true) => {}
            "Pull" | "Notify" if value == "missing" || value == "false" => {}
            "PodmanArgs" => return self.podman_args(value),
            _ => return Err("has no counterpart in an app document".to_owned()),
        }
        Ok(())
    }

    fn podman_args(&mut self, value: &str) -> Result<(), String> {
        let mut words = words(value)?.into_iter();
        while let Some(word) = words.next() {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), value.to_owned()),
                None => (word, words.next().unwrap_or_default()),
            };
            match flag.as_str() {
                "--memory" | "-m" => self.limits.push(("memory", quoted(&value))),
                "--cpus" => self.limits.push(("cpu", quoted(&value))),
                "--pids-limit" => self.limits.push(("pids", number(&value)?)),
                _ => return Err(format!("`{flag}` has no counterpart")),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Import {
        let mut toml = format!("name = {}\n", quoted(&self.name));
        let mut line = |key: &str, value: &str| {
            // Writing to a text cannot fail.
            let _ = writeln!(toml, "{key} = {value}");
        };
        for (key, value) in &self.plain {
            match *key {
                "read_only" => line(key, value),
                _ => line(key, &quoted(value)),
            }
        }
        for (key, values) in &self.lists {
            line(key, &array(values));
        }
        for (key, map) in [("env", &self.env), ("labels", &self.labels)] {
            if !map.is_empty() {
                let pairs: Vec<String> = map
                    .iter()
                    .map(|(k, v)| format!("{} = {}", quoted(k), quoted(v)))
                    .collect();
                line(key, &format!("{{ {} }}", pairs.join(", ")));
            }
        }
        if let Some(policy) = self.restart {
            line("restart", &format!("{{ policy = {} }}", quoted(policy)));
        }
        for (key, table) in [("limits", &self.limits), ("health", &self.health)] {
            if !table.is_empty() {
                let pairs: Vec<String> = table.iter().map(|(k, v)| format!("{k} = {v}")).collect();
                line(key, &format!("{{ {} }}", pairs.join(", ")));
            }
        }
        if self.auto {
            line("update", "{ auto = true }");
        }
        match read::toml::<App>(&toml) {
            Ok(app) => {
                let mut found = Vec::new();
                app.problems("", false, &mut found);
                self.problems.extend(found.iter().map(ToString::to_string));
            }
            Err(error) => self.problems.push(error.to_string()),
        }
        Import {
            toml,
            problems: self.problems,
        }
    }
}

fn pairs(value: &str, map: &mut BTreeMap<String, String>) -> Result<(), String> {
    for word in words(value)? {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("`{word}`: write NAME=VALUE"))?;
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(())
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "1" | "yes" | "true" | "on" => Ok(true),
        "0" | "no" | "false" | "off" => Ok(false),
        _ => Err(format!("`{value}` is neither yes nor no")),
    }
}

fn number(value: &str) -> Result<String, String> {
    let number: u32 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
    Ok(number.to_string())
}

/// A TOML text.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                // The same.
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn array(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    format!("[{}]", values.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(text: &str) -> Import {
        let names = volume_names(&[Unit {
            stem: "kept",
            text: "[Volume]\nVolumeName=keep\n",
        }]);
        import(&Unit { stem: "web", text }, &names.unwrap()).unwrap()
    }

    #[test]
    fn a_usual_file_is_an_app_document() {
        let text = "# comment\n[Unit]\nDescription=A web server\nRequires=db.service\nAfter=db.service network-online.target\n\
                    [Container]\nImage=registry.example/web:1\nExec=/bin/server --name \"a b\" \\\n  --last\nEnvironment=A=1 \"B=two words\"\n\
                    Environment=C=50%%\nVolume=data.volume:/var/lib/web\nVolume=kept.volume:/keep:ro,Z\nVolume=/etc/web:/etc/web:ro\n\
                    PublishPort=8080:80\nReadOnly=yes\nUser=1000\nHealthCmd=curl -f localhost\nHealthInterval=10s\nHealthRetries=2\n\
                    AutoUpdate=registry\nPodmanArgs=--memory=64m --cpus 0.5\nLabel=a=b\n[Service]\nRestart=on-failure\nTimeoutStartSec=90\n\
                    [Install]\nWantedBy=default.target\n";
        let made = of(text);
        assert_eq!(made.problems, Vec::<String>::new(), "{}", made.toml);
        let app: App = read::toml(&made.toml).unwrap();
        assert_eq!(
            (app.name.as_str(), app.image.as_str()),
            ("web", "registry.example/web:1")
        );
        assert_eq!(app.command.unwrap(), ["/bin/server", "--name", "a b", "--last"]);
        assert_eq!((app.env["B"].as_str(), app.env["C"].as_str()), ("two words", "50%"));
        assert_eq!(
            app.volumes,
            ["systemd-data:/var/lib/web", "keep:/keep:ro", "/etc/web:/etc/web:ro"]
        );
        assert_eq!(app.depends_on, ["db"]);
        assert_eq!(
            app.health.unwrap().exec.unwrap(),
            ["/bin/sh", "-c", "curl -f localhost"]
        );
        assert!(app.read_only && app.update.auto && app.limits.memory.is_some() && app.limits.cpu.is_some());
    }

    #[test]
    fn what_has_no_counterpart_is_told_all_at_once() {
        let made = of(
            "[Container]\nImage=a.image\nVolume=%h/x:/x\nAddCapability=NET_ADMIN\nNetwork=my.network\n[Pod]\nX=y\n[Service]\nExecStartPre=/x\n",
        );
        let all = made.problems.join("\n");
        for text in [
            "Container.Image",
            "Container.Volume",
            "AddCapability",
            "my.network",
            "Pod.X",
            "ExecStartPre",
            "image",
        ] {
            assert!(all.contains(text), "{text}: {all}");
        }
        assert!(
            import(
                &Unit {
                    stem: "x",
                    text: "nonsense"
                },
                &BTreeMap::new()
            )
            .is_err()
        );
        assert!(
            of("[Container]\nExec=\"open\n")
                .problems
                .iter()
                .any(|one| one.contains("quote"))
        );
    }

    #[test]
    fn words_are_split_as_systemd_does() {
        for (text, want) in [
            ("a b", &["a", "b"][..]),
            ("  a   'b c' ", &["a", "b c"]),
            ("a\\ b \"\"", &["a b", ""]),
            ("x\"y z\"w", &["xy zw"]),
            ("", &[]),
        ] {
            assert_eq!(words(text).unwrap(), want, "{text}");
        }
    }
}
