//! Bringing back: objects become files of the same names, so that `holdfast audit verify` reads them.
//!
//! Guarantees: a file is complete or as it was, and its bytes have the SHA-256 that was recorded with the object. A file that is there is
//! replaced only by an object that begins with it. An object that cannot be brought is named, and the others are brought. Refuses: a parent's own folder, and objects whose names are not of a log.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::pin::pin;

use futures_util::StreamExt as _;
use holdfast_shared::ids::{BootId, KeyStoreId};
use ring::digest::{Context, SHA256};

use super::bucket::{Bucket, Found, Incoming, Object};
use super::content::{Content, Part};
use super::place::{Place, Reach};
use super::{StoreError, Summary};
use crate::audit::folder::FILE_MAX;
use crate::output::printable;
use crate::progress::Progress;

/// The file that a parent holds locked in its folder.
const LOCK: &str = "lock";

/// Objects, one after the other, for which no answer comes: then none is asked for any more.
const SILENT_MAX: u32 = 3;

/// Which logs are brought: all, or those of one key store, of one boot, or both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only of this key store.
    pub key_store_id: Option<KeyStoreId>,
    /// Only of this boot.
    pub boot_id: Option<BootId>,
}

impl Wanted {
    fn takes(&self, object: &Object) -> bool {
        self.key_store_id.is_none_or(|wanted| wanted == object.log.key_store_id)
            && self.boot_id.is_none_or(|wanted| wanted == object.log.boot_id)
    }
}

/// Why an object did not become a file.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot be written: {0}")]
    Write(#[from] io::Error),
    #[error(
        "the object does not have the SHA-256 that was recorded with it: it was altered or broke off, and nothing was written"
    )]
    Altered,
    #[error("cannot be compared with the file that is here: {0}")]
    Unreadable(String),
    #[error("has more than 1 GiB, so it is no file of a log")]
    TooLarge,
    #[error("the file that is here is not what the object begins with; choose another --folder")]
    FileDiffers,
}

/// Brings what is wanted into `folder`.
///
/// # Errors
/// [`StoreError`] when nothing more can be had. What concerns one object is told and counted.
pub async fn download(
    (place, reach): (&Place, &Reach),
    folder: &Path,
    wanted: Wanted,
    tell: &dyn Fn(&str),
) -> Result<Summary, StoreError> {
    let bucket = Bucket::open(place, reach)?;
    if folder.join(LOCK).exists() {
        let reason = "is the audit folder of a parent; choose another one";
        return Err(StoreError::Place(format!("{}: {reason}", folder.display())));
    }
    make_folder(folder).map_err(StoreError::folder(folder))?;
    let (mut objects, mut bytes) = (0_u64, 0_u64);
    let mut listing = pin!(bucket.list(None));
    while let Some(object) = listing.next().await.transpose()? {
        if wanted.takes(&object) {
            objects = objects.saturating_add(1);
            bytes = bytes.saturating_add(object.size);
        }
    }
    if objects == 0 {
        tell(&format!("{place} has no such log"));
    }
    let progress = Progress::of("downloading", bytes);
    let (mut summary, mut unrecorded, mut silent) = (Summary::default(), 0_u64, 0_u32);
    let mut listing = pin!(bucket.list(None));
    while let Some(object) = listing.next().await.transpose()? {
        if !wanted.takes(&object) {
            continue;
        }
        let brought = bring(&bucket, &object, folder).await;
        silent = match &brought {
            Err(Refused::Store(StoreError::Silent { .. })) => silent.saturating_add(1),
            _ => 0,
        };
        match brought {
            Ok(Brought::Written { is_recorded }) => {
                summary.wrote(object.size);
                unrecorded = unrecorded.saturating_add(u64::from(!is_recorded));
            }
            Ok(Brought::Same) => summary.skip(),
            Err(refused) => {
                summary.fail();
                tell(&format!("{}/{}: {}", object.log, object.name.as_str(), printable(&refused.to_string())));
                if let Refused::Store(error) = refused
                    && silent >= SILENT_MAX
                {
                    return Err(error);
                }
            }
        }
        progress.add(object.size);
    }
    if unrecorded > 0 && matches!(place, Place::S3 { .. }) {
        tell(&format!(
            "{unrecorded} objects have no SHA-256 recorded with them: somebody else than `holdfast audit upload` put them there"
        ));
    }
    Ok(summary)
}

