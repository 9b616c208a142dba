//! Who listens at a TCP address of this machine: for the error of somebody who cannot.
//!
//! Guarantees: it only reads, and an answer is a process that had a listening socket of that port open. Assumes Linux's `/proc`
//! (`proc_net(5)`, `proc_pid_fd(5)`). Refuses nothing: what cannot be read, such as another user's processes, is not found.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// The state of a socket that listens, in `/proc/net/tcp` (`TCP_LISTEN` of Linux's `tcp_states.h`).
const LISTENS: &str = "0A";

/// A process with the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its id.
    pub(super) pid: u32,
    /// Its name, as `/proc/PID/comm` has it.
    name: String,
}

impl Holder {
    /// The process that listens at the port of an address, at that address or at any.
    pub(super) fn of(address: SocketAddr) -> Option<Self> {
        Self::under(Path::new("/proc"), address)
    }

    fn under(proc: &Path, address: SocketAddr) -> Option<Self> {
        // Both families: a socket of IPv6 that listens at any address may have the port in IPv4 as well.
        let inodes: Vec<String> = ["net/tcp", "net/tcp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(proc.join(table)).ok())
            .flat_map(|table| listening(&table, address.port()))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        if inodes.is_empty() {
            return None;
        }
        let has = |pid: u32| {
            let open = fs::read_dir(proc.join(format!("{pid}/fd"))).ok()?;
            let mut links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
            links.any(|link| link.to_str().is_some_and(|link| inodes.iter().any(|inode| inode == link))).then_some(())
        };
        let pids = fs::read_dir(proc).ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pid = pids.into_iter().find(|pid| has(*pid).is_some())?;
        let name = fs::read_to_string(proc.join(format!("{pid}/comm"))).unwrap_or_default();
        let name = name.trim().chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
        Some(Self { pid, name })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {}", self.name, self.pid)
    }
}

/// The inodes of the sockets in a table that listen at a port, whatever the address.
fn listening(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| match row.as_slice() {
        [_, local, _, LISTENS, _, _, _, _, _, inode, ..] if local.ends_with(&wanted) => Some((*inode).to_owned()),
        _ => None,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn this_process_is_found_by_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = Holder::of(listener.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.name.is_empty());
    }

    #[test]
    fn only_a_socket_that_listens_at_the_port_counts() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        let row = |local: &str, state: &str, inode: u32| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0\n"
            )
        };
        let table = format!(
            "  sl  local_address rem_address   st\n{}{}{}short row\n",
            row("0100007F:01BB", "01", 11),
            row("0100007F:01BC", "0A", 12),
            row("00000000:01BB", "0A", 13),
        );
        fs::create_dir_all(proc.join("net")).unwrap();
        fs::write(proc.join("net/tcp"), table).unwrap();
        for (pid, inode) in [(4u32, 11), (5, 12), (6, 13)] {
            fs::create_dir_all(proc.join(format!("{pid}/fd"))).unwrap();
            symlink(format!("socket:[{inode}]"), proc.join(format!("{pid}/fd/3"))).unwrap();
            fs::write(proc.join(format!("{pid}/comm")), "a\u{1b}[31m name\n").unwrap();
        }
        let at = |port: u16| Holder::under(proc, SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(at(443).unwrap().to_string(), "a[31m name, process 6");
        assert_eq!(at(444).unwrap().pid, 5);
        assert_eq!(at(445), None);
    }
}
