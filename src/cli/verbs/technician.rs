//! doctor, bundle and generate systemd.

use super::super::args::{BundleArgs, DoctorArgs, GenerateSystemdArgs, Global};
use super::super::failure::{Failure, say};
use super::super::listing::{json, wants_json};
use super::super::{table, time};
use super::print;
use crate::config::agent::SYSTEM_FILE;
use crate::disk::durable;
use crate::engine::Engine;
use crate::engine::doctor::{self, Finding, Grade};
use crate::engine::filter::Filter;
use crate::image::sink;
use crate::types::read;
use serde_json::{Value, json as object};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Exit code when something that is needed is missing.
const MISSING: u8 = 1;
/// Bytes of a bundle before it is packed.
const BUNDLE_BYTES: usize = 8 << 20;
/// Bytes of one file in it.
const PART_BYTES: u64 = 1 << 20;
/// How long one of its parts may take.
const PART_PATIENCE: Duration = Duration::from_secs(30);

pub fn doctor(place: super::super::owner::Place, args: &DoctorArgs) -> Result<u8, Failure> {
    let as_json = wants_json(args.format.as_deref())?;
    let board = place.settings.board()?;
    let facts = doctor::gather(&place.layout, &place.settings, &board, place.starter);
    let findings = doctor::judge(&facts, &board);
    if as_json {
        let rows = findings
            .iter()
            .map(|one| object!({"name": one.name, "grade": one.grade.as_str(), "text": one.text, "fix": one.fix}));
        print(&json(&Value::Array(rows.collect())))?;
    } else {
        print(&findings.iter().map(line).collect::<String>())?;
    }
    let gaps = findings.iter().filter(|one| one.grade == Grade::Gap).count();
    let notes = findings.iter().filter(|one| one.grade == Grade::Note).count();
    say(&format!("{} checks: {gaps} gaps, {notes} notes", findings.len()));
    Ok(if gaps == 0 { 0 } else { MISSING })
}

fn line(one: &Finding) -> String {
    let text = table::printable(&one.text);
    let mut line = format!("{:<5} {}: {text}\n", one.grade.as_str(), one.name);
    if !one.fix.is_empty() {
        line.push_str(&format!("      fix: {}\n", table::printable(&one.fix)));
    }
    line
}

/// Opens the file of a bundle, as the caller.
pub fn output(args: &BundleArgs) -> Result<File, Failure> {
    let path = match &args.output {
        Some(path) if path.as_os_str() == "-" => {
            let fd: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
            return Ok(fd.into());
        }
        Some(path) => path.clone(),
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host: String = host
                .trim()
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            PathBuf::from(format!("dunlin-bundle-{host}-{}.tar.gz", time::now().seconds()))
        }
    };
    // Logs may say what others must not read.
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let file = opened.map_err(|error| Failure::new(format!("`{}`: {error}", path.display())))?;
    if args.output.is_none() {
        say(&format!("Writing {}", path.display()));
    }
    Ok(file)
}

pub fn bundle(engine: &Engine, global: &Global, args: &BundleArgs, file: File) -> Result<u8, Failure> {
    let mut bundle = Bundle {
        out: flate2::write::GzEncoder::new(file, flate2::Compression::default()),
        left: BUNDLE_BYTES,
    };
    for path in HOST_FILES {
        bundle.host_file(path)?;
    }
    bundle.host_file(global.config.as_deref().and_then(Path::to_str).unwrap_or(SYSTEM_FILE))?;
    for words in VERBS {
        let verb: Vec<&str> = words.split(' ').take_while(|word| !word.starts_with('-')).collect();
        let name = format!("dunlin/{}.txt", verb.join("-"));
        bundle.add(&name, &own_verb(engine, global, words.split(' '))?)?;
    }
    for view in engine.list(&Filter::default(), time::now())? {
        let name = &view.record.name;
        let shown = own_verb(engine, global, ["inspect", "--type", "container", name].into_iter())?;
        let shown = match read::json_any(shown.as_bytes()) {
            Ok(mut value) => {
                hide(&mut value);
                json(&value)
            }
            Err(_) => shown,
        };
        bundle.add(&format!("containers/{name}/inspect.json"), &shown)?;
        if args.lines > 0 {
            let lines = args.lines.to_string();
            let words = ["logs", "-t", "--tail", &lines, name];
            bundle.add(
                &format!("containers/{name}/log.txt"),
                &own_verb(engine, global, words.into_iter())?,
            )?;
        }
    }
    bundle.finish()
}

