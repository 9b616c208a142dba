//! Where the secret comes from: a file that only its owner can read, standard input, or a terminal that does not echo.
//!
//! Refuses: a command line, which every process of the machine can read.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use holdfast_shared::limits::SECRET_ACCESS_KEY_LEN;
use holdfast_shared::secrets::SecretBytes;
use holdfast_shared::sigv4::{AccessKeyId, Credential};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Deserialize;

use crate::files::{self, FileError};

/// Bytes of the largest file: a credential in JSON with its names and spaces.
const SECRET_FILE_MAX: usize = 1024;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The terminal.
    #[error("cannot ask for the secret access key: {0}; give --secret-access-key-file FILE")]
    Prompt(#[from] io::Error),
    /// It is none.
    #[error(
        "what was given is no secret access key: 43 to 64 characters of A-Z a-z 0-9 / + =, alone or in a credential file"
    )]
    Form,
}

/// A secret, and whose it is where the file said so.
#[derive(Debug)]
pub struct KnownSecret {
    /// From a credential file.
    pub access_key_id: Option<AccessKeyId>,
    /// 43 to 64 characters.
    pub secret: SecretBytes,
}

/// Reads the secret from `path` (`-` is standard input), or asks for it. `stdin_is_taken` when the request comes from there.
///
/// # Errors
/// [`SecretError`].
pub fn read(path: Option<&Path>, stdin_is_taken: bool) -> Result<KnownSecret, SecretError> {
    let bytes = match path {
        Some(path) if path.as_os_str() == "-" => SecretBytes::new(files::read(path, SECRET_FILE_MAX)?),
        Some(path) => files::read_secret(path, SECRET_FILE_MAX)?,
        None if !stdin_is_taken && !io::stdin().is_terminal() => {
            SecretBytes::new(files::read(Path::new("-"), SECRET_FILE_MAX)?)
        }
        None => ask()?,
    };
    parse(&bytes).ok_or(SecretError::Form)
}

/// A secret alone, or in the JSON of `holdfast credential` and `holdfast kms config`.
fn parse(bytes: &SecretBytes) -> Option<KnownSecret> {
    #[derive(Deserialize)]
    struct InFile<'a> {
        #[serde(rename = "AccessKeyId")]
        access_key_id: &'a str,
        #[serde(rename = "RawSecretAccessKey")]
        raw_secret_access_key: &'a str,
    }
    #[derive(Deserialize)]
    struct ConsoleFile<'a> {
        #[serde(rename = "XksProxyAuthenticationCredential", borrow)]
        credential: InFile<'a>,
    }
    let text = bytes.expose().trim_ascii();
    if !text.starts_with(b"{") {
        // An id of the right form stands in: only the rules of the secret are asked here.
        let anybody = AccessKeyId::parse(&"A".repeat(20)).ok()?;
        Credential::new(anybody, SecretBytes::new(text.to_vec())).ok()?;
        return Some(KnownSecret { access_key_id: None, secret: SecretBytes::new(text.to_vec()) });
    }
    let console = serde_json::from_slice::<ConsoleFile<'_>>(text).map(|file| file.credential);
    let file = console.or_else(|_| serde_json::from_slice::<InFile<'_>>(text)).ok()?;
    let access_key_id = AccessKeyId::parse(file.access_key_id).ok()?;
    let secret = || SecretBytes::new(file.raw_secret_access_key.as_bytes().to_vec());
    Credential::new(access_key_id.clone(), secret()).ok()?;
    Some(KnownSecret { access_key_id: Some(access_key_id), secret: secret() })
}

/// Asks on the terminal, even where standard input is something else.
fn ask() -> io::Result<SecretBytes> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(b"secret access key (not shown): ")?;
    let silent = Silent::start(&terminal)?;
    let mut line = Vec::with_capacity(SECRET_FILE_MAX);
    let mut byte = [0];
    while line.len() < SECRET_ACCESS_KEY_LEN.end().saturating_add(2) && (&terminal).read(&mut byte)? == 1 {
        match byte {
            [b'\n'] => break,
            [byte] => line.push(byte),
        }
    }
    drop(silent);
    terminal.write_all(b"\n")?;
    Ok(SecretBytes::new(line))
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn start(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Nothing better can be done than to try.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_secret() {
        let (id, secret) = ("MUBSXM6K3KMXHN6RRCXI", "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE");
        let credential = format!("{{\n  \"AccessKeyId\": \"{id}\",\n  \"RawSecretAccessKey\": \"{secret}\"\n}}\n");
        let console =
            format!("{{\"XksProxyUriPath\":\"/kms/xks/v1\",\"XksProxyAuthenticationCredential\":{credential}}}");
        for (text, with_id) in
            [(secret.to_owned(), false), (format!("{secret}\r\n"), false), (credential, true), (console, true)]
        {
            let known = parse(&SecretBytes::new(text.clone().into_bytes())).unwrap();
            assert_eq!(known.secret.expose(), secret.as_bytes(), "{text}");
            assert_eq!(known.access_key_id.as_ref().map(AccessKeyId::as_str), with_id.then_some(id), "{text}");
        }
        for text in ["", "short", "{}", "{\"AccessKeyId\":\"x\"}", &format!("{secret}-"), &secret.repeat(2)] {
            assert!(parse(&SecretBytes::new(text.as_bytes().to_vec())).is_none(), "{text}");
        }
    }
}
