//! What a descriptor in the monitor's epoll set is for, as the set's numbers.

/// One of a process's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Written: its standard input, or its terminal.
    Input,
    /// Read: its standard output, or its terminal.
    Output,
    /// Read: its standard error.
    Error,
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Signals.
    Signals,
    /// New connections.
    Listener,
    /// The kernel's out-of-memory events.
    Memory,
    /// A connection.
    Client(usize),
    /// The container's own stdio.
    Main(Part),
    /// An exec's stdio.
    Exec(usize, Part),
    /// The report of the child that begins a run or an exec.
    Starter(usize),
    /// The socket of a health probe.
    Probe,
    /// What the container's program says of itself.
    Notify,
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let number = |kind: u64, index: usize| kind << 32 | index as u64 & 0xffff_ffff;
        match token {
            Token::Signals => number(1, 0),
            Token::Listener => number(2, 0),
            Token::Memory => number(3, 0),
            Token::Client(index) => number(4, index),
            Token::Main(part) => number(5, part as usize),
            Token::Exec(index, part) => number(6 + part as u64, index),
            Token::Starter(index) => number(9, index),
            Token::Probe => number(10, 0),
            Token::Notify => number(11, 0),
        }
    }
}

impl Token {
    /// From the set's number.
    pub fn from_number(number: u64) -> Option<Token> {
        let index = (number & 0xffff_ffff) as usize;
        let part = |part: u64| match part {
            0 => Some(Part::Input),
            1 => Some(Part::Output),
            2 => Some(Part::Error),
            _ => None,
        };
        Some(match number >> 32 {
            1 => Token::Signals,
            2 => Token::Listener,
            3 => Token::Memory,
            4 => Token::Client(index),
            5 => Token::Main(part(index as u64)?),
            kind @ 6..=8 => Token::Exec(index, part(kind - 6)?),
            9 => Token::Starter(index),
            10 => Token::Probe,
            11 => Token::Notify,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Memory,
            Token::Client(31),
            Token::Main(Part::Input),
            Token::Main(Part::Error),
            Token::Exec(7, Part::Input),
            Token::Exec(7, Part::Output),
            Token::Exec(7, Part::Error),
            Token::Starter(3),
            Token::Probe,
            Token::Notify,
        ] {
            assert_eq!(Token::from_number(token.into()), Some(token));
        }
        for number in [0, 5 << 32 | 3, 12 << 32, u64::MAX] {
            assert_eq!(Token::from_number(number), None);
        }
    }
}