/// What the host says of itself.
const HOST_FILES: [&str; 14] = [
    "/etc/os-release",
    "/etc/subuid",
    "/etc/subgid",
    "/proc/cmdline",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/self/cgroup",
    "/proc/pressure/memory",
    "/proc/pressure/io",
    "/proc/pressure/cpu",
    "/proc/diskstats",
];

/// What dunlin says.
const VERBS: [&str; 12] = [
    "version",
    "doctor",
    "info",
    "ps -a --no-trunc",
    "images --no-trunc",
    "volume ls",
    "stats --no-stream",
    "system df -v",
    "system check --quick",
    "app ls",
    "app history",
    "explain",
];

struct Bundle<W: Write> {
    out: flate2::write::GzEncoder<W>,
    left: usize,
}

impl<W: Write> Bundle<W> {
    fn host_file(&mut self, path: &str) -> Result<(), Failure> {
        let mut text = Vec::new();
        // What is not there or closed is not in it.
        if let Ok(file) = File::open(path)
            && file.take(PART_BYTES).read_to_end(&mut text).is_ok()
        {
            self.add(&format!("host{path}"), &String::from_utf8_lossy(&text))?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let text = without_secrets(text);
        let mut bytes = text.as_bytes();
        if bytes.len() > self.left {
            bytes = &bytes[..self.left];
        }
        self.left -= bytes.len();
        for part in sink::member(name, bytes) {
            self.out.write_all(&part)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<u8, Failure> {
        self.out.write_all(&[0; 1024])?;
        self.out.finish()?.flush()?;
        Ok(0)
    }
}

/// What a verb of dunlin prints, on this store; a failure is told in it.
fn own_verb<'a>(engine: &Engine, global: &Global, words: impl Iterator<Item = &'a str>) -> Result<String, Failure> {
    let layout = engine.layout();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--root")
        .arg(layout.data())
        .arg("--runroot")
        .arg(layout.run());
    if let Some(config) = &global.config {
        command.arg("--config").arg(config);
    }
    let (pipe, writer) = io::pipe()?;
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn()?;
    drop(command);
    let end = Instant::now() + PART_PATIENCE;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = (&pipe).take(PART_BYTES).read_to_end(&mut text);
        // The rest is not wanted, and must not hold whoever writes it.
        drop(pipe);
        read.map(|_| text)
    });
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Values of environment variables go; their names stay.
fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value {
                    Value::Array(entries) if key == "Env" => entries.iter_mut().for_each(|entry| {
                        if let Some((name, _)) = entry.as_str().and_then(|text| text.split_once('=')) {
                            *entry = format!("{name}={HIDDEN}").into();
                        }
                    }),
                    value => hide(value),
                }
            }
        }
        Value::Array(values) => {
            let mut secret = false;
            for value in values.iter_mut() {
                // `--password`, then what it is.
                let option = value
                    .as_str()
                    .map(str::to_ascii_lowercase)
                    .filter(|text| text.starts_with('-'));
                if secret && value.is_string() && option.is_none() {
                    *value = HIDDEN.into();
                }
                secret = option.is_some_and(|text| SECRETS.iter().any(|word| text.contains(word)));
                hide(value);
            }
        }
        _ => {}
    }
}

