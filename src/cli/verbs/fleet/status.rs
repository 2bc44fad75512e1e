//! fleet status, fleet explain: what the broker's retained messages say.

use super::super::super::listing::Listing;
use super::super::super::{table, time};
use super::{Call, Failure, print};
use crate::fleet::Target;
use crate::fleet::seen::{self, Device, LEAVES, Seen};
use crate::types::time::Unix;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// `fleet status`.
pub fn status(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let target = call.args.one("TARGET").map(Target::parse).transpose()?;
    let leaves: &[&str] = match &target {
        Some(Target::Group(_)) => &["presence", "caps", "reported", "deploy", "assign"],
        _ => &["presence", "caps", "reported", "deploy"],
    };
    let mut link = call.link(&operator)?;
    link.subscribe(seen::filters(target.as_ref(), leaves, &call.exact));
    let mut known = Seen {
        enrolled: operator.enrolled.clone(),
        ..Seen::default()
    };
    known.gather(&mut link, &operator.trusted, call.timeout)?;
    link.close();
    let source = target.as_ref().map(Target::audience);
    let in_group = |device: &Device, target: &Target| match target {
        Target::Device(_) => false,
        // Where assignments may not be read, what devices report of themselves has to do.
        Target::Group(_) => [&device.reported, &device.deploy]
            .iter()
            .any(|v| v["source"].as_str() == source.as_deref()),
    };
    let members: BTreeSet<&String> = target
        .iter()
        .flat_map(|t| known.members(t))
        .map(|(name, _)| name)
        .collect();
    let shown = known.devices.iter().filter(|(name, device)| match &target {
        None => true,
        Some(target) => members.contains(name) || in_group(device, target),
    });
    let json: Vec<Value> = shown.map(|(name, device)| seen::row(name, device)).collect();
    let now = time::now();
    let listing = Listing {
        columns: vec![
            ("DEVICE", "Device"),
            ("UP", "Up"),
            ("AGENT", "Agent"),
            ("GENERATION", "Generation"),
            ("STATE", "State"),
            ("SINCE", "Since"),
            ("REASON", "Reason"),
            ("APPS", "Apps"),
        ],
        headers: &[],
        rows: json.iter().map(|row| plain(row, now)).collect(),
        json,
    };
    print(&listing.render(call.args.one("format"), false)?)?;
    Ok(0)
}

/// A row whose cells are for people: what devices say may be anything.
fn plain(row: &Value, now: Unix) -> Value {
    let apps = row["Apps"].as_array().into_iter().flatten();
    let apps: Vec<String> = apps
        .map(|app| {
            let word = |name: &str| app[name].as_str().unwrap_or("?");
            match word("Health") {
                "none" => format!("{}={}", word("Name"), word("Status")),
                health => format!("{}={health}", word("Name")),
            }
        })
        .collect();
    let mut plain = row.clone();
    let mut set = |name: &str, text: String| plain[name] = json!(table::printable(&text));
    for name in ["Agent", "State", "Reason", "Source", "Activity", "Platform", "Board"] {
        set(name, row[name].as_str().unwrap_or_default().to_owned());
    }
    if !seen::words(&row["Unverified"]).is_empty() {
        set("State", "unverified".into());
    }
    set("Apps", apps.join(","));
    set(
        "Generation",
        row["Generation"].as_u64().map(|n| n.to_string()).unwrap_or_default(),
    );
    set(
        "Since",
        row["Since"]
            .as_u64()
            .map(|at| time::ago(Unix(at), now))
            .unwrap_or_default(),
    );
    plain
}

