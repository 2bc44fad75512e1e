//! `--detach-keys`: `ctrl-p,ctrl-q` → the bytes that a terminal sends for them.

/// Keys of one sequence at the most.
const KEYS_MAX: usize = 16;

/// The bytes of a sequence; none for an empty text. The error is the key that is none.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<u8> = text
        .split(',')
        .map(|key| one(key).ok_or_else(|| key.to_owned()))
        .collect::<Result<_, _>>()?;
    if keys.len() > KEYS_MAX {
        Err(text.to_owned())
    } else {
        Ok(keys)
    }
}

fn one(key: &str) -> Option<u8> {
    let bytes = key.as_bytes();
    match bytes {
        [letter] if letter.is_ascii_graphic() => Some(*letter),
        _ => match key.strip_prefix("ctrl-")?.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [b'@'] => Some(0),
            [b'['] => Some(27),
            [b'\\'] => Some(28),
            [b']'] => Some(29),
            [b'^'] => Some(30),
            [b'_'] => Some(31),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_become_bytes() {
        for (text, want) in [
            ("ctrl-p,ctrl-q", Ok(vec![16, 17])),
            ("a", Ok(vec![b'a'])),
            ("ctrl-a,x", Ok(vec![1, b'x'])),
            ("ctrl-[", Ok(vec![27])),
            ("", Ok(vec![])),
            ("ctrl-", Err("ctrl-".to_owned())),
            ("ctrl-A", Err("ctrl-A".to_owned())),
            ("shift-a", Err("shift-a".to_owned())),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }
}
