//! `holdfast explain-signature`: why a signature was refused. The enclave answers 401 for every cause and logs no more; here,
//! with the request and the secret in hand, the whole computation is shown.
//!
//! ```text
//! capture ─▶ SignedRequest ─▶ Claim (the enclave's verdict) ─────────────▶ Explanation
//!                 └─▶ SignedParts (the same forms, taken apart) ─▶ mistakes ──┘
//! ```
//!
//! Guarantees: the verdict and the server's forms come from the enclave's own code; a cause that is named as found was computed.
//! Never printed: the secret, a signing key, the signature that would have been right.

pub mod capture;
pub mod forms;
mod mistakes;
pub mod secret;

use core::fmt;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use holdfast_shared::secrets::{Secret, SecretBytes};
use holdfast_shared::sigv4::explain::{ClaimedSignature, ExplainError, SignedParts};
use holdfast_shared::sigv4::{
    AccessKeyId, AuthorizationError, Claim, Credential, CredentialSet, Occurrence, Region, Regions, SERVICE,
    SignatureError, SignedRequest,
};
use holdfast_shared::xks::RequestPath;
use serde::Serialize;

use crate::app::AppError;
use crate::files::{self, FILE_MAX};
use crate::moment::{format_duration, format_ms, parse_ms};
use capture::Capture;
use forms::{ClientAccount, Difference, Forms, first_difference, visible};
use secret::KnownSecret;

/// `holdfast explain-signature`
#[derive(Debug, Args)]
pub struct ExplainSignatureArguments {
    /// The request: its first line, headers, an empty line, the body; or what `curl -v` prints. - for standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub request: PathBuf,
    /// The body, where it is not in the request's file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub body: Option<PathBuf>,
    /// The secret access key, or a file of `credential create --out`; - for standard input [default: asked for]
    #[arg(long, value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    pub secret_access_key_file: Option<PathBuf>,
    /// What the client says that it signed: its canonical request, or its debug log around it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub client_canonical: Option<PathBuf>,
    /// A region that the enclave is configured for; may be given more than once [default: any]
    #[arg(long, value_name = "REGION")]
    pub region: Vec<Region>,
    /// When the request arrived: RFC 3339 or milliseconds since 1970 [default: when it was signed]
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    pub at: Option<u64>,
}

/// What is to be explained.
#[derive(Debug)]
pub struct Question {
    /// The request.
    pub capture: Capture,
    /// The secret that the enclave has for the access key id.
    pub secret: KnownSecret,
    /// What the client says that it signed.
    pub client: Option<ClientAccount>,
    /// What the enclave is configured for.
    pub regions: Regions,
    /// When the request arrived, where that is known.
    pub at_ms: Option<u64>,
}

impl Question {
    /// Reads the files that the arguments name.
    ///
    /// # Errors
    /// [`AppError`], naming the file.
    pub fn read(arguments: ExplainSignatureArguments) -> Result<Self, AppError> {
        let is_stdin = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str() == "-");
        let from_stdin = arguments.request.as_os_str() == "-";
        let taken = [from_stdin, is_stdin(&arguments.body), is_stdin(&arguments.client_canonical)];
        let all = taken.into_iter().chain([is_stdin(&arguments.secret_access_key_file)]);
        if all.filter(|is_stdin| *is_stdin).count() > 1 {
            return Err(AppError::Usage("standard input can be only one of the files".to_owned()));
        }
        let read = |path: &PathBuf| files::read(path, FILE_MAX);
        let body = arguments.body.as_ref().map(read).transpose()?;
        let request = read(&arguments.request)?;
        let client = arguments.client_canonical.as_ref().map(read).transpose()?;
        let capture = Capture::parse(&request, body)
            .map_err(|error| AppError::Input { path: arguments.request, reason: error.to_string() })?;
        let secret = secret::read(arguments.secret_access_key_file.as_deref(), taken.contains(&true))?;
        let regions = if arguments.region.is_empty() { Regions::Any } else { Regions::Only(arguments.region) };
        let client = client.as_deref().map(ClientAccount::parse);
        Ok(Self { capture, secret, client, regions, at_ms: arguments.at })
    }
}

