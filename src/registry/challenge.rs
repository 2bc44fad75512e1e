//! `WWW-Authenticate` (RFC 9110, section 11): how a registry wants to be convinced.

/// One challenge of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// What the token server calls the registry; may be empty.
        service: String,
    },
}

/// The challenges in one header that are understood, in order; others are left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        let word_end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if word.is_empty() {
            // Not a header of this grammar: what was understood so far counts.
            break;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        if let Some(value) = spaced.strip_prefix('=').filter(|value| !value.starts_with('='))
            && let Some((_, parameters)) = challenges.last_mut()
        {
            let Some((value, tail)) = value_of(value.trim_start_matches([' ', '\t'])) else {
                break;
            };
            parameters.push((word.to_ascii_lowercase(), value));
            rest = tail;
        } else {
            challenges.push((word.to_ascii_lowercase(), Vec::new()));
            rest = spaced;
            // A token68 (`Negotiate abc==`) is skipped.
            let next_end = rest.find([',', ' ', '\t']).unwrap_or(rest.len());
            let (next, beyond) = rest.split_at(next_end);
            let parameter = next.trim_end_matches('=').contains('=') || beyond.trim_start().starts_with('=');
            if !next.is_empty() && !parameter {
                rest = &rest[next_end..];
            }
        }
    }
    challenges
        .into_iter()
        .filter_map(|(scheme, parameters)| understand(&scheme, &parameters))
        .collect()
}

fn understand(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let parameter = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: parameter("realm")?,
            service: parameter("service").unwrap_or_default(),
        }),
        _ => None,
    }
}

/// A token or a quoted string, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
        }
    }

    #[test]
    fn challenges_of_the_common_registries_are_understood() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x/y:pull,push""#,
                vec![bearer("https://auth.docker.io/token", "registry.docker.io")],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"BEARER Realm = "https://a/t" , error="insufficient_scope""#,
                vec![bearer("https://a/t", "")],
            ),
            (
                r#"Basic realm="x", Bearer realm="https://a/t",service=s"#,
                vec![Challenge::Basic, bearer("https://a/t", "s")],
            ),
            (r#"Negotiate abc==, Basic realm="a,b\"c=d""#, vec![Challenge::Basic]),
            (
                r#"Negotiate, Bearer realm=https://a/t"#,
                vec![bearer("https://a/t", "")],
            ),
            ("Bearer service=x", vec![]),
            (r#"Bearer realm="unfinished"#, vec![]),
            ("", vec![]),
            (",,,", vec![]),
            ("=\"\" Basic", vec![]),
            ("Digest realm=x, nonce=y", vec![]),
            ("ä", vec![]),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
