//! The HTTP side of a health probe: the request, and what the first bytes of an answer say.

/// What is known of an answer so far (RFC 9112, status line and header section).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Not enough yet.
    More,
    /// The status is known; the header section, or the body, is not complete.
    Status(u16),
    /// The header section and as much of the body as is wanted are there.
    Whole(u16),
    /// Not HTTP.
    Malformed,
}

/// Bytes of a status line at the most.
const STATUS_LINE: usize = 512;

/// The request that a probe sends.
pub fn request(port: u16, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: dunlin/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes()
}

/// Reads what came so far; informational answers (1xx) are skipped. `wanted` bytes of body are enough.
pub fn read(bytes: &[u8], wanted: usize) -> Answer {
    let mut rest = bytes;
    loop {
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            let plausible = rest.len() < STATUS_LINE && b"HTTP/1.".iter().zip(rest).all(|(want, got)| want == got);
            return if plausible { Answer::More } else { Answer::Malformed };
        };
        let Some(status) = status(&rest[..end]) else {
            return Answer::Malformed;
        };
        let header = &rest[end + 1..];
        let body = body_start(header);
        match (status, body) {
            (100..200, Some(body)) if status != 101 => rest = &header[body..],
            (100..200, None) if status != 101 => return Answer::More,
            (_, None) => return Answer::Status(status),
            (_, Some(body)) => {
                let length = content_length(&header[..body]).unwrap_or(usize::MAX);
                let bodiless = matches!(status, 101 | 204 | 304);
                let whole = bodiless || header.len() - body >= length.min(wanted);
                return if whole {
                    Answer::Whole(status)
                } else {
                    Answer::Status(status)
                };
            }
        }
    }
}

/// The first line as text, for the probe's record.
pub fn status_line(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    &bytes[..end.min(STATUS_LINE)]
}

fn status(line: &[u8]) -> Option<u16> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let rest = line.strip_prefix(b"HTTP/1.")?;
    match rest {
        [b'0' | b'1', b' ', a, b, c] | [b'0' | b'1', b' ', a, b, c, b' ', ..]
            if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) && line.len() < STATUS_LINE =>
        {
            let number = [a, b, c]
                .iter()
                .fold(0, |number, digit| number * 10 + u16::from(**digit - b'0'));
            (number >= 100).then_some(number)
        }
        _ => None,
    }
}

/// Where the body begins behind the empty line.
fn body_start(header: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + header[at..].iter().position(|byte| *byte == b'\n')?;
        if matches!(&header[at..end], b"" | b"\r") {
            return Some(end + 1);
        }
        at = end + 1;
    }
}

fn content_length(header: &[u8]) -> Option<usize> {
    header.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        let value = std::str::from_utf8(&value[1..]).ok()?.trim();
        if name.eq_ignore_ascii_case(b"content-length") {
            value.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use Answer::{Malformed, More, Status, Whole};

    #[test]
    fn answers_are_read_as_they_come() {
        for (text, expected) in [
            ("", More),
            ("HTT", More),
            ("HTTP/1.1 20", More),
            ("HTTP/1.1 200 OK\r", More),
            ("HTTP/1.1 200 OK\r\n", Status(200)),
            ("HTTP/1.1 200\r\nServer: x\r\n", Status(200)),
            ("HTTP/1.0 301 Moved\r\n\r\n", Status(301)),
            ("HTTP/1.1 204 No\r\n\r\n", Whole(204)),
            ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Whole(200)),
            ("HTTP/1.1 200 OK\r\ncontent-LENGTH:  3 \r\n\r\nab", Status(200)),
            ("HTTP/1.1 200 OK\r\ncontent-LENGTH:  3 \r\n\r\nabc", Whole(200)),
            ("HTTP/1.1 500 Oops\r\nContent-Length: 99\r\n\r\n0123456789", Whole(500)),
            ("HTTP/1.1 100 Continue\r\n\r\n", More),
            ("HTTP/1.1 100 Continue\r\n", More),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Whole(200),
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n", Whole(101)),
            ("HTTP/2 200 OK\r\n", Malformed),
            ("HTTP/1.1 2000 OK\r\n", Malformed),
            ("HTTP/1.1 20x OK\r\n", Malformed),
            ("HTTP/1.1 099 OK\r\n", Malformed),
            ("HTTP/1.1\r\n", Malformed),
            ("SSH-2.0-OpenSSH\r\n", Malformed),
            ("S", Malformed),
            ("\r\n", Malformed),
        ] {
            assert_eq!(read(text.as_bytes(), 10), expected, "{text:?}");
        }
        assert_eq!(read(&[b'H'; 600], 10), Malformed);
        assert_eq!(
            read(format!("HTTP/1.1 200 {}", "x".repeat(600)).as_bytes(), 10),
            Malformed
        );
        assert_eq!(status_line(b"HTTP/1.1 200 OK\r\nX: y"), b"HTTP/1.1 200 OK");
    }

    #[test]
    fn no_cut_of_an_answer_panics_or_changes_its_status() {
        let text = b"HTTP/1.1 100 Go\r\nA: b\r\n\r\nHTTP/1.1 302 Found\r\nContent-Length: 4\r\nLocation: /\r\n\r\nbody";
        for length in 0..=text.len() {
            match read(&text[..length], 500) {
                More => {}
                Status(302) | Whole(302) => assert!(length > 40),
                other => panic!("{other:?} at {length}"),
            }
        }
        assert_eq!(read(text, 500), Whole(302));
    }
}
