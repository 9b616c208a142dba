//! `CiphertextBlob`.
//!
//! | bytes | |
//! |---|---|
//! | 1 | format: 1 |
//! | 16 | id of the KMS key |
//! | 1 + n | initialization vector, behind its length |
//! | 1 + 16 | authentication tag, behind its length |
//! | 1 + n | ciphertext metadata, behind its length: at most 20 |
//! | rest | ciphertext of the proxy |
//!
//! Refuses: lengths that the specification does not allow, when it is made and when it is read.

/// Its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// A UUID.
    pub key_id: String,
    /// 12 or 16 bytes.
    pub initialization_vector: Vec<u8>,
    /// 16 bytes.
    pub authentication_tag: Vec<u8>,
    /// At most 20 bytes; none is as good as an empty one.
    pub metadata: Vec<u8>,
    /// What the proxy made.
    pub ciphertext: Vec<u8>,
}

const FORMAT: u8 = 1;
const METADATA_MAX: usize = 20;

impl Blob {
    /// The bytes, if the lengths are those of the specification.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.has_lengths() {
            return None;
        }
        let mut bytes = vec![FORMAT];
        bytes.extend(hex::decode(self.key_id.replace('-', "")).ok()?);
        for part in [&self.initialization_vector, &self.authentication_tag, &self.metadata] {
            bytes.push(u8::try_from(part.len()).ok()?);
            bytes.extend(part);
        }
        bytes.extend(&self.ciphertext);
        Some(bytes)
    }

    /// The parts, if the bytes are such a blob.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let (id, mut rest) = rest.split_first_chunk::<16>()?;
        let mut part = || {
            let (length, after) = rest.split_first()?;
            let (part, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(part.to_vec())
        };
        let (initialization_vector, authentication_tag, metadata) = (part()?, part()?, part()?);
        let hex = hex::encode(id);
        let group = |range: core::ops::Range<usize>| hex.get(range).unwrap_or_default();
        let key_id = [group(0..8), group(8..12), group(12..16), group(16..20), group(20..32)].join("-");
        let blob = Self { key_id, initialization_vector, authentication_tag, metadata, ciphertext: rest.to_vec() };
        (*format == FORMAT && blob.has_lengths()).then_some(blob)
    }

    fn has_lengths(&self) -> bool {
        [12, 16].contains(&self.initialization_vector.len())
            && self.authentication_tag.len() == 16
            && self.metadata.len() <= METADATA_MAX
            && !self.ciphertext.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_whole_or_not_at_all() {
        let blob = Blob {
            key_id: "1234abcd-12ab-34cd-56ef-1234567890ab".to_owned(),
            initialization_vector: vec![1; 12],
            authentication_tag: vec![2; 16],
            metadata: vec![3; 20],
            ciphertext: vec![4; 60],
        };
        let bytes = blob.to_bytes().unwrap();
        assert_eq!(Blob::parse(&bytes), Some(blob.clone()));
        let without_ciphertext = bytes.len() - 60;
        for length in 0..=without_ciphertext {
            assert_eq!(Blob::parse(&bytes[..length]), None, "{length}");
        }
        let wrong = [
            Blob { initialization_vector: vec![1; 13], ..blob.clone() },
            Blob { authentication_tag: vec![2; 15], ..blob.clone() },
            Blob { metadata: vec![3; 21], ..blob.clone() },
            Blob { ciphertext: Vec::new(), ..blob },
        ];
        for blob in wrong {
            assert_eq!(blob.to_bytes(), None, "{blob:?}");
        }
    }
}
