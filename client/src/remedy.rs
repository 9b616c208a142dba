//! What to do where a custodian cannot be reached: the sentence after the error's own.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use rustls_pki_types::UnixTime;

/// For a connection that was not made.
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

/// For a TLS session that was not made.
pub(crate) fn of_tls(error: &io::Error) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return String::new();
    };
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
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. },
        ) => "; another custodian than the manifest's, or one that was made anew, answers there".to_owned(),
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
        for (kind, expected) in
            [(ErrorKind::ConnectionRefused, "is the custodian running"), (ErrorKind::TimedOut, "firewall")]
        {
            assert!(of_connecting(&io::Error::from(kind)).contains(expected));
        }
    }
}
