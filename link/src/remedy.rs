//! What to do where a socket or a file cannot be had: the sentence after the system's own.

mod holder;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use rustix::io::Errno;

use self::holder::Holder;
use crate::Address;

/// For a TCP address that cannot be listened at; begins with `; `, or is empty. Looks at this machine for who listens there.
#[must_use]
pub fn of_listening(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => match Holder::of(address) {
            Some(holder) if holder.pid == std::process::id() => {
                "; this program itself listens there: two fields have the same port".to_owned()
            }
            Some(holder) => format!("; another process listens there: {holder}"),
            None => "; another process listens there: `ss -ltnp` shows which".to_owned(),
        },
        ErrorKind::PermissionDenied => {
            "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE, as the systemd unit gives it \
             (AmbientCapabilities)"
                .to_owned()
        }
        ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address: `ip address` shows them".to_owned()
        }
        _ => String::new(),
    }
}

const A_FILE: &str = "; a file is where a folder should be";

/// For a file or a folder that cannot be read or written; begins with `; `, or is empty.
#[must_use]
pub fn of_file(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room: `df -h` shows which disk is full",
        ErrorKind::ReadOnlyFilesystem => {
            "; its file system is read-only; under systemd a unit may write only where it says so (ReadWritePaths, StateDirectory)"
        }
        ErrorKind::PermissionDenied => "; it or its folder belongs to another user: `ls -ld` shows whom",
        ErrorKind::NotADirectory => A_FILE,
        _ => "",
    }
}

/// The same for a folder that is to be made where it is missing.
#[must_use]
pub fn of_folder(error: &io::Error) -> &'static str {
    if error.kind() == ErrorKind::AlreadyExists { A_FILE } else { of_file(error) }
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
        // Port 0 is nobody's.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        for (errno, expected) in [
            (Errno::ADDRINUSE, "ss -ltnp"),
            (Errno::ACCESS, "CAP_NET_BIND_SERVICE"),
            (Errno::ADDRNOTAVAIL, "no interface"),
        ] {
            assert!(of_listening(nobody, &of(errno)).contains(expected), "{errno}");
        }
        assert_eq!(of_listening(nobody, &of(Errno::NOMEM)), "");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = of_listening(listener.local_addr().unwrap(), &of(Errno::ADDRINUSE));
        assert!(ours.contains("two fields have the same port"), "{ours}");
        for (errno, expected) in [
            (Errno::NOSPC, "df -h"),
            (Errno::DQUOT, "df -h"),
            (Errno::ROFS, "ReadWritePaths"),
            (Errno::ACCESS, "another user"),
            (Errno::NOTDIR, "should be"),
        ] {
            assert!(of_file(&of(errno)).contains(expected) && of_folder(&of(errno)).contains(expected), "{errno}");
        }
        assert!(of_folder(&of(Errno::EXIST)).contains("should be"));
        assert_eq!((of_file(&of(Errno::NOENT)), of_file(&of(Errno::EXIST))), ("", ""));
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
