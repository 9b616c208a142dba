//! Splitting a root key into shares, and putting it together again.
//!
//! Guarantees: m shares give the root key, fewer say nothing about it (Shamir's scheme over GF(256), by `vsss-rs`, in constant time);
//! the split is a function of root key, seed and generation, so that every enclave that serves the key store can give a custodian
//! its share later; a share that is not the one committed to is found, and named by its place, before it is used. Assumes: the seed
//! is as secret as the root key and lies sealed beside the keys. Refuses: shares of another set, of one place twice, too few.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng;
use ring::hkdf::{HKDF_SHA256, Salt};
use vsss_rs::Gf256;
use zeroize::Zeroizing;

use crate::hpke;
use crate::ids::KeyStoreId;
use crate::labels;
use crate::release::{Commitment, Share, ShareSet};
use crate::secrets::{Secret, with_swept_stack};

/// Bytes of a share as `vsss-rs` has it: its place, then one byte for each of the root key.
const PLACED: usize = 33;

/// Why a root key was not split or put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharingError {
    /// A share is not the one that its set commits to.
    #[error("the share of place {place} is not the one that was committed to")]
    WrongShare {
        /// The share's place in the manifest, from 1.
        place: u8,
    },
    /// Fewer shares than are needed.
    #[error("{have} shares, {need} are needed")]
    TooFew {
        /// Different places.
        have: usize,
        /// m.
        need: usize,
    },
    /// Numbers that cannot be.
    #[error("a root key cannot be split into {shares} shares of which {needed} are needed")]
    BadNumbers {
        /// n.
        shares: usize,
        /// m.
        needed: u8,
    },
}

/// A root key, split.
#[derive(Debug)]
pub struct Split {
    /// The public part.
    pub set: ShareSet,
    /// In the order of places.
    pub shares: Vec<Share>,
}

/// What is split how.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The key store.
    pub key_store_id: KeyStoreId,
    /// Generation of the root key.
    pub generation: u32,
    /// m.
    pub shares_needed: u8,
    /// n, and one more where AWS KMS holds a share.
    pub shares: usize,
}

/// Splits `root`; the same arguments give the same shares.
///
/// # Errors
/// [`SharingError::BadNumbers`].
pub fn split(root: &Secret<32>, seed: &Secret<32>, plan: &Plan) -> Result<Split, SharingError> {
    with_swept_stack(|| split_on_stack(root, seed, plan))
}

fn split_on_stack(root: &Secret<32>, seed: &Secret<32>, plan: &Plan) -> Result<Split, SharingError> {
    let failed = SharingError::BadNumbers { shares: plan.shares, needed: plan.shares_needed };
    let needed = usize::from(plan.shares_needed);
    let last = u8::try_from(plan.shares).map_err(|_| failed)?;
    if needed == 0 || needed > plan.shares {
        return Err(failed);
    }
    let shares: Vec<Share> = if needed == 1 {
        // A polynomial of degree 0: every share is the root key itself.
        (1..=last).map(|index| Share { index, value: root.duplicate() }).collect()
    } else {
        let mut coefficients = coefficients(seed, plan).ok_or(failed)?;
        let placed = Gf256::split_bytes(needed, plan.shares, root.expose(), &mut coefficients).map_err(|_| failed)?;
        placed.into_iter().map(Zeroizing::new).map(|bytes| share(&bytes).ok_or(failed)).collect::<Result<_, _>>()?
    };
    if !shares.iter().map(|share| share.index).eq(1..=last) {
        return Err(failed);
    }
    let commitments = shares.iter().map(|share| Commitment(share.commitment())).collect();
    let set =
        ShareSet { generation: plan.generation, shares_needed: plan.shares_needed, commitments, kms_ciphertext: None };
    Ok(Split { set, shares })
}

fn coefficients(seed: &Secret<32>, plan: &Plan) -> Option<ChaCha20Rng> {
    let numbers = [u8::try_from(plan.shares).ok()?, plan.shares_needed];
    let info = hpke::bind(labels::SPLIT, &[plan.key_store_id.as_bytes(), &plan.generation.to_be_bytes(), &numbers]);
    let mut stream = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(seed.expose())
        .expand(&[&info], HKDF_SHA256)
        .and_then(|okm| okm.fill(stream.as_mut_slice()))
        .ok()?;
    Some(ChaCha20Rng::from_seed(*stream))
}

fn share(placed: &[u8]) -> Option<Share> {
    let [index, value @ ..] = placed else { return None };
    let value: &[u8; 32] = value.try_into().ok()?;
    let value = Secret::fill_with(|own| {
        own.copy_from_slice(value);
        Ok::<_, core::convert::Infallible>(())
    });
    value.ok().map(|value| Share { index: *index, value })
}

/// Checks one share against its set.
///
/// # Errors
/// [`SharingError::WrongShare`].
pub fn check(share: &Share, set: &ShareSet) -> Result<(), SharingError> {
    let committed = usize::from(share.index).checked_sub(1).and_then(|place| set.commitments.get(place));
    if committed == Some(&Commitment(share.commitment())) {
        Ok(())
    } else {
        Err(SharingError::WrongShare { place: share.index })
    }
}

