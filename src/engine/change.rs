//! Changes to an image's configuration, in a Dockerfile's words: `CMD`, `ENV`, `LABEL`, …

use crate::types::read;
use serde_json::{Value, json};

/// Applies one instruction to the configuration of an image (its `config` object); the error says what is wrong with it.
pub fn apply(config: &mut Value, instruction: &str) -> Result<(), String> {
    let wrong = |why: &str| format!("--change `{instruction}`: {why}");
    let text = instruction.trim();
    let end = text.find([' ', '=']).unwrap_or(text.len());
    let word = text[..end].to_ascii_uppercase();
    let value = text[end..].trim_start_matches([' ', '=']).trim();
    if value.is_empty() {
        return Err(wrong("it says nothing"));
    }
    match word.as_str() {
        "CMD" | "ENTRYPOINT" => {
            let list: Vec<String> = match read::json(value.as_bytes()) {
                Ok(list) => list,
                Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()],
            };
            config[if word == "CMD" { "Cmd" } else { "Entrypoint" }] = json!(list);
        }
        "ENV" => {
            for (name, value) in pairs(value).ok_or_else(|| wrong("write ENV NAME=VALUE"))? {
                let entry = Value::String(format!("{name}={value}"));
                let mut list = config["Env"].as_array().cloned().unwrap_or_default();
                let same = |known: &&mut Value| known.as_str().and_then(|known| known.split('=').next()) == Some(&name);
                match list.iter_mut().find(same) {
                    Some(known) => *known = entry,
                    None => list.push(entry),
                }
                config["Env"] = Value::Array(list);
            }
        }
        "LABEL" => {
            for (name, value) in pairs(value).ok_or_else(|| wrong("write LABEL NAME=VALUE"))? {
                object(config, "Labels")[name] = value.into();
            }
        }
        "EXPOSE" => {
            for port in value.split_whitespace() {
                let port = match port.contains('/') {
                    true => port.to_owned(),
                    false => format!("{port}/tcp"),
                };
                object(config, "ExposedPorts")[port] = json!({});
            }
        }
        "VOLUME" => {
            let list: Vec<String> = match read::json(value.as_bytes()) {
                Ok(list) => list,
                Err(_) => value.split_whitespace().map(str::to_owned).collect(),
            };
            for path in list {
                object(config, "Volumes")[path] = json!({});
            }
        }
        "USER" => config["User"] = value.into(),
        "WORKDIR" => config["WorkingDir"] = value.into(),
        "STOPSIGNAL" => config["StopSignal"] = value.into(),
        "ONBUILD" => {
            let mut list = config["OnBuild"].as_array().cloned().unwrap_or_default();
            list.push(value.into());
            config["OnBuild"] = Value::Array(list);
        }
        _ => {
            return Err(wrong(
                "use CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR",
            ));
        }
    }
    Ok(())
}

fn object<'a>(config: &'a mut Value, key: &str) -> &'a mut Value {
    if !config[key].is_object() {
        config[key] = json!({});
    }
    &mut config[key]
}

/// `A=1 B="two words"`, or the old `A all the rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut words: Vec<String> = vec![String::new()];
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        let word = words.last_mut()?;
        match (c, quote) {
            ('\\', None | Some('"')) => word.extend(characters.next()),
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ' | '\t', None) if word.is_empty() => {}
            (' ' | '\t', None) => words.push(String::new()),
            (c, _) => word.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    if !words.first()?.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    words.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = json!({"Env": ["A=0", "B=1"]});
        for instruction in [
            r#"CMD ["a","b c"]"#,
            "entrypoint=run it",
            r#"ENV A=1 C="two words" D=x\ y"#,
            "ENV E all the rest",
            "LABEL x=y",
            "EXPOSE 80 53/udp",
            "VOLUME /data /more",
            "USER 1000:1000",
            "WORKDIR=/srv",
            "STOPSIGNAL INT",
        ] {
            apply(&mut config, instruction).unwrap();
        }
        let want = json!({
            "Cmd": ["a", "b c"],
            "Entrypoint": ["/bin/sh", "-c", "run it"],
            "Env": ["A=1", "B=1", "C=two words", "D=x y", "E=all the rest"],
            "Labels": {"x": "y"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}, "/more": {}},
            "User": "1000:1000",
            "WorkingDir": "/srv",
            "StopSignal": "INT",
        });
        assert_eq!(config, want);
        for bad in ["", "CMD", "RUN x", "ENV =x", "LABEL x"] {
            assert!(apply(&mut config, bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
