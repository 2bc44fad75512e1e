//! fleet command, fleet logs: what one device does at once.

use super::super::super::failure::say;
use super::super::super::table;
use super::{Call, Failure, print, span};
use crate::fleet::command::{Commander, Outcome, outcome};
use crate::types::text::is_name;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// The longest wait for a command's end.
const LONGEST_MS: u64 = 10 * 60_000;
/// How long a device sends a log before it is asked again, seconds.
const LEASE_S: u64 = 600;
/// It is asked again so long before that.
const RENEW: Duration = Duration::from_secs(LEASE_S - 60);
/// Lines that are sent again with a new lease, so that none is lost; those that were shown are left out.
const OVERLAP: &str = "1000";
/// Shortest time between two leases.
const PAUSE: Duration = Duration::from_secs(2);
/// After the end of a command its last lines may still be on their way.
const REST: Duration = Duration::from_millis(300);

/// `fleet command`.
pub fn command(call: &Call) -> Result<u8, Failure> {
    let verb = call.args.sure("VERB");
    if !is_name(verb) {
        return Err(Failure::new(format!("`{verb}` is no verb")));
    }
    let mut args = BTreeMap::new();
    for text in call.args.many("NAME=VALUE") {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::new(format!("`{text}`: write NAME=VALUE")));
        };
        args.insert(name.to_owned(), value.to_owned());
    }
    let longest = span(call.args, "timeout", LONGEST_MS)?;
    let operator = call.operator()?;
    let device = call.device()?;
    let link = call.link(&operator)?;
    // What metrics and logs send comes on topics of their own.
    let more = ["log/+".to_owned(), "metrics".to_owned()];
    let more = if matches!(verb, "logs" | "metrics") {
        &more[..]
    } else {
        &[]
    };
    let mut commander = Commander::new(&operator, link, &device, more, call.timeout)?;
    told_down(&commander, &device);
    let id = commander.send(verb, &args)?;
    let outcome = commander.wait(&id, longest, &mut |leaf, payload| {
        if leaf != "presence" {
            show(payload);
        }
    })?;
    commander.close();
    match outcome {
        Outcome::Done(output) => {
            if !output.is_empty() {
                print(&(printable(&output) + "\n"))?;
            }
            Ok(0)
        }
        Outcome::Not(why) => Err(Failure::with_code(
            1,
            format!("`d/{device}` {verb}: {}", printable(&why)),
        )),
        Outcome::Silent(how) => Err(Failure::with_code(1, format!("`d/{device}` {how}"))),
    }
}

fn told_down(commander: &Commander, device: &str) {
    if !commander.is_up() {
        say(&format!("`d/{device}` is not connected now"));
    }
}

/// Lines with no control characters in them.
fn printable(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(table::printable).collect();
    lines.join("\n")
}

fn show(payload: &[u8]) {
    let text = printable(&String::from_utf8_lossy(payload));
    // A reader that has gone away is noticed at the end.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// `fleet logs`.
pub fn logs(call: &Call) -> Result<u8, Failure> {
    let app = call.args.sure("APP");
    if !is_name(app) {
        return Err(Failure::new(format!("`{app}` is no app")));
    }
    let follow = call.args.has("follow");
    let tail = call.args.one("tail").unwrap_or("100");
    let operator = call.operator()?;
    let device = call.device()?;
    let link = call.link(&operator)?;
    let leaf = format!("log/{app}");
    let mut commander = Commander::new(&operator, link, &device, std::slice::from_ref(&leaf), call.timeout)?;
    told_down(&commander, &device);
    let lease = |tail: &str| -> BTreeMap<String, String> {
        let seconds = if follow { LEASE_S } else { 0 };
        let args = [
            ("app", app.to_owned()),
            ("tail", tail.to_owned()),
            ("seconds", seconds.to_string()),
            ("bytes", (8_u64 << 20).to_string()),
        ];
        args.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    };
    let mut shown = Shown::default();
    let mut id = commander.send("logs", &lease(tail))?;
    if !follow {
        let mut write = |leaf_of: &str, payload: &[u8]| {
            if leaf_of == leaf {
                shown.write(payload);
            }
        };
        let outcome = commander.wait(&id, call.timeout.max(Duration::from_secs(60)), &mut write)?;
        // Lines and answers are of different quality of service: the answer may overtake them.
        while let Some((other, heard, _)) = commander.next(REST)? {
            write(&other, &heard.payload);
        }
        commander.close();
        return match outcome {
            Outcome::Done(_) => Ok(0),
            Outcome::Not(why) => Err(Failure::with_code(1, format!("`d/{device}` logs: {}", printable(&why)))),
            Outcome::Silent(how) => Err(Failure::with_code(1, format!("`d/{device}` {how}"))),
        };
    }
    let mut asked = Instant::now();
    let mut ended = None;
    loop {
        let came = commander.next(Duration::from_secs(1))?;
        if let Some((other, heard, answer)) = came {
            if other == leaf {
                shown.write(&heard.payload);
            } else if answer["id"] == id.as_str() {
                match outcome(&answer) {
                    Some(Outcome::Not(why)) => {
                        return Err(Failure::with_code(1, format!("`d/{device}` logs: {}", printable(&why))));
                    }
                    // Its bytes are used up, or the device has another session.
                    Some(_) => ended = Some(Instant::now()),
                    None => {}
                }
            } else if other == "presence" && commander.is_up() {
                ended = Some(Instant::now());
            }
        }
        let again = ended.is_some() && asked.elapsed() > PAUSE || asked.elapsed() > RENEW;
        if again {
            id = commander.send("logs", &lease(OVERLAP))?;
            asked = Instant::now();
            ended = None;
        }
    }
}

/// What of a log was shown.
#[derive(Default)]
struct Shown {
    /// Time of the last line.
    last: String,
}

impl Shown {
    /// Writes lines `TIME STREAM TEXT` that are newer than the last one.
    fn write(&mut self, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        for line in text.lines() {
            let mut parts = line.splitn(3, ' ');
            let (time, stream, text) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
            let Some(time) = time.filter(|time| *time > self.last.as_str()) else {
                continue;
            };
            self.last = time.to_owned();
            let text = table::printable(text) + "\n";
            // Nobody is left to tell that the reader has gone; the next line ends it.
            let written = match stream {
                Some("stderr") => std::io::stderr().lock().write_all(text.as_bytes()),
                _ => std::io::stdout().lock().write_all(text.as_bytes()),
            };
            if written.is_err() {
                return;
            }
        }
    }
}