/// Whose account a client's forms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The client's own.
    Given,
    /// Found by trying: the signature is right for them.
    Found,
}

/// The forms that a client signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientForms {
    /// How they are known.
    pub source: Source,
    /// The forms.
    #[serde(flatten)]
    pub forms: Forms,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether the enclave accepts the signature.
    pub accepted: bool,
    /// What the enclave refuses, in its own words.
    pub refusal: Option<String>,
    /// Why, and what to do about it.
    pub causes: Vec<String>,
    /// What was taken for granted.
    pub notes: Vec<String>,
    /// Who is said to have signed.
    pub access_key_id: Option<String>,
    /// What the enclave computes.
    pub server: Option<Forms>,
    /// What the client signed, where it is known.
    pub client: Option<ClientForms>,
    /// Where the two part.
    pub difference: Option<Difference>,
}

/// Explains. The verdict is the enclave's for this request, this secret, these regions and that time.
#[must_use]
pub fn explain(question: &Question) -> Explanation {
    let capture = &question.capture;
    let mut explanation = Explanation { notes: capture.notes.clone(), ..Explanation::default() };
    let authority = capture.authority().unwrap_or_default();
    let request = SignedRequest {
        method: &capture.method,
        path: &capture.target,
        authority: &authority,
        header: |name: &str| capture.header(name),
        body: &capture.body,
    };
    let (parts, claimed) = match SignedParts::of(&request) {
        Ok(taken_apart) => taken_apart,
        Err(error) => {
            explanation.refusal = Some(error.to_string());
            explanation.causes.push(unreadable(&error, capture));
            return explanation;
        }
    };
    explanation.access_key_id = Some(claimed.access_key_id.to_string());
    let at_ms = question.at_ms.or_else(|| parts.date_ms()).unwrap_or_default();
    if question.at_ms.is_none() {
        explanation
            .notes
            .push("the time was not judged; give --at with the time at which the request arrived".to_owned());
    }
    let credentials = the_one(&claimed.access_key_id, &question.secret.secret);
    let verdict = Claim::parse(&request, &question.regions, at_ms)
        .and_then(|claim| claim.verify(credentials.as_ref().ok_or(SignatureError::Mismatch)?));
    let early = refused_before(capture);
    explanation.accepted = verdict.is_ok() && early.is_none();
    explanation.refusal = early.or_else(|| verdict.as_ref().err().map(ToString::to_string));
    let server = Forms { canonical_request: parts.canonical_request(), string_to_sign: parts.string_to_sign() };
    explanation.server = Some(server);
    if let (Err(error), Some(_)) = (verdict, capture.authority()) {
        explanation.causes.extend(before_the_signature(error, &parts, question, at_ms));
        judge_signature(&mut explanation, &parts, &claimed, question);
    }
    explanation
}

/// The credentials of an enclave that has this one.
fn the_one(id: &AccessKeyId, secret: &SecretBytes) -> Option<CredentialSet> {
    let credential = Credential::new(id.clone(), secret.duplicate()).ok()?;
    CredentialSet::new(vec![credential], &Secret::take(&mut [0; 32])).ok()
}

/// What is answered before a signature is looked at.
fn refused_before(capture: &Capture) -> Option<String> {
    if capture.authority().is_none() {
        return Some("421: the request names no host, two, or two that differ (Host and the target)".to_owned());
    }
    if RequestPath::parse(&capture.target).is_err() {
        return Some(
            "404: the path is none of the API's; no query, no percent-escape and no slash at the end is accepted"
                .to_owned(),
        );
    }
    (capture.method != "POST").then(|| "405: the method is not POST".to_owned())
}

