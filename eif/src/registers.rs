//! What the hypervisor will measure of an image: PCR 0, 1, 2 and, of a signed image, 8.
//!
//! Each register is SHA-384(0⁴⁸ ‖ SHA-384(content)): PCR 0 over kernel, command line and all ramdisks in their order; PCR 1 over
//! kernel, command line and the first ramdisk; PCR 2 over the other ramdisks; PCR 8 over the signing certificate in DER.
//! Source: "Where to get an enclave's measurements" in the AWS Nitro Enclaves user guide, and the builder of
//! `aws-nitro-enclaves-image-format` 0.8.

use holdfast_shared::attestation::extend_pcr;
use holdfast_shared::attestation::measurements::PCR_LEN;
use ring::digest;

use crate::image::Image;
use crate::signature::{Signature, SignatureError};

/// The registers of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// The whole image.
    pub pcr0: [u8; PCR_LEN],
    /// Kernel, command line and boot ramdisk.
    pub pcr1: [u8; PCR_LEN],
    /// The application.
    pub pcr2: [u8; PCR_LEN],
    /// The signing certificate, where the image is signed.
    pub pcr8: Option<[u8; PCR_LEN]>,
}

impl Registers {
    /// Measures an image, and verifies its signature if it has one.
    ///
    /// # Errors
    /// A signature section that cannot be read, or a signature that is not by its certificate over this image's PCR 0: such
    /// an image does not boot.
    pub fn of(image: &Image) -> Result<Self, SignatureError> {
        let boot = [image.kernel.as_slice(), image.command_line.as_bytes()];
        let (first, others) = image.ramdisks.split_at(image.ramdisks.len().min(1));
        let all = boot.into_iter().chain(image.ramdisks.iter().map(Vec::as_slice));
        let pcr0 = register(all);
        let pcr1 = register(boot.into_iter().chain(first.iter().map(Vec::as_slice)));
        let pcr2 = register(others.iter().map(Vec::as_slice));
        let pcr8 = match &image.signature {
            Some(section) => {
                let signature = Signature::parse(section)?;
                signature.verify(&pcr0)?;
                Some(register(core::iter::once(signature.certificate_der())))
            }
            None => None,
        };
        Ok(Self { pcr0, pcr1, pcr2, pcr8 })
    }
}

fn register<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; PCR_LEN] {
    let mut context = digest::Context::new(&digest::SHA384);
    parts.for_each(|part| context.update(part));
    extend_pcr([0; PCR_LEN], context.finish().as_ref())
}
