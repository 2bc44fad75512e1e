//! network ls, and the verbs about pods.

use super::super::args::{ListArgs, NetworkLsArgs, PodCreateArgs, PodInspectArgs, PodNamesArgs, PodPsArgs, PodRmArgs};
use super::super::compose;
use super::super::failure::Failure;
use super::super::inspect;
use super::super::listing::{Listing, json, render_object};
use super::super::time;
use super::pick::each;
use super::print;
use crate::engine::Engine;
use crate::engine::options::CreateOptions;
use crate::engine::pod::Pod;
use crate::types::digest::Digest;
use serde_json::{Value, json};

/// The networks that there are: name, podman's driver.
const NETWORKS: [(&str, &str); 3] = [("host", "host"), ("none", "none"), ("private", "pasta")];

pub fn network_ls(args: &NetworkLsArgs) -> Result<u8, Failure> {
    let filters = conditions(&args.list, &["name", "id", "driver"])?;
    let mut listing = Listing {
        columns: vec![("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver")],
        headers: &[],
        rows: Vec::new(),
        json: Vec::new(),
    };
    let mut names = String::new();
    for (name, driver) in NETWORKS {
        let id = Digest::of(name.as_bytes()).hex();
        let fits = |(key, value): &(&str, &str)| match *key {
            "name" => name.contains(value),
            "driver" => driver == *value,
            _ => id.starts_with(value),
        };
        if !filters.iter().all(fits) {
            continue;
        }
        names.push_str(name);
        names.push('\n');
        let shown = if args.list.no_trunc { &id[..] } else { &id[..12] };
        listing
            .rows
            .push(json!({"ID": shown, "Name": name, "Driver": driver, "Labels": ""}));
        listing.json.push(json!({
            "name": name,
            "id": id,
            "driver": driver,
            "ipv6_enabled": name == "private",
            "internal": name == "none",
            "dns_enabled": name == "private",
        }));
    }
    show(&args.list, &listing, &names)
}

/// `KEY=VALUE` with one of these keys.
fn conditions<'a>(list: &'a ListArgs, keys: &[&str]) -> Result<Vec<(&'a str, &'a str)>, Failure> {
    let one = |text: &'a String| match text.split_once('=') {
        Some((key, value)) if keys.contains(&key) => Ok((key, value)),
        _ => Err(Failure::new(format!(
            "--filter `{text}`: write KEY=VALUE with one of: {}",
            keys.join(", ")
        ))),
    };
    list.filter.iter().map(one).collect()
}

fn show(list: &ListArgs, listing: &Listing, quiet: &str) -> Result<u8, Failure> {
    match list.show.quiet {
        true => print(quiet)?,
        false => print(&listing.render(list.show.format.as_deref(), list.show.noheading)?)?,
    }
    Ok(0)
}

/// The wishes of `pod create`.
fn pod_options(args: &PodCreateArgs) -> Result<CreateOptions, Failure> {
    let net = compose::network(&args.net)?;
    if net.joins.is_some() {
        return Err(Failure::new(
            "--network: a pod has a network of its own, or the host's; leave container: out",
        ));
    }
    Ok(CreateOptions {
        name: args.name.clone(),
        hostname: args.hostname.as_deref().map(compose::hostname).transpose()?,
        network: net.network,
        wiring: net.wiring,
        labels: compose::key_values("--label", &args.label, false)?,
        extra_hosts: compose::extra_hosts(&args.net.add_host)?,
        ..CreateOptions::default()
    })
}

pub fn pod_create(engine: &Engine, args: &PodCreateArgs) -> Result<u8, Failure> {
    let id = engine.create_pod(&pod_options(args)?)?;
    print(&format!("{id}\n"))?;
    Ok(0)
}