/// Why the `Authorization` header, or what it names, cannot even be read.
fn unreadable(error: &ExplainError, capture: &Capture) -> String {
    match error {
        ExplainError::Header(name) => match capture.header(name) {
            Occurrence::Repeated => format!("{name} is there more than once; a signature over it is not accepted"),
            _ => format!("{name} is missing: a proxy on the way removed it, or the client never sent it"),
        },
        ExplainError::Authorization(AuthorizationError::Absent) => match capture.header("authorization") {
            Occurrence::Repeated => "there is more than one Authorization header".to_owned(),
            _ => "the request is not signed, or a proxy on the way removed the Authorization header".to_owned(),
        },
        ExplainError::Authorization(AuthorizationError::Malformed) => malformed(capture).to_owned(),
        ExplainError::Authorization(AuthorizationError::SignedHeaders) => {
            "SignedHeaders must be sorted, in lower case, each once, with host (or :authority) and x-amz-date among them"
                .to_owned()
        }
        ExplainError::Authorization(error) => error.to_string(),
    }
}

/// Which part of the one accepted form is missing; the same order as the parser's.
fn malformed(capture: &Capture) -> &'static str {
    let Occurrence::Once(header) = capture.header("authorization") else { return "there is no Authorization header" };
    let text = String::from_utf8_lossy(header);
    if !text.starts_with("AWS4-HMAC-SHA256 ") {
        return "the scheme is not AWS4-HMAC-SHA256 followed by one space (other schemes and SigV4a are not accepted)";
    }
    let id = text.strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| rest.split_once('/'));
    match id {
        None => "after the scheme must come Credential=ID/…",
        Some((id, _)) if AccessKeyId::parse(id).is_err() => {
            "the access key id is not 20 to 30 characters of A-Z and 2-7"
        }
        Some((_, rest)) if !rest.contains("/aws4_request,") => {
            "the scope is not DAY/REGION/kms-xks-proxy/aws4_request, with a comma behind it"
        }
        Some((_, rest)) if !rest.contains("SignedHeaders=") || !rest.contains("Signature=") => {
            "SignedHeaders= or Signature= is missing"
        }
        _ => {
            "the parts must be Credential, SignedHeaders, Signature (64 hexadecimal digits in lower case), in this order, with a comma and at most one space between them"
        }
    }
}

/// What is wrong besides, or instead of, the signature.
fn before_the_signature(error: SignatureError, parts: &SignedParts, question: &Question, at_ms: u64) -> Option<String> {
    Some(match error {
        SignatureError::Authorization(_) if parts.service != SERVICE => {
            format!("the request is signed for the service \"{}\"; sign for \"{SERVICE}\"", parts.service)
        }
        SignatureError::Authorization(_) => {
            format!(
                "the request is signed for the region \"{}\", for which the enclave is not configured",
                parts.region
            )
        }
        SignatureError::Date => match parts.date_ms() {
            Some(_) => format!("x-amz-date is {}, but the scope is of the day {}", parts.date, parts.day),
            None => format!("x-amz-date is \"{}\"; it must be like 20240131T235959Z", parts.date),
        },
        SignatureError::Skew => {
            let signed_ms = parts.date_ms().unwrap_or_default();
            let way = if signed_ms < at_ms { "before" } else { "after" };
            format!(
                "the request was signed {} {way} it arrived at {}; five minutes are allowed: set the client's clock",
                format_duration(signed_ms.abs_diff(at_ms)),
                format_ms(at_ms)
            )
        }
        SignatureError::ContentHash => match question.capture.header("x-amz-content-sha256") {
            Occurrence::Once(b"UNSIGNED-PAYLOAD") => {
                "x-amz-content-sha256 says UNSIGNED-PAYLOAD; the hash of the body must be signed".to_owned()
            }
            Occurrence::Repeated => "x-amz-content-sha256 is there more than once".to_owned(),
            _ => "x-amz-content-sha256 is not the SHA-256 of the body that arrived".to_owned(),
        },
        SignatureError::Header => "a signed header is missing, or there more than once".to_owned(),
        SignatureError::Mismatch => return None,
    })
}

