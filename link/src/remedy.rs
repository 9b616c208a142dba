//! What to do where a socket cannot be had: the sentence after the system's own.

use std::io::{self, ErrorKind};

use rustix::io::Errno;

use crate::Address;

/// For a TCP address that cannot be listened at; begins with `; `, or is empty.
#[must_use]
pub fn of_listening(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => "; another process listens there: `ss -ltnp` shows which",
        ErrorKind::PermissionDenied => {
            "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE, as the systemd unit gives it"
        }
        ErrorKind::AddrNotAvailable => "; no interface of this machine has that address: `ip address` shows them",
        _ => "",
    }
}

/// The same for an address of the link.
#[must_use]
pub(crate) fn of_binding(address: &Address, error: &io::Error) -> &'static str {
    match address {
        Address::Vsock { .. } => of_vsock(error),
        _ => match error.kind() {
            ErrorKind::NotFound => "; its folder is missing",
            ErrorKind::PermissionDenied => "; its folder belongs to another user",
            _ => "",
        },
    }
}

fn of_vsock(error: &io::Error) -> &'static str {
    let none = [Errno::AFNOSUPPORT, Errno::NODEV, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
    if error.raw_os_error().is_some_and(|code| none.contains(&code)) {
        return "; this machine has no vsock for enclaves: start the instance with enclaves enabled (EnclaveOptions), or use unix:// \
                addresses where there is no enclave";
    }
    match error.kind() {
        ErrorKind::AddrInUse => "; another process listens at this port: `ss -lp --vsock` shows which",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_has_its_remedy() {
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for (errno, expected) in [
            (Errno::ADDRINUSE, "ss -ltnp"),
            (Errno::ACCESS, "CAP_NET_BIND_SERVICE"),
            (Errno::ADDRNOTAVAIL, "no interface"),
        ] {
            assert!(of_listening(&of(errno)).contains(expected), "{errno}");
        }
        assert_eq!(of_listening(&of(Errno::NOMEM)), "");
        let vsock: Address = "vsock://4294967295:9001".parse().unwrap();
        let unix: Address = "unix:///nowhere/a.sock".parse().unwrap();
        for (address, errno, expected) in [
            (&vsock, Errno::AFNOSUPPORT, "EnclaveOptions"),
            (&vsock, Errno::NODEV, "unix://"),
            (&vsock, Errno::ADDRINUSE, "--vsock"),
            (&unix, Errno::NOENT, "folder is missing"),
            (&unix, Errno::ACCESS, "another user"),
        ] {
            assert!(of_binding(address, &of(errno)).contains(expected), "{address} {errno}");
        }
    }
}
