//! What the tool prints: data on standard output, as text or JSON; progress and warnings on standard error.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// Prints results in the form that was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// JSON instead of text.
    pub json: bool,
}

impl Printer {
    /// Prints a result.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print<T: Serialize + Display>(self, value: &T) -> io::Result<()> {
        let text = if self.json { crate::home::to_json(value) } else { format!("{value}\n") };
        io::stdout().lock().write_all(text.as_bytes())
    }
}

/// Prints a text that is what it is, whatever form was asked for.
///
/// # Errors
/// When standard output is closed.
pub fn print_as_is(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Tells a person something that is not a result. A closed standard error is no reason to stop.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// What is said wherever an emulator's root is trusted.
pub const EMULATED_WARNING: &str = "WARNING: this key store trusts an EMULATED attestation root: nothing protects its keys from the machine that they are on";

/// `text` as any terminal can show it: what a custodian or an enclave sends must not steer the terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' }).collect()
}

/// Quotes `text` for a POSIX shell, where it needs it.
#[must_use]
pub fn shell_quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("i-0\u{1b}[2J\r\n\u{202e}"), "i-0?[2J???");
    }

    #[test]
    fn quoting() {
        for (text, expected) in [
            ("plain-1./x", "plain-1./x"),
            ("", "''"),
            ("two words", "'two words'"),
            ("it's", r"'it'\''s'"),
            ("$(rm)", "'$(rm)'"),
        ] {
            assert_eq!(shell_quoted(text), expected);
        }
    }
}
