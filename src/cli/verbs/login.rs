//! login and logout.

use super::super::args::{LoginArgs, LogoutArgs};
use super::super::failure::{Failure, say};
use super::print;
use crate::engine::Engine;
use crate::engine::login::Login;
use crate::engine::pull::Reach;
use crate::sys::tty::{self, RawMode};
use crate::types::reference::Reference;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

/// Bytes of a password or user name: what registries give as tokens is far shorter.
const SECRET_BYTES: u64 = 64 << 10;

pub fn login(engine: &Engine, args: &LoginArgs) -> Result<u8, Failure> {
    let reach = Reach {
        authfile: args.authfile.clone(),
        cert_dir: args.cert_dir.clone(),
        tls_verify: args.tls_verify,
        ..Reach::default()
    };
    let key = key(engine, args.registry.as_deref())?;
    if args.password_stdin && args.password.is_some() {
        return Err(Failure::new("Can't specify both --password-stdin and --password"));
    }
    if args.password_stdin && args.username.is_none() {
        return Err(Failure::new("Must provide --username with --password-stdin"));
    }
    let before = engine.logged_in(&key, &reach)?;
    if args.get_login {
        let name = match before {
            Some(Login::Password { user, .. }) => user,
            Some(Login::Token) => "<token>".to_owned(),
            None => return Err(Failure::new(format!("not logged into {key}"))),
        };
        print(&format!("{}\n", super::super::table::printable(&name)))?;
        return Ok(0);
    }
    let asked = args.username.is_some() || args.password.is_some();
    if let (false, Some(Login::Password { user, password })) = (asked, &before) {
        print(&format!("Authenticating with existing credentials for {key}\n"))?;
        if engine.try_login(&key, user, password, &reach)? {
            print(&format!("Existing credentials are valid. Already logged in to {key}\n"))?;
            return Ok(0);
        }
        print("Existing credentials are invalid, please enter valid username and password\n")?;
    }
    let usual = match &before {
        Some(Login::Password { user, .. }) => Some(user.as_str()),
        _ => None,
    };
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask_name(usual)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => from_stdin()?,
        None => ask_password()?,
    };
    if !engine.try_login(&key, &user, &password, &reach)? {
        return Err(Failure::new(format!(
            "logging into \"{key}\": invalid username/password"
        )));
    }
    let place = engine.store_login(&key, &user, &password, &reach)?;
    if args.verbose {
        print(&format!("Used:  {place}\n"))?;
    }
    print("Login Succeeded!\n")?;
    Ok(0)
}

pub fn logout(engine: &Engine, args: &LogoutArgs) -> Result<u8, Failure> {
    let reach = Reach {
        authfile: args.authfile.clone(),
        ..Reach::default()
    };
    if args.all {
        engine.log_out_everywhere(&reach)?;
        print("Removed login credentials for all registries\n")?;
        return Ok(0);
    }
    let key = key(engine, args.registry.as_deref())?;
    match engine.log_out(&key, &reach) {
        Ok(()) => print(&format!("Removed login credentials for {key}\n"))?,
        // What is found nevertheless is in Docker's file.
        Err(_) if engine.logged_in(&key, &reach).is_ok_and(|found| found.is_some()) => print(&format!(
            "Not logged into {key} with current tool. Existing credentials were established via docker login. Please use \
             docker logout instead.\n"
        ))?,
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}

/// `HOST[:PORT][/PATH]` as auth.json names it.
fn key(engine: &Engine, typed: Option<&str>) -> Result<String, Failure> {
    let Some(typed) = typed else {
        let search = engine.registries()?.search().first().cloned();
        return search
            .ok_or_else(|| Failure::new("no registries found in registries.conf, a registry must be provided"));
    };
    let text = ["https://", "http://", "docker://"]
        .iter()
        .find_map(|scheme| typed.strip_prefix(scheme))
        .unwrap_or(typed)
        .trim_end_matches('/');
    let text = match text {
        "index.docker.io" | "index.docker.io/v1" | "registry-1.docker.io" => "docker.io",
        text => text,
    };
    let (host, path) = text.split_once('/').unwrap_or((text, "x"));
    match Reference::new(host, path, None, None) {
        Ok(reference) if reference.tag() == Some("latest") => Ok(text.to_owned()),
        _ => Err(Failure::new(format!(
            "`{typed}` is not a registry: write HOST[:PORT] or HOST[:PORT]/PATH, the host with a dot or a port"
        ))),
    }
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().lock().take(SECRET_BYTES).read_to_string(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks on the terminal.
fn ask_name(usual: Option<&str>) -> Result<String, Failure> {
    if !tty::is_terminal(io::stdin().as_fd()) {
        return Err(no_terminal());
    }
    let mut errors = io::stderr().lock();
    match usual {
        Some(usual) => write!(errors, "Username ({}): ", super::super::table::printable(usual))?,
        None => write!(errors, "Username: ")?,
    }
    errors.flush()?;
    let mut name = String::new();
    io::stdin().lock().take(SECRET_BYTES).read_line(&mut name)?;
    Ok(match (name.trim(), usual) {
        ("", Some(usual)) => usual.to_owned(),
        (name, _) => name.to_owned(),
    })
}

/// Asks on the terminal, which does not show what is typed.
fn ask_password() -> Result<String, Failure> {
    let input = io::stdin();
    if !tty::is_terminal(input.as_fd()) {
        return Err(no_terminal());
    }
    let mut errors = io::stderr().lock();
    write!(errors, "Password: ")?;
    errors.flush()?;
    drop(errors);
    let raw = RawMode::enter(input.as_fd())?;
    let typed = type_blind(&mut input.lock());
    drop(raw);
    say("");
    let typed = typed?.ok_or_else(|| Failure::with_code(130, ""))?;
    String::from_utf8(typed).map_err(|_| Failure::new("the password is not UTF-8"))
}

/// A line from a terminal that gives every key as it is typed; `None` when it was interrupted.
fn type_blind(input: &mut impl io::BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    for byte in input.bytes().take(SECRET_BYTES as usize) {
        match byte? {
            b'\r' | b'\n' => break,
            // Ctrl-C, Ctrl-D on an empty line, Ctrl-U, backspace.
            3 => return Ok(None),
            4 if line.is_empty() => return Ok(None),
            4 => {}
            21 => line.clear(),
            // A character may be several bytes.
            8 | 127 => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            other => line.push(other),
        }
    }
    Ok(Some(line))
}

fn no_terminal() -> Failure {
    Failure::new("there is no terminal to ask on: give --username, and the password with --password-stdin")
}

#[cfg(test)]
mod tests {
    use super::type_blind;

    #[test]
    fn a_password_can_be_corrected_and_given_up() {
        for (keys, want) in [
            ("secret\r", Some("secret")),
            ("a\x7fb\n", Some("b")),
            ("x\u{e4}\x7f\x7f\x7fy\n", Some("y")),
            ("wrong\x15right\r", Some("right")),
            ("half\x03", None),
            ("\x04", None),
            ("", Some("")),
        ] {
            let got = type_blind(&mut keys.as_bytes()).unwrap();
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{keys:?}");
        }
    }
}