enum Brought {
    Written { is_recorded: bool },
    Same,
}

async fn bring(bucket: &Bucket, object: &Object, folder: &Path) -> Result<Brought, Refused> {
    if object.size > FILE_MAX {
        return Err(Refused::TooLarge);
    }
    let log = folder.join(object.log.to_string());
    let path = log.join(object.name.as_str());
    let here = match open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        file => Some(Content::read(&file?, Part::All)?),
    };
    if let Some(here) = here.as_ref().filter(|here| here.size >= object.size) {
        let is_same = here.size == object.size && holds(bucket, object, here).await?;
        return if is_same { Ok(Brought::Same) } else { Err(Refused::FileDiffers) };
    }
    make_folder(&log)?;
    let new = log.join(format!(".{}.new.{}", object.name.as_str(), std::process::id()));
    let written = fetch(bucket, object, here.as_ref(), &new).await;
    let placed = written.and_then(|is_recorded| {
        fs::rename(&new, &path)?;
        File::open(&log)?.sync_all()?;
        Ok(Brought::Written { is_recorded })
    });
    if placed.is_err() {
        // What is reported is why it is not wanted.
        let _ = fs::remove_file(&new);
    }
    placed
}

/// Whether an object holds this: by the hash that was recorded with it, or else by its bytes.
async fn holds(bucket: &Bucket, object: &Object, content: &Content) -> Result<bool, Refused> {
    if let Some(sha256) = bucket.recorded(object.log, &object.name).await? {
        return Ok(sha256 == content.sha256);
    }
    match bucket.look(object.log, &object.name).await? {
        Found::Object(stored) => Ok((stored.size, &stored.sha256) == (content.size, &content.sha256)),
        Found::Nothing => Ok(false),
        Found::Unreadable(reason) => Err(Refused::Unreadable(reason)),
    }
}

/// Writes an object's bytes into a new file, and says whether their SHA-256 was recorded. `here` is what they must begin with.
async fn fetch(bucket: &Bucket, object: &Object, here: Option<&Content>, new: &Path) -> Result<bool, Refused> {
    // Left by a run that was killed.
    let _ = fs::remove_file(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let Incoming { mut bytes, sha256 } = bucket.fetch(object.log, &object.name, object.e_tag.clone()).await?;
    let (mut all, mut first) = (Context::new(&SHA256), Context::new(&SHA256));
    let (mut read, mut left) = (0_u64, here.map_or(0, |here| here.size));
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| bucket.broke_off(&error))?;
        read = read.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if read > object.size {
            return Err(Refused::Altered);
        }
        all.update(&chunk);
        let of_first = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        first.update(chunk.get(..of_first).unwrap_or_default());
        left = left.saturating_sub(u64::try_from(of_first).unwrap_or(u64::MAX));
        file.write_all(&chunk)?;
    }
    if here.is_some_and(|here| hex::encode(first.finish()) != here.sha256) {
        return Err(Refused::FileDiffers);
    }
    let found = hex::encode(all.finish());
    if read != object.size || sha256.as_ref().is_some_and(|recorded| *recorded != found) {
        return Err(Refused::Altered);
    }
    file.sync_all()?;
    Ok(sha256.is_some())
}

/// A file that is here, if it is one.
fn open(path: &Path) -> io::Result<File> {
    if !path.symlink_metadata()?.is_file() {
        return Err(io::Error::other("what is here is no regular file"));
    }
    File::open(path)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
