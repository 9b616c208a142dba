//! The answer of AWS KMS to an attested request, against a reader of BER that first makes a tree.

use holdfast_shared::cms::EnvelopedData;
use holdfast_shared::limits::{CIPHERTEXT_FOR_RECIPIENT_MAX, KMS_RECIPIENT_ID_MAX};

use super::Verdict;

const DEPTH_MAX: usize = 12;

/// `CiphertextForRecipient`: both readers take the same messages and read the same from them.
#[must_use]
pub fn kms_answer(data: &[u8]) -> Verdict {
    let first = EnvelopedData::parse(data);
    let second = read(data);
    match (&first, &second) {
        (Ok(first), Some(second)) => {
            assert_eq!(first.encrypted_key().as_slice(), second.key);
            assert_eq!(first.iv().as_slice(), second.iv);
            assert_eq!(first.content(), second.content);
        }
        (Err(_), None) => {}
        (first, second) => panic!("the readers disagree: {:?}, {}", first.is_ok(), second.is_some()),
    }
    first.is_ok().into()
}

struct Message<'a> {
    key: &'a [u8],
    iv: &'a [u8],
    content: Vec<u8>,
}

struct Node<'a> {
    tag: u8,
    is_indefinite: bool,
    /// Of a primitive.
    value: &'a [u8],
    /// Of a constructed one.
    children: Vec<Node<'a>>,
}

impl<'a> Node<'a> {
    fn sequence(&self, tag: u8, is_indefinite: bool, len: usize) -> Option<&[Self]> {
        (self.tag == tag && self.is_indefinite == is_indefinite && self.children.len() == len)
            .then_some(&*self.children)
    }

    fn primitive(&self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.value)
    }

    fn is(&self, tag: u8, value: &str) -> Option<()> {
        (self.primitive(tag)? == hex::decode(value).ok()?).then_some(())
    }
}

fn node(data: &[u8], depth: usize) -> Option<(Node<'_>, &[u8])> {
    let (&tag, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let is_constructed = tag & 0x20 != 0;
    if depth > DEPTH_MAX {
        return None;
    }
    if first == 0x80 {
        let mut rest = rest;
        let mut children = Vec::new();
        while !rest.starts_with(&[0, 0]) {
            let (child, after) = node(rest, depth + 1)?;
            children.push(child);
            rest = after;
        }
        let node = Node { tag, is_indefinite: true, value: &[], children };
        return is_constructed.then_some((node, rest.get(2..)?));
    }
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > 3 {
            return None;
        }
        let len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let shortest = match len {
            0..=0x7f => 0,
            0x80..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 3,
        };
        (bytes.len() == shortest).then_some((len, rest))?
    };
    let (value, rest) = rest.split_at_checked(len)?;
    let mut children = Vec::new();
    let mut inside = value;
    while is_constructed && !inside.is_empty() {
        let (child, after) = node(inside, depth + 1)?;
        children.push(child);
        inside = after;
    }
    Some((Node { tag, is_indefinite: false, value, children }, rest))
}

fn read(data: &[u8]) -> Option<Message<'_>> {
    let (root, rest) = node(data, 0)?;
    if !rest.is_empty() || data.len() > CIPHERTEXT_FOR_RECIPIENT_MAX {
        return None;
    }
    let [kind, explicit] = root.sequence(0x30, true, 2)? else { return None };
    kind.is(0x06, "2a864886f70d010703")?;
    let [enveloped] = explicit.sequence(0xa0, true, 1)? else { return None };
    let [version, recipients, encrypted] = enveloped.sequence(0x30, true, 3)? else { return None };
    version.is(0x02, "02")?;
    let [recipient] = recipients.sequence(0x31, false, 1)? else { return None };
    let [version, identifier, algorithm, key] = recipient.sequence(0x30, false, 4)? else { return None };
    version.is(0x02, "02")?;
    if !(1..=KMS_RECIPIENT_ID_MAX).contains(&identifier.primitive(0x80)?.len()) {
        return None;
    }
    oaep(algorithm)?;
    let [kind, cipher, content] = encrypted.sequence(0x30, true, 3)? else { return None };
    kind.is(0x06, "2a864886f70d010701")?;
    let [aes, iv] = cipher.sequence(0x30, false, 2)? else { return None };
    aes.is(0x06, "60864801650304012a")?;
    let content = pieces(content)?;
    let (key, iv) = (key.primitive(0x04)?, iv.primitive(0x04)?);
    (key.len() == 256 && iv.len() == 16).then_some(Message { key, iv, content })
}

fn oaep(node: &Node<'_>) -> Option<()> {
    let [kind, parameters] = node.sequence(0x30, false, 2)? else { return None };
    kind.is(0x06, "2a864886f70d010107")?;
    let [hash, mask] = parameters.sequence(0x30, false, 2)? else { return None };
    let [hash] = hash.sequence(0xa0, false, 1)? else { return None };
    let [mask] = mask.sequence(0xa1, false, 1)? else { return None };
    let [kind, mask_hash] = mask.sequence(0x30, false, 2)? else { return None };
    kind.is(0x06, "2a864886f70d010108")?;
    // NULL in both or in none.
    (sha256(hash)? == sha256(mask_hash)?).then_some(())
}

/// Whether NULL follows.
fn sha256(node: &Node<'_>) -> Option<bool> {
    let has_null = node.children.len() == 2;
    let children = node.sequence(0x30, false, if has_null { 2 } else { 1 })?;
    children.first()?.is(0x06, "608648016503040201")?;
    if has_null {
        children.get(1)?.is(0x05, "")?;
    }
    Some(has_null)
}

fn pieces(node: &Node<'_>) -> Option<Vec<u8>> {
    let content = if node.tag == 0x80 {
        node.value.to_vec()
    } else {
        let children = node.sequence(0xa0, true, node.children.len())?;
        let pieces: Option<Vec<&[u8]>> =
            children.iter().map(|piece| piece.primitive(0x04).filter(|piece| !piece.is_empty())).collect();
        pieces?.concat()
    };
    ((16..=4112).contains(&content.len()) && content.len() % 16 == 0).then_some(content)
}
