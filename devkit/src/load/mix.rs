//! Which operations are asked for, and how often each.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// An operation of the XKS API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `Encrypt`.
    Encrypt,
    /// `Decrypt`.
    Decrypt,
    /// `GetKeyMetadata`.
    Metadata,
    /// `GetHealthStatus`.
    Health,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Encrypt, Self::Decrypt, Self::Metadata, Self::Health];

    /// As mixes and paths have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Metadata => "metadata",
            Self::Health => "health",
        }
    }

    /// Its place in [`Operation::ALL`].
    #[must_use]
    pub const fn number(self) -> usize {
        match self {
            Self::Encrypt => 0,
            Self::Decrypt => 1,
            Self::Metadata => 2,
            Self::Health => 3,
        }
    }
}

/// Operations with their weights; at least one is above zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    weights: [u32; 4],
    total: u64,
}

/// A text that is no mix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected operations and weights such as decrypt=85,encrypt=10,metadata=5; the operations are {names}", names = Operation::ALL.map(Operation::name).join(", "))]
pub struct MixError;

impl Mix {
    /// One operation alone.
    #[must_use]
    pub fn only(operation: Operation) -> Self {
        let weights = Operation::ALL.map(|other| u32::from(other == operation));
        Self { weights, total: 1 }
    }

    /// The operation to which a random number leads.
    #[must_use]
    pub fn pick(&self, random: u64) -> Operation {
        let mut left = random % self.total;
        for (operation, weight) in self.parts() {
            match left.checked_sub(weight.into()) {
                Some(less) => left = less,
                None => return operation,
            }
        }
        // Weights sum up to the total, so one of them is always above what is left.
        Operation::Health
    }

    /// What can be picked, with its weight.
    pub fn parts(&self) -> impl Iterator<Item = (Operation, u32)> {
        Operation::ALL.into_iter().zip(self.weights).filter(|(_, weight)| *weight > 0)
    }

    /// Whether an operation can be picked.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.parts().any(|(part, _)| part == operation)
    }

    /// The most frequent operation.
    #[must_use]
    pub fn main(&self) -> Operation {
        self.parts().max_by_key(|(_, weight)| *weight).map_or(Operation::Health, |(operation, _)| operation)
    }
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let mut mix = Self { weights: [0; 4], total: 0 };
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let operation = Operation::ALL.into_iter().find(|operation| operation.name() == name).ok_or(MixError)?;
            let weight: u32 = weight.parse().map_err(|_| MixError)?;
            let slot = mix.weights.get_mut(operation.number()).filter(|slot| **slot == 0).ok_or(MixError)?;
            *slot = weight;
            mix.total += u64::from(weight);
        }
        if mix.total == 0 { Err(MixError) } else { Ok(mix) }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = self.parts().peekable();
        while let Some((operation, weight)) = parts.next() {
            write!(f, "{}={weight}{}", operation.name(), if parts.peek().is_some() { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for Mix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::random::Random;

    #[test]
    fn mixes_are_read() {
        for (text, shown) in [
            ("decrypt=85,encrypt=10,metadata=5", Some("encrypt=10,decrypt=85,metadata=5")),
            ("health", Some("health=1")),
            ("encrypt,decrypt", Some("encrypt=1,decrypt=1")),
            ("encrypt=0,decrypt=3", Some("decrypt=3")),
            ("", None),
            ("encrypt=0", None),
            ("encrypt=-1", None),
            ("encrypt=1,encrypt=2", None),
            ("sign=1", None),
            ("encrypt=1,", None),
        ] {
            assert_eq!(text.parse::<Mix>().ok().map(|mix| mix.to_string()).as_deref(), shown, "{text:?}");
        }
    }

    #[test]
    fn each_operation_comes_as_often_as_its_weight_says() {
        let mix: Mix = "decrypt=85,encrypt=10,metadata=5".parse().unwrap();
        let mut counts = [0_u32; 4];
        for number in 0..100 {
            counts[mix.pick(number).number()] += 1;
        }
        assert_eq!(counts, [10, 85, 5, 0], "a hundred consecutive numbers");
        let mut random = Random::of(7, 0, 0);
        let decrypts = (0..10_000).filter(|_| mix.pick(random.next()) == Operation::Decrypt).count();
        assert!((8_300..8_700).contains(&decrypts), "seed 7: {decrypts}");
        assert_eq!((mix.main(), mix.has(Operation::Health)), (Operation::Decrypt, false));
    }
}
