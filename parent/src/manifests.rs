//! The folder of signed manifests: what the enclave is asked to serve.
//!
//! Guarantees: a change of the folder is published within one poll (or at once at SIGHUP), as the whole list, in the order
//! of file names; the list fits one message of the link.
//! Assumes: files are put in place by renaming. A half-written one would be offered, and refused by the enclave, until
//! the next poll.
//! Refuses: files that are empty, too long, or no regular files; they are left out, with a line in the log.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_link::control::SignedManifest;
use holdfast_link::limits::{KEY_STORES_MAX, MANIFEST_MAX, MANIFESTS_TOTAL_MAX};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::read_bounded;
use crate::limits::MANIFEST_POLL;
use crate::state::State;

/// The list that the enclave is given.
pub(crate) type Manifests = Arc<Vec<SignedManifest>>;

/// How a file looks without reading it: device, inode, length, time of its last change (seconds, nanoseconds).
type Look = (PathBuf, u64, u64, u64, i64, i64);

/// What a folder held.
#[derive(Debug, Default)]
struct Content {
    manifests: Vec<SignedManifest>,
    /// What was left out, and why.
    refused: Vec<String>,
}

/// Watches one folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    looks: Vec<Look>,
    /// A second look at the same picture was taken. File times are coarse: a file that changes twice within one tick looks
    /// the same, so each change is followed by one more reading.
    settled: bool,
    refused: Vec<String>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, looks: Vec::new(), settled: false, refused: Vec::new() }
    }

    /// Reads the folder if it may have changed since the last call.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(crate) fn read(&mut self) -> io::Result<Option<Vec<SignedManifest>>> {
        let looks = look(&self.path)?;
        let same = looks == self.looks;
        if same && self.settled {
            return Ok(None);
        }
        self.settled = same;
        let content = read_all(&looks);
        self.looks = looks;
        for refusal in content.refused.iter().filter(|refusal| !self.refused.contains(refusal)) {
            tracing::warn!("{refusal}");
        }
        self.refused = content.refused;
        Ok(Some(content.manifests))
    }
}

/// The manifest files, in the order of their names.
fn look(folder: &Path) -> io::Result<Vec<Look>> {
    let mut looks = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "manifest") {
            continue;
        }
        // A file may vanish between the two calls; then it is not there. Pipes and devices are never opened.
        if let Ok(found) = std::fs::metadata(&path)
            && found.is_file()
        {
            looks.push((path, found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()));
        }
    }
    looks.sort();
    Ok(looks)
}

fn read_all(looks: &[Look]) -> Content {
    let mut content = Content::default();
    let mut seen = BTreeSet::new();
    let mut total = 0usize;
    for (path, ..) in looks {
        let manifest = match read_bounded(path, MANIFEST_MAX) {
            Ok(Some(bytes)) => SignedManifest::new(bytes).map_err(|error| error.to_string()),
            Ok(None) => Err(format!("longer than {MANIFEST_MAX} bytes")),
            Err(error) => Err(error.to_string()),
        };
        let fits = |manifest: &SignedManifest| {
            content.manifests.len() < KEY_STORES_MAX && total + manifest.as_bytes().len() <= MANIFESTS_TOTAL_MAX
        };
        match manifest {
            Ok(manifest) if seen.contains(&manifest) => {}
            Ok(manifest) if fits(&manifest) => {
                total += manifest.as_bytes().len();
                seen.insert(manifest.clone());
                content.manifests.push(manifest);
            }
            Ok(_) => content.refused.push(format!(
                "{}: left out: at most {KEY_STORES_MAX} manifests of {MANIFESTS_TOTAL_MAX} bytes together are served",
                path.display()
            )),
            Err(reason) => content.refused.push(format!("{}: left out: {reason}", path.display())),
        }
    }
    content
}

/// Looks at the folder again and again, and publishes each change.
pub(crate) async fn watch(
    mut folder: Folder,
    mut hang_up: Signal,
    published: watch::Sender<Manifests>,
    state: Arc<State>,
) {
    let mut poll = interval(MANIFEST_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = poll.tick() => {}
            Some(()) = hang_up.recv() => folder.settled = false,
        }
        let reading = tokio::task::spawn_blocking(move || {
            let result = folder.read();
            (folder, result)
        });
        let Ok((returned, result)) = reading.await else { return };
        folder = returned;
        match result {
            Ok(None) => failing = false,
            Ok(Some(manifests)) => {
                failing = false;
                let changed = published.send_if_modified(|current| {
                    let differs = **current != manifests;
                    if differs {
                        *current = Arc::new(manifests);
                    }
                    differs
                });
                if changed {
                    state.counters.manifests_changed.increment();
                    tracing::info!(count = published.borrow().len(), "the list of manifests changed");
                }
            }
            Err(error) => {
                if !failing {
                    tracing::error!(folder = %folder.path.display(), %error, "cannot list the manifests; the last list stays");
                }
                failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn bytes(list: Option<Vec<SignedManifest>>) -> Vec<Vec<u8>> {
        list.unwrap().iter().map(|manifest| manifest.as_bytes().to_vec()).collect()
    }

    #[test]
    fn only_proper_manifest_files_are_offered_in_the_order_of_names() {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("b.manifest", "second"),
            ("a.manifest", "first"),
            ("c.manifest", "first"),
            ("empty.manifest", ""),
            (".hidden.manifest", "x"),
            ("a.manifest.tmp", "x"),
            ("readme.txt", "x"),
        ] {
            fs::write(root.path().join(name), content).unwrap();
        }
        fs::write(root.path().join("long.manifest"), vec![b'x'; MANIFEST_MAX + 1]).unwrap();
        fs::create_dir(root.path().join("folder.manifest")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("dangling.manifest")).unwrap();
        let mut folder = Folder::new(root.path().to_owned());
        assert_eq!(bytes(folder.read().unwrap()), [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(folder.refused.len(), 2, "{:?}", folder.refused);
    }

    #[test]
    fn a_folder_is_read_again_only_around_a_change() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(root.path().to_owned());
        assert_eq!(bytes(folder.read().unwrap()), Vec::<Vec<u8>>::new());
        assert!(folder.read().unwrap().is_none());
        fs::write(root.path().join("a.manifest"), "1").unwrap();
        assert_eq!(bytes(folder.read().unwrap()), [b"1"]);
        assert_eq!(bytes(folder.read().unwrap()), [b"1"], "one more reading after a change");
        assert!(folder.read().unwrap().is_none());
        fs::remove_file(root.path().join("a.manifest")).unwrap();
        assert_eq!(bytes(folder.read().unwrap()), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let fitting = MANIFESTS_TOTAL_MAX / MANIFEST_MAX;
        for number in 0..=fitting {
            let mut content = vec![b'x'; MANIFEST_MAX];
            content.splice(..4, format!("{number:04}").into_bytes());
            fs::write(root.path().join(format!("{number:04}.manifest")), content).unwrap();
        }
        let mut folder = Folder::new(root.path().to_owned());
        assert_eq!(folder.read().unwrap().unwrap().len(), fitting);
        assert_eq!(folder.refused.len(), 1);
    }
}
