//! Block overlays at all custodians.

use holdfast_shared::block::{self, BlockError, BlockOverlay};
use holdfast_shared::query::{Answer, Question};
use holdfast_shared::signature::Envelope;
use holdfast_shared::{api, cbor};

use super::contact::{Contact, Heard, with_each};
use super::{Session, SessionError};
use crate::files;
use crate::output::tell;

impl Session {
    /// The block overlays that custodians have in force, with their signatures verified; the newest is noted.
    pub async fn overlays(&self) -> Heard<Option<BlockOverlay>> {
        let manifest = &self.store.manifest;
        let heard = with_each(&self.contacts, self.quorum().answers(), |contact| async move {
            match contact.ask(Question::Overlay).await? {
                Answer::Overlay { overlay } => Ok(overlay),
                _ => Err(SessionError::OtherAnswer),
            }
        })
        .await;
        let open = |signed: Option<Vec<u8>>| {
            let Some(signed) = signed else { return Ok(None) };
            let overlay = block::open_under(&signed, manifest, None)?;
            self.note_overlay(&overlay, &signed);
            Ok(Some(overlay))
        };
        heard.into_iter().map(|(contact, said)| (contact, said.map(|said| said.and_then(open)))).collect()
    }

    /// The newest block overlay that was signed or seen with this folder.
    #[must_use]
    pub fn known_overlay(&self) -> Option<BlockOverlay> {
        self.home.known_overlay(&self.store)
    }

    /// Verifies an overlay as custodians do.
    ///
    /// # Errors
    /// [`BlockError`].
    pub fn open_overlay(&self, signed: &[u8]) -> Result<BlockOverlay, BlockError> {
        block::open_under(signed, &self.store.manifest, None)
    }

    /// Keeps an overlay as the newest one that is known here.
    pub fn note_overlay(&self, overlay: &BlockOverlay, signed: &[u8]) {
        if self.known_overlay().is_some_and(|known| known.epoch >= overlay.epoch) {
            return;
        }
        if let Err(error) = files::replace(&self.home.overlay_file(self.store.manifest.id()), signed) {
            tell(&format!("holdfast: the block overlay is not noted here: {error}"));
        }
    }

    /// Signs an overlay.
    ///
    /// # Errors
    /// [`SessionError::Signature`].
    pub fn sign_overlay(&self, overlay: &BlockOverlay) -> Result<Envelope, SessionError> {
        Ok(block::sign(overlay, &self.keys.signing_key, &self.rng)?)
    }
}

/// Sends an overlay to one custodian; when this returns, the custodian has said under its signature that exactly this is in force. The
/// empty answer to the overlay itself is worth no more than the TLS connection that it came over.
///
/// # Errors
/// [`SessionError`]; [`SessionError::Unconfirmed`] also when another administrator's overlay replaced it in between.
pub async fn put_overlay(contact: &Contact, signed: &[u8]) -> Result<(), SessionError> {
    contact.send(api::BLOCKS, signed.to_vec()).await?;
    let Answer::Overlay { overlay: shown } = contact.ask(Question::Overlay).await? else {
        return Err(SessionError::OtherAnswer);
    };
    let read = |signed: &[u8]| {
        let envelope: Envelope = cbor::decode(signed)?;
        cbor::decode::<BlockOverlay>(envelope.unverified_payload())
    };
    let (ordered, shown) = (read(signed)?, shown.as_deref().map(read).transpose()?);
    if shown.as_ref() == Some(&ordered) {
        return Ok(());
    }
    Err(SessionError::Unconfirmed { ordered: ordered.epoch, shown: shown.map_or(0, |shown| shown.epoch) })
}
