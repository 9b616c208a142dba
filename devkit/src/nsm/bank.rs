//! The registers of one enclave.
//!
//! Guarantees: the device's rules. Registers 0 to 15 are locked before the enclave starts; 16 to 31 start at zero, can be
//! extended until they are locked, and are attested only once they are.

use std::collections::{BTreeMap, BTreeSet};

use aws_nitro_enclaves_nsm_api::api::ErrorCode;
use holdfast_shared::attestation::extend_pcr;
use holdfast_shared::attestation::measurements::PCR_LEN;

/// Registers in a bank.
pub const PCR_COUNT: u8 = 32;
/// Registers that belong to the hypervisor.
pub const RESERVED_PCRS: u8 = 16;

#[derive(Clone, Copy)]
struct Pcr {
    value: [u8; PCR_LEN],
    is_locked: bool,
}

/// The registers of one enclave.
pub struct PcrBank(BTreeMap<u8, Pcr>);

impl PcrBank {
    /// The bank of an enclave that starts now with these measurements.
    pub fn boot(measured: &BTreeMap<u8, [u8; PCR_LEN]>) -> Self {
        let register = |index: u8| Pcr {
            value: measured.get(&index).copied().unwrap_or([0; PCR_LEN]),
            is_locked: index < RESERVED_PCRS,
        };
        Self((0..PCR_COUNT).map(|index| (index, register(index))).collect())
    }

    /// Whether a register is locked, and its value.
    ///
    /// # Errors
    /// `InvalidIndex`.
    pub fn describe(&self, index: u16) -> Result<(bool, [u8; PCR_LEN]), ErrorCode> {
        let pcr = u8::try_from(index).ok().and_then(|index| self.0.get(&index));
        pcr.map(|pcr| (pcr.is_locked, pcr.value)).ok_or(ErrorCode::InvalidIndex)
    }

    /// The register's new value.
    ///
    /// # Errors
    /// `InvalidIndex`, `ReadOnlyIndex`.
    pub fn extend(&mut self, index: u16, data: &[u8]) -> Result<[u8; PCR_LEN], ErrorCode> {
        let pcr = self.unlocked(index)?;
        pcr.value = extend_pcr(pcr.value, data);
        Ok(pcr.value)
    }

    /// Locks a register for good.
    ///
    /// # Errors
    /// `InvalidIndex`, `ReadOnlyIndex` if it is locked already.
    pub fn lock(&mut self, index: u16) -> Result<(), ErrorCode> {
        self.unlocked(index)?.is_locked = true;
        Ok(())
    }

    /// Locks the registers below `range`, locked or not.
    ///
    /// # Errors
    /// `InvalidIndex` if there are fewer registers.
    pub fn lock_range(&mut self, range: u16) -> Result<(), ErrorCode> {
        if range > u16::from(PCR_COUNT) {
            return Err(ErrorCode::InvalidIndex);
        }
        for (index, pcr) in &mut self.0 {
            pcr.is_locked |= u16::from(*index) < range;
        }
        Ok(())
    }

    /// The indexes of the locked registers.
    pub fn locked(&self) -> BTreeSet<u16> {
        self.attested().keys().map(|index| u16::from(*index)).collect()
    }

    /// What a document shows: the locked registers.
    pub fn attested(&self) -> BTreeMap<u8, [u8; PCR_LEN]> {
        let locked = self.0.iter().filter(|(_, pcr)| pcr.is_locked);
        locked.map(|(index, pcr)| (*index, pcr.value)).collect()
    }

    fn unlocked(&mut self, index: u16) -> Result<&mut Pcr, ErrorCode> {
        let pcr = u8::try_from(index).ok().and_then(|index| self.0.get_mut(&index));
        let pcr = pcr.ok_or(ErrorCode::InvalidIndex)?;
        if pcr.is_locked {
            return Err(ErrorCode::ReadOnlyIndex);
        }
        Ok(pcr)
    }
}
