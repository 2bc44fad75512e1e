//! Credential helpers: programs `docker-credential-NAME` that know passwords (docker-credential-helpers' protocol).

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::auth::Credential;
use crate::types::bounds::TOKEN_BYTES;

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
    let program = format!("docker-credential-{name}");
    let failed = |what: String| format!("the credential helper `{program}` {what}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let talking = async {
        if let Some(mut input) = child.stdin.take() {
            input.write_all(format!("{server}\n").as_bytes()).await?;
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
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| failed("gave an answer that is not valid".into()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken { token: answer.secret },
        _ => Credential::Basic {
            user: answer.username,
            password: answer.secret,
        },
    }))
}