pub fn pod_ps(engine: &Engine, args: &PodPsArgs) -> Result<u8, Failure> {
    let filters = conditions(&args.list, &["name", "id", "status"])?;
    let mut listing = Listing {
        columns: vec![
            ("POD ID", "ID"),
            ("NAME", "Name"),
            ("STATUS", "Status"),
            ("CREATED", "Created"),
            ("INFRA ID", "InfraID"),
            ("# OF CONTAINERS", "NumberOfContainers"),
        ],
        headers: &[],
        rows: Vec::new(),
        json: Vec::new(),
    };
    let (mut ids, now) = (String::new(), time::now());
    for pod in engine.pods()? {
        let record = &pod.infra.record;
        let (full, status) = (record.id.hex(), pod.status());
        let fits = |(key, value): &(&str, &str)| match *key {
            "name" => pod.name().contains(value),
            "status" => status.eq_ignore_ascii_case(value),
            _ => full.starts_with(value),
        };
        if !filters.iter().all(fits) {
            continue;
        }
        let id = if args.list.no_trunc {
            full.clone()
        } else {
            record.id.short()
        };
        ids.push_str(&id);
        ids.push('\n');
        listing.rows.push(json!({
            "ID": id,
            "InfraID": id,
            "Name": pod.name(),
            "Status": status,
            "Created": time::ago(record.created, now),
            "NumberOfContainers": 1 + pod.members.len(),
            "Networks": record.network_mode(),
        }));
        listing.json.push(json!({
            "Containers": containers(&pod, "Names", "Status"),
            "Created": time::rfc3339(Some(record.created)),
            "Id": full,
            "InfraId": full,
            "Name": pod.name(),
            "Networks": [record.network_mode()],
            "Status": status,
            "Labels": record.spec.labels,
        }));
    }
    show(&args.list, &listing, &ids)
}

fn containers(pod: &Pod, name: &str, state: &str) -> Vec<Value> {
    pod.all()
        .map(|view| json!({"Id": view.record.id.hex(), name: view.record.name, state: view.status.as_str()}))
        .collect()
}

pub fn pod_inspect(engine: &Engine, args: &PodInspectArgs) -> Result<u8, Failure> {
    let pod = engine.pod(&args.pod)?;
    let record = &pod.infra.record;
    let data = json!({
        "Id": record.id.hex(),
        "Name": pod.name(),
        "Created": time::rfc3339(Some(record.created)),
        "State": pod.status(),
        "Hostname": record.spec.hostname,
        "Labels": record.spec.labels,
        "CreateInfra": true,
        "InfraContainerID": record.id.hex(),
        "InfraConfig": {
            "PortBindings": inspect::bindings(&record.wiring.ports),
            "HostNetwork": record.network_mode() == "host",
            "DNSServer": record.wiring.dns,
            "DNSSearch": record.wiring.dns_search,
        },
        "SharedNamespaces": ["ipc", "net", "uts"],
        "NumContainers": 1 + pod.members.len(),
        "Containers": containers(&pod, "Name", "State"),
    });
    match &args.format {
        Some(format) => print(&render_object(&data, format)?)?,
        None => print(&json(&data))?,
    }
    Ok(0)
}

/// Which pods are meant.
fn meant(engine: &Engine, args: &PodNamesArgs) -> Result<Vec<String>, Failure> {
    if args.all {
        return Ok(engine.pods()?.iter().map(|pod| pod.infra.record.id.hex()).collect());
    }
    match args.pods.is_empty() {
        true => Err(Failure::new("you must provide at least one pod name or id")),
        false => Ok(args.pods.clone()),
    }
}

pub fn pod_start(engine: &Engine, args: &PodNamesArgs) -> Result<u8, Failure> {
    each(&meant(engine, args)?, false, |pod| {
        print(&format!("{}\n", engine.start_pod(pod)?))
    })
}

pub fn pod_stop(engine: &Engine, args: &PodNamesArgs) -> Result<u8, Failure> {
    each(&meant(engine, args)?, false, |pod| {
        print(&format!("{}\n", engine.stop_pod(pod, args.time)?))
    })
}

pub fn pod_rm(engine: &Engine, args: &PodRmArgs) -> Result<u8, Failure> {
    each(&meant(engine, &args.names)?, false, |pod| {
        print(&format!("{}\n", engine.remove_pod(pod, args.force, args.names.time)?))
    })
}