/// `fleet explain`.
pub fn explain(call: &Call) -> Result<u8, Failure> {
    let operator = call.operator()?;
    let name = call.device()?;
    let target = Target::Device(name.clone());
    let mut link = call.link(&operator)?;
    link.subscribe(seen::filters(Some(&target), &LEAVES, &[]));
    let mut known = Seen {
        enrolled: operator.enrolled.clone(),
        ..Seen::default()
    };
    known.gather(&mut link, &operator.trusted, call.timeout)?;
    let groups = known.devices.get(&name).map(Device::groups).unwrap_or_default();
    if !groups.is_empty() {
        link.subscribe(groups.iter().map(|group| format!("g/{group}/desired")));
        known.gather(&mut link, &operator.trusted, call.timeout)?;
    }
    link.close();
    let Some(device) = known.devices.get(&name) else {
        return Err(Failure::new(format!("the broker knows nothing of `d/{name}`")));
    };
    print(&told(&name, device, &known, time::now()))?;
    Ok(0)
}

fn told(name: &str, device: &Device, known: &Seen, now: Unix) -> String {
    let row = plain(&seen::row(name, device), now);
    let cell = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let mut lines: Vec<(&str, String)> = Vec::new();
    let presence = match (device.presence.is_null(), device.is_up()) {
        (true, _) => "never seen".into(),
        (_, true) => format!("up, agent {}", cell("Agent")),
        (_, false) => format!("not connected, agent {}", cell("Agent")),
    };
    lines.push(("presence", presence));
    let board = [cell("Board"), cell("Platform")].join(" ");
    lines.push(("hardware", board.trim().to_owned()));
    let groups = device.groups();
    let assigned = match &device.assign {
        None => "nothing".into(),
        Some(assign) if assign.distrust.is_some() => "by somebody whose key is not known".into(),
        Some(_) if device.is_retired() => "retired".into(),
        Some(_) if groups.is_empty() => "no group".into(),
        Some(_) => groups.join(", "),
    };
    lines.push(("assigned", assigned));
    let own = Target::Device(name.to_owned());
    let sources = [own].into_iter().chain(groups.iter().cloned().map(Target::Group));
    let mut wanted = None;
    for source in sources {
        let Some(document) = known.document(&source) else {
            continue;
        };
        let effective = wanted.is_none() && document.value["defer"] != true;
        let mut text = format!("{}, generation {}", source.audience(), document.generation());
        if let Some(rollout) = document.value["rollout"].as_object() {
            text += &format!(
                ", {} %",
                rollout.get("percent").and_then(Value::as_f64).unwrap_or(100.0)
            );
            if rollout.get("halted") == Some(&Value::Bool(true)) {
                text += ", halted";
            }
            let part = document
                .desired()
                .ok()
                .and_then(|d| d.rollout)
                .map(|r| device.takes_part(name, &r));
            if part == Some(false) {
                text += ", does not take part yet";
            }
        }
        if document.distrust.is_some() {
            text += ", signed by nobody who is known";
        } else if effective {
            wanted = Some((source.audience(), document.generation()));
            text += ", counts";
        }
        lines.push(("told", text));
    }
    let reported = (cell("Source"), device.reported["generation"].as_u64().unwrap_or(0));
    lines.push((
        "reports",
        format!("{}, generation {}, {}", reported.0, reported.1, cell("Freshness")),
    ));
    if let Some(wanted) = wanted.filter(|wanted| *wanted != reported) {
        lines.push((
            "behind",
            format!("has not taken {} generation {} yet", wanted.0, wanted.1),
        ));
    }
    if !cell("State").is_empty() {
        let why = match cell("Reason") {
            reason if reason.is_empty() => String::new(),
            reason => format!(": {reason}"),
        };
        lines.push(("update", format!("{} since {}{why}", cell("State"), cell("Since"))));
    }
    for (reason, count) in device.reported["refused"].as_object().into_iter().flatten() {
        lines.push(("refused", format!("{count} documents: {reason}")));
    }
    lines.push(("apps", cell("Apps")));
    let mut text = format!("{name}\n");
    for (word, line) in lines {
        text += &format!("  {word:<10}  {}\n", table::printable(&line));
    }
    text
}
