//! Credential helpers: programs `docker-credential-NAME` that know passwords (docker-credential-helpers' protocol).

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::auth::Credential;
use crate::types::bounds::TOKEN_BYTES;
use crate::types::read;

/// How long a helper may think.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// The credential that helper `name` has for `server`; `None` where it has none. `Err` says what went wrong, without secrets.
pub(crate) async fn ask(name: &str, server: &str) -> Result<Option<Credential>, String> {
    run(&format!("docker-credential-{name}"), server).await
}

/// Gives a credential to helper `name`.
pub(crate) async fn store(name: &str, server: &str, user: &str, password: &str) -> Result<(), String> {
    let entry = serde_json::json!({"ServerURL": server, "Username": user, "Secret": password});
    talk(&format!("docker-credential-{name}"), "store", &entry.to_string())
        .await?
        .map(drop)
        .ok_or_else(|| format!("the credential helper `docker-credential-{name}` did not store the credential"))
}

/// Makes helper `name` forget the credential for `server`; `false` where it had none.
pub(crate) async fn erase(name: &str, server: &str) -> Result<bool, String> {
    Ok(talk(&format!("docker-credential-{name}"), "erase", server)
        .await?
        .is_some())
}

async fn run(program: &str, server: &str) -> Result<Option<Credential>, String> {
    let Some(text) = talk(program, "get", server).await? else {
        return Ok(None);
    };
    let answer: Answer =
        read::json(&text).map_err(|_| format!("the credential helper `{program}` gave an answer that is not valid"))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken { token: answer.secret },
        _ => Credential::Basic {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

/// What a helper answers to a line; `None` where it says that it has no such credential.
async fn talk(program: &str, action: &str, line: &str) -> Result<Option<Vec<u8>>, String> {
    let failed = |what: String| format!("the credential helper `{program}` {what}");
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let talking = async {
        if let Some(mut input) = child.stdin.take() {
            match input.write_all(format!("{line}\n").as_bytes()).await {
                // It may answer without asking which server is meant.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                other => other?,
            }
        }
        let mut text = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(TOKEN_BYTES as u64).read_to_end(&mut text).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, text))
    };
    let (status, text) = match timeout(PATIENCE, talking).await {
        Err(_) => return Err(failed(format!("took longer than {} s", PATIENCE.as_secs()))),
        Ok(Err(error)) => return Err(failed(format!("failed: {error}"))),
        Ok(Ok(done)) => done,
    };
    if !status.success() {
        let missing = String::from_utf8_lossy(&text).contains("credentials not found");
        return if missing {
            Ok(None)
        } else {
            Err(failed(format!("failed: {status}")))
        };
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn helpers_answer_lack_and_fail() {
        let folder = std::env::temp_dir().join(format!("dunlin-helper-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let basic = |user: &str| {
            Ok(Some(Credential::Basic {
                user: user.into(),
                password: "p".into(),
            }))
        };
        for (number, (script, expected)) in [
            (
                r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"$1-$s\",\"Secret\":\"p\"}""#,
                basic("get-reg.example"),
            ),
            (
                r#"echo '{"Username":"<token>","Secret":"t"}'"#,
                Ok(Some(Credential::IdentityToken { token: "t".into() })),
            ),
            ("echo 'credentials not found in native keychain'; exit 1", Ok(None)),
            ("echo secret; exit 2", Err("exit status: 2")),
            ("echo secret", Err("not valid")),
        ]
        .into_iter()
        .enumerate()
        {
            let program = folder.join(format!("helper{number}"));
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let got = runtime.block_on(run(program.to_str().unwrap(), "reg.example"));
            match expected {
                Ok(expected) => assert_eq!(got, Ok(expected), "{script}"),
                Err(word) => {
                    let text = got.unwrap_err();
                    assert!(text.contains(word) && !text.contains("secret"), "{text}");
                }
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
