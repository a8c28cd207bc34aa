//! Text for people. Names that a process can choose are made harmless before they reach a terminal.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use crate::exit::Failure;

/// A colour; meaning never rests on it alone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Green,
    Red,
    Yellow,
    Dim,
}

/// Wraps text in a colour, if stdout is a terminal and `NO_COLOR` is not set.
pub(super) fn colour(text: &str, colour: Colour) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
    {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Red => 31,
        Colour::Yellow => 33,
        Colour::Dim => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes to stdout. A reader that has gone away (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_while_read(text).map(|_read| ())
}

/// Writes to stdout, at once; false if nobody reads it any more.
pub(super) fn print_while_read(text: &str) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Text from a process, with everything that a terminal would act on spelled out.
pub(super) fn harmless(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if acts(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

/// The first part of an id, enough to tell sessions apart.
pub(super) fn short(id: &str) -> &str {
    // A UUIDv7 starts with the time: its last part is the random one, but a prefix is what `revoke` takes.
    id.get(..18).unwrap_or(id)
}

/// A time such as `90s`, `30m`, `12h` or `90d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let scale = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 60 * 60,
        Some('d') => 24 * 60 * 60,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok());
    let seconds = number.and_then(|number| number.checked_mul(scale)).filter(|_| scale > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "a whole number and `s`, `m`, `h` or `d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{duration, harmless};

    #[test]
    fn durations_have_a_unit() {
        let seconds = |text| duration(text).ok().map(|duration| duration.as_secs());
        assert_eq!(["0s", "90s", "2m", "12h", "90d"].map(seconds), [0, 90, 120, 43_200, 7_776_000].map(Some));
        assert_eq!(["", "90", "d", "-1d", "1w", "1.5h", "99999999999999999999s"].map(seconds), [None; 7]);
    }

    #[test]
    fn escapes_what_a_terminal_would_act_on() {
        assert_eq!(harmless("a\x1b[31mb\n\u{202e}c é"), "a\\u{1b}[31mb\\u{a}\\u{202e}c é");
    }
}
