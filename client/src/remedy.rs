//! What to do where another program cannot be reached: the sentence after the error's own.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use rustls_pki_types::UnixTime;

use crate::HttpsError;

/// For a request to anybody: whose certificate it should be is not known here.
pub(crate) fn of_asking(error: &HttpsError) -> String {
    match error {
        HttpsError::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
            "; nothing listens there: is the service running, and are host and port right?".to_owned()
        }
        HttpsError::Connect(error) => of_connecting(error).to_owned(),
        HttpsError::Tls(error) if is_of_issuer(error) => {
            "; the certificate is not from an authority that is trusted here, or is another host's".to_owned()
        }
        HttpsError::Tls(error) => of_tls(error),
        _ => String::new(),
    }
}

/// For a connection to a custodian that was not made.
pub(crate) fn of_connecting(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "; nothing listens there: is the custodian running, and is this the address that its manifest should name?"
        }
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            "; a firewall or a route is in the way"
        }
        // The standard library has no kind for it.
        _ if error.to_string().contains("lookup address") => "; the resolver of this machine does not know the name",
        _ => "",
    }
}

fn tls_error(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn is_of_issuer(error: &io::Error) -> bool {
    matches!(
        tls_error(error),
        Some(TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. }
        ))
    )
}

/// For a TLS session with a custodian that was not made.
pub(crate) fn of_tls(error: &io::Error) -> String {
    if is_of_issuer(error) {
        return "; another custodian than the manifest's, or one that was made anew, answers there".to_owned();
    }
    let Some(error) = tls_error(error) else { return String::new() };
    let far = |early: UnixTime, late: UnixTime| {
        let seconds = late.as_secs().saturating_sub(early.as_secs());
        format!("{:?}", Duration::from_secs(seconds))
    };
    match error {
        TlsError::InvalidMessage(_) => {
            "; what listens there does not speak TLS: another service has this address".to_owned()
        }
        TlsError::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            format!("; by the clock here it ended {} ago: renew it, or set the clock", far(*not_after, *time))
        }
        TlsError::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            format!("; by the clock here it begins in {}: one of the two clocks is wrong", far(*time, *not_before))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_remedy() {
        let at = |seconds: u64| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        for (error, expected) in [
            (TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "does not speak TLS"),
            (
                TlsError::InvalidCertificate(CertificateError::ExpiredContext { time: at(100), not_after: at(10) }),
                "it ended 90s ago",
            ),
            (
                TlsError::InvalidCertificate(CertificateError::NotValidYetContext { time: at(10), not_before: at(60) }),
                "it begins in 50s",
            ),
            (TlsError::InvalidCertificate(CertificateError::UnknownIssuer), "another custodian"),
        ] {
            let said = of_tls(&io::Error::new(ErrorKind::InvalidData, error));
            assert!(said.contains(expected), "{said}");
        }
        assert_eq!(of_tls(&io::Error::other("no")), "");
        let unknown = io::Error::other("failed to lookup address information: Name or service not known");
        assert!(of_connecting(&unknown).contains("does not know the name"));
        for (kind, expected) in
            [(ErrorKind::ConnectionRefused, "is the custodian running"), (ErrorKind::TimedOut, "firewall")]
        {
            assert!(of_connecting(&io::Error::from(kind)).contains(expected));
        }
    }

    #[test]
    fn anybody_is_told_without_a_manifest() {
        let refused = of_asking(&HttpsError::Connect(ErrorKind::ConnectionRefused.into()));
        assert!(refused.contains("is the service running"), "{refused}");
        let other = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let other = of_asking(&HttpsError::Tls(io::Error::new(ErrorKind::InvalidData, other)));
        assert!(other.contains("authority that is trusted here"), "{other}");
        let clear = TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let clear = of_asking(&HttpsError::Tls(io::Error::new(ErrorKind::InvalidData, clear)));
        assert!(clear.contains("does not speak TLS"), "{clear}");
        assert_eq!(of_asking(&HttpsError::Timeout { seconds: 5 }), "");
    }
}