/// What stands for what is not told.
const HIDDEN: &str = "(hidden)";
/// Words after which a value is not told.
const SECRETS: [&str; 6] = ["password", "passwd", "secret", "token", "apikey", "private_key"];

/// Lines whose key is a secret's lose their value: `password = "x"`, `--token=x`, `"apiKey": "x"`.
fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        let value = SECRETS.iter().filter_map(|word| {
            let at = lower.find(word)?;
            let after = at + word.len();
            // What may stand between a key and its value; an option's value may be the next word.
            let rest = lower[after..].trim_start_matches(['"', '\'', ' ', '\t', 's']);
            let end = lower.len() - rest.len();
            let option = lower[..at]
                .rsplit(' ')
                .next()
                .is_some_and(|word| word.starts_with("--"));
            match rest.chars().next()? {
                '=' | ':' => Some(end + 1),
                _ if option && end > after => Some(end),
                _ => None,
            }
        });
        match value.min() {
            Some(at) if line[at..].trim().len() > 1 => {
                out.push_str(&line[..at]);
                out.push_str(HIDDEN);
                out.push('\n');
            }
            _ => out.push_str(line),
        }
    }
    out
}

pub fn generate_systemd(engine: &Engine, args: &GenerateSystemdArgs) -> Result<u8, Failure> {
    if args.new {
        return Err(Failure::new(
            "--new: a unit that makes its container is an app here: write an app document, or `dunlin app import FILE.container`",
        ));
    }
    let view = engine.inspect(&args.container)?;
    let (name, layout) = (&view.record.name, engine.layout());
    let seconds = args.time.unwrap_or(view.record.spec.stop_timeout);
    let program = std::env::current_exe()?;
    let dunlin = format!(
        "{} --root {} --runroot {}",
        program.display(),
        layout.data().display(),
        layout.run().display()
    );
    let policy = &args.restart_policy;
    let text = format!(
        "# container-{name}.service, made by `dunlin generate systemd`.\n\
         [Unit]\nDescription=dunlin container {name}\nAfter=dunlin-keeper.service\nRequiresMountsFor={root} {run}\n\n\
         [Service]\nType=exec\nRestart={policy}\nTimeoutStopSec={patience}\n\
         ExecStart={dunlin} start --attach --sig-proxy=false {name}\nExecStop={dunlin} stop --time {seconds} {name}\n\
         ExecStopPost={dunlin} stop --ignore --time {seconds} {name}\n\n\
         [Install]\nWantedBy=default.target\n",
        root = layout.data().display(),
        run = layout.run().display(),
        patience = u64::from(seconds) + 60,
    );
    if args.files {
        let path = std::env::current_dir()?.join(format!("container-{name}.service"));
        write_new(&path, &text)?;
        print(&format!("{}\n", path.display()))?;
    } else {
        print(&text)?;
    }
    Ok(0)
}

/// Whether a folder's file may be written anew.
pub fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    Ok(durable::write(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out() {
        for (text, want) in [
            (
                "password = \"x\"\nuser = \"me\"\n",
                "password =(hidden)\nuser = \"me\"\n",
            ),
            ("\"DB_PASSWORD\": \"x\",\n", "\"DB_PASSWORD\":(hidden)\n"),
            ("/bin/app --token=abc --port 1\n", "/bin/app --token=(hidden)\n"),
            ("/bin/app --token abc\n", "/bin/app --token (hidden)\n"),
            ("a token is no secret to anybody\n", "a token is no secret to anybody\n"),
            ("nothing\n", "nothing\n"),
        ] {
            assert_eq!(without_secrets(text), want, "{text}");
        }
        let mut value = object!([{"Config": {"Env": ["A=secret", "B"], "Cmd": ["x", "--token", "abc", "y"]}}]);
        hide(&mut value);
        assert_eq!(
            value,
            object!([{"Config": {"Env": ["A=(hidden)", "B"], "Cmd": ["x", "--token", "(hidden)", "y"]}}])
        );
    }
}