/// Finds out what was signed instead.
fn judge_signature(
    explanation: &mut Explanation,
    parts: &SignedParts,
    claimed: &ClaimedSignature,
    question: &Question,
) {
    let (secret, id) = (&question.secret.secret, &claimed.access_key_id);
    if let Some(other) = question.secret.access_key_id.as_ref().filter(|other| *other != id) {
        explanation.causes.push(format!("the request names {id}, but the secret given is that of {other}"));
    }
    if parts.are_signed_by(secret, &claimed.signature) {
        explanation.causes.push("apart from that, the signature is right".to_owned());
        return;
    }
    let given = question.client.as_ref().map(|client| Forms {
        canonical_request: client.canonical_request.clone(),
        string_to_sign: client
            .string_to_sign
            .clone()
            .unwrap_or_else(|| parts.string_to_sign_over(&client.canonical_request)),
    });
    let client_signed = given
        .as_ref()
        .is_some_and(|forms| parts.scope_signs(secret, forms.string_to_sign.as_bytes(), &claimed.signature));
    let found = mistakes::find(parts, claimed, secret, &question.capture);
    // Long, and needless where the client itself says which host it signed.
    let found = if given.is_none() { found.or_else(|| mistakes::find_port(parts, claimed, secret)) } else { found };
    let causes = &mut explanation.causes;
    if let Some(found) = &found {
        causes.extend(found.words.iter().map(|words| format!("found: the client {words}")));
        causes.push("with that, the signature is right, and so is the secret that it was made with".to_owned());
    } else if client_signed {
        causes.push(
            "the secret is right, and the client signed what it says: that is not the form of what arrived, or the request \
             changed on its way; see where the two differ"
                .to_owned(),
        );
    } else if given.is_some() {
        causes.push(format!(
            "even what the client says it signed does not give its signature: the secret given is not the one that the \
             client has for {id}, or its account is of another request"
        ));
    } else {
        causes.push(format!(
            "no usual mistake gives this signature. Most likely the client's secret for {id} is another one; or the request \
             changed on its way more than a little. To tell the two apart, give the client's own canonical request \
             (--client-canonical)"
        ));
    }
    let found = found.map(|found| ClientForms {
        source: Source::Found,
        forms: Forms {
            canonical_request: found.parts.canonical_request(),
            string_to_sign: found.parts.string_to_sign(),
        },
    });
    explanation.client = given.map(|forms| ClientForms { source: Source::Given, forms }).or(found);
    let forms = explanation.server.as_ref().zip(explanation.client.as_ref());
    explanation.difference = forms.and_then(|(server, client)| first_difference(server, &client.forms));
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refusal, &self.access_key_id) {
            (Some(refusal), _) => write!(f, "REFUSED: {refusal}")?,
            (None, id) => write!(f, "ACCEPTED: the signature is {}'s", id.as_deref().unwrap_or_default())?,
        }
        for cause in &self.causes {
            write!(f, "\n  why   {}", visible_but_spaces(cause))?;
        }
        for note in &self.notes {
            write!(f, "\n  note  {note}")?;
        }
        if let Some(server) = &self.server {
            write_forms(f, "as the server computes it", server)?;
        }
        if let Some(client) = &self.client {
            let whose = match client.source {
                Source::Given => "as the client says",
                Source::Found => "as the client must have signed it",
            };
            write_forms(f, whose, &client.forms)?;
            write!(f, "\n\n")?;
            match &self.difference {
                Some(difference) => difference.fmt(f)?,
                None => f.write_str("no difference between the two: it is the key that differs")?,
            }
        }
        Ok(())
    }
}

fn write_forms(f: &mut fmt::Formatter<'_>, whose: &str, forms: &Forms) -> fmt::Result {
    for (name, form) in
        [("canonical request", forms.canonical_request.as_slice()), ("string to sign", forms.string_to_sign.as_bytes())]
    {
        write!(f, "\n\n{name}, {whose}")?;
        for (number, line) in (1_usize..).zip(form.split(|byte| *byte == b'\n')) {
            write!(f, "\n  {number:>2}  {}", visible(line))?;
        }
    }
    Ok(())
}

/// Sentences keep their spaces; what they quote of a request steers no terminal.
fn visible_but_spaces(text: &str) -> String {
    text.split(' ').map(|word| visible(word.as_bytes())).collect::<Vec<_>>().join(" ")
}