/// Puts a root key together from shares of one set. More than are needed do no harm.
///
/// # Errors
/// [`SharingError`]; a wrong share is named by its place.
pub fn combine(set: &ShareSet, shares: &[&Share]) -> Result<Secret<32>, SharingError> {
    with_swept_stack(|| combine_on_stack(set, shares))
}

fn combine_on_stack(set: &ShareSet, shares: &[&Share]) -> Result<Secret<32>, SharingError> {
    let mut chosen: Vec<&Share> = Vec::new();
    for share in shares {
        check(share, set)?;
        if chosen.iter().all(|other| other.index != share.index) {
            chosen.push(share);
        }
    }
    let need = usize::from(set.shares_needed);
    let too_few = SharingError::TooFew { have: chosen.len(), need };
    if need == 0 || chosen.len() < need {
        return Err(too_few);
    }
    chosen.truncate(need);
    if let ([share], 1) = (chosen.as_slice(), need) {
        return Ok(share.value.duplicate());
    }
    let placed: Vec<Vec<u8>> = chosen.iter().map(|share| placed(share)).collect();
    let root = Gf256::combine_bytes(&placed).map(Zeroizing::new);
    for bytes in placed {
        drop(Zeroizing::new(bytes));
    }
    let root = root.map_err(|_| too_few)?;
    Secret::fill_with(|own| {
        own.copy_from_slice(root.as_slice().first_chunk::<32>().ok_or(too_few)?);
        Ok(())
    })
}

fn placed(share: &Share) -> Vec<u8> {
    // Reserved whole, so that no copy is left behind by growing.
    let mut bytes = Vec::with_capacity(PLACED);
    bytes.push(share.index);
    bytes.extend_from_slice(share.value.expose());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret<32> {
        Secret::take(&mut [byte; 32])
    }

    fn plan(needed: u8, shares: usize) -> Plan {
        Plan { key_store_id: KeyStoreId([7; 32]), generation: 1, shares_needed: needed, shares }
    }

    #[test]
    fn any_m_shares_give_the_root_key_and_fewer_do_not() {
        let root = secret(0xa5);
        for shares in 1..=6_usize {
            for needed in 1..=u8::try_from(shares).unwrap() {
                let split = split(&root, &secret(1), &plan(needed, shares)).unwrap();
                for chosen in 0..1_u32 << shares {
                    let some: Vec<&Share> =
                        split.shares.iter().enumerate().filter(|(i, _)| chosen >> i & 1 == 1).map(|(_, s)| s).collect();
                    let combined = combine(&split.set, &some);
                    if some.len() >= usize::from(needed) {
                        assert_eq!(combined.unwrap(), root, "{needed} of {shares}, chosen {chosen:b}");
                    } else {
                        let expected = SharingError::TooFew { have: some.len(), need: needed.into() };
                        assert_eq!(combined.unwrap_err(), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn the_split_is_a_function_of_all_its_arguments() {
        let of = |root: u8, seed: u8, plan: Plan| {
            split(&secret(root), &secret(seed), &plan)
                .unwrap()
                .shares
                .iter()
                .map(|s| *s.value.expose())
                .collect::<Vec<_>>()
        };
        let usual = of(1, 2, plan(2, 3));
        assert_eq!(usual, of(1, 2, plan(2, 3)));
        for (what, other) in [
            ("root", of(9, 2, plan(2, 3))),
            ("seed", of(1, 9, plan(2, 3))),
            ("generation", of(1, 2, Plan { generation: 2, ..plan(2, 3) })),
            ("key store", of(1, 2, Plan { key_store_id: KeyStoreId([8; 32]), ..plan(2, 3) })),
            ("shares", of(1, 2, plan(2, 4))),
            ("shares needed", of(1, 2, plan(3, 3))),
        ] {
            assert!(usual.iter().all(|share| !other.contains(share)), "{what}");
        }
        // Written once: whoever was down in a ceremony is given this share later, by a newer program too.
        assert_eq!(hex::encode(usual[0]), "29d9239f76ac5ec10a7813fde44fa1b6802f08651873eb28f90ef975bc8d0073");
    }

    #[test]
    fn a_wrong_share_is_named_and_none_counts_twice() {
        let good = split(&secret(1), &secret(2), &plan(2, 3)).unwrap();
        let other = split(&secret(3), &secret(2), &plan(2, 3)).unwrap();
        let [first, second, _] = good.shares.as_slice() else { panic!() };
        let wrong = combine(&good.set, &[first, &other.shares[1]]).unwrap_err();
        assert_eq!(wrong, SharingError::WrongShare { place: 2 });
        let moved = Share { index: 3, value: second.value.duplicate() };
        assert_eq!(combine(&good.set, &[first, &moved]).unwrap_err(), SharingError::WrongShare { place: 3 });
        for index in [0, 4, 255] {
            let beyond = Share { index, value: second.value.duplicate() };
            assert_eq!(check(&beyond, &good.set), Err(SharingError::WrongShare { place: index }));
        }
        assert_eq!(combine(&good.set, &[first, first]).unwrap_err(), SharingError::TooFew { have: 1, need: 2 });
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for (needed, shares) in [(0, 3), (4, 3), (1, 0), (1, 256), (2, 256)] {
            let refused = split(&secret(1), &secret(2), &plan(needed, shares)).unwrap_err();
            assert_eq!(refused, SharingError::BadNumbers { shares, needed });
        }
    }
}
