//! Merkle trees and their proofs (RFC 6962, section 2.1; the checks of proofs as in RFC 9162, sections 2.1.3.2 and 2.1.4.2).
//!
//! Guarantees: a tree takes memory for the logarithm of its size; a proof is made from leaf hashes that are read once, in order. A
//! proof that verifies was made from the leaves under that root. Refuses: proofs with a hash too many or too few.

/// SHA-256 of a leaf or a node.
pub type Hash = [u8; 32];

/// Hash of a leaf: SHA-256(0x00 ‖ entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    crate::sha256(&[&[0], entry])
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    crate::sha256(&[&[1], left, right])
}

/// A node over 2^level leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    level: u32,
    hash: Hash,
}

/// Complete subtrees of the tree over all leaves that together cover the leaves from `begin` to `end`. Ranges that touch can be
/// joined, so parts of a long log may be hashed at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    begin: u64,
    end: u64,
    /// From left to right; at most two of each level.
    nodes: Vec<Node>,
}

impl Range {
    /// No leaf, at `begin`.
    #[must_use]
    pub const fn empty(begin: u64) -> Self {
        Self { begin, end: begin, nodes: Vec::new() }
    }

    /// Index of the first leaf.
    #[must_use]
    pub const fn begin(&self) -> u64 {
        self.begin
    }

    /// Index after the last leaf.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Adds the hash of the next leaf.
    pub fn append_hash(&mut self, leaf: Hash) {
        self.append_node(Node { level: 0, hash: leaf });
    }

    /// Adds the leaves of `next`, which begins where this one ends. Returns whether it does; nothing is added otherwise.
    #[must_use]
    pub fn join(&mut self, next: &Self) -> bool {
        if next.begin != self.end {
            return false;
        }
        for node in &next.nodes {
            self.append_node(*node);
        }
        true
    }

    /// Whoever calls knows that the node begins at `end`, and is a node of the tree over all leaves.
    fn append_node(&mut self, mut node: Node) {
        self.end = self.end.saturating_add(1_u64.checked_shl(node.level).unwrap_or(u64::MAX));
        // A complete subtree ends where `end` is a multiple of its size: then its left half is here, if it begins after `begin`.
        while let Some(left) = self.nodes.last().copied() {
            let size = 2_u64.checked_shl(node.level).unwrap_or(0);
            let is_left_half = left.level == node.level && size != 0 && self.end.is_multiple_of(size);
            if !is_left_half {
                break;
            }
            self.nodes.pop();
            node = Node { level: node.level.saturating_add(1), hash: node_hash(&left.hash, &node.hash) };
        }
        self.nodes.push(node);
    }
}

/// A tree that grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(Range);

impl Default for Tree {
    fn default() -> Self {
        Self(Range::empty(0))
    }
}

impl Tree {
    /// Appends an entry and returns its index.
    pub fn append(&mut self, entry: &[u8]) -> u64 {
        self.append_hash(leaf_hash(entry))
    }

    /// Appends an entry by its [`leaf_hash`] and returns its index.
    pub fn append_hash(&mut self, leaf: Hash) -> u64 {
        let index = self.0.end;
        self.0.append_hash(leaf);
        index
    }

    /// Appends the leaves of a range that begins at [`Tree::size`]. Returns whether it does; nothing is added otherwise.
    #[must_use]
    pub fn join(&mut self, range: &Range) -> bool {
        self.0.join(range)
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.0.end
    }

    /// The root: of no leaves, SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.0.nodes.iter().rev();
        let Some(last) = nodes.next() else { return crate::sha256(&[]) };
        nodes.fold(last.hash, |right, left| node_hash(&left.hash, &right))
    }
}

/// The path that proves the leaf at `index` in a tree of `size`, from the hashes of all its leaves. `None` if `index` is not below
/// `size`, or there are fewer leaves.
pub fn inclusion_proof(index: u64, size: u64, leaves: &mut dyn Iterator<Item = Hash>) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    let mut proof = Vec::new();
    include(index, size, leaves, &mut proof)?;
    Some(proof)
}

/// `PATH(m, D[n])` of RFC 6962, section 2.1.1. Each call halves `size`, so it is 64 deep at most.
fn include(index: u64, size: u64, leaves: &mut dyn Iterator<Item = Hash>, proof: &mut Vec<Hash>) -> Option<()> {
    if size <= 1 {
        return leaves.next().map(|_| ());
    }
    let split = largest_power_below(size);
    if index < split {
        include(index, split, leaves, proof)?;
        proof.push(root_of(size.checked_sub(split)?, leaves)?);
    } else {
        let left = root_of(split, leaves)?;
        include(index.checked_sub(split)?, size.checked_sub(split)?, leaves, proof)?;
        proof.push(left);
    }
    Some(())
}

/// The proof that the tree of `new` leaves begins with the tree of `old` leaves. `None` if `old` is 0 or above `new`, or there are fewer
/// leaves.
pub fn consistency_proof(old: u64, new: u64, leaves: &mut dyn Iterator<Item = Hash>) -> Option<Vec<Hash>> {
    if old == 0 || old > new {
        return None;
    }
    let mut proof = Vec::new();
    connect(old, new, true, leaves, &mut proof)?;
    Some(proof)
}

/// `SUBPROOF(m, D[n], b)` of RFC 6962, section 2.1.2.
fn connect(
    old: u64,
    new: u64,
    is_known: bool,
    leaves: &mut dyn Iterator<Item = Hash>,
    proof: &mut Vec<Hash>,
) -> Option<()> {
    if old == new {
        let root = root_of(new, leaves)?;
        if !is_known {
            proof.push(root);
        }
        return Some(());
    }
    let split = largest_power_below(new);
    if old <= split {
        connect(old, split, is_known, leaves, proof)?;
        proof.push(root_of(new.checked_sub(split)?, leaves)?);
    } else {
        let left = root_of(split, leaves)?;
        connect(old.checked_sub(split)?, new.checked_sub(split)?, false, leaves, proof)?;
        proof.push(left);
    }
    Some(())
}

/// Whether `proof` shows that `leaf` stands at `index` of the tree of `size` leaves under `root`.
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size.saturating_sub(1), *leaf);
    for other in proof {
        if last == 0 {
            return false;
        }
        if !at.is_multiple_of(2) || at == last {
            hash = node_hash(other, &hash);
            while at.is_multiple_of(2) && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, other);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `new_size` leaves under `new_root` begins with the tree of `old_size` leaves under `old_root`.
#[must_use]
pub fn verify_consistency(old_size: u64, old_root: &Hash, new_size: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    if old_size == 0 || old_size > new_size {
        return false;
    }
    // Where the old tree is a complete subtree of the new one, its root is not sent.
    let mut hashes = proof.iter();
    let Some(first) = (if old_size.is_power_of_two() { Some(old_root) } else { hashes.next() }) else { return false };
    let (mut at, mut last) = (old_size.saturating_sub(1), new_size.saturating_sub(1));
    while !at.is_multiple_of(2) {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old, mut new) = (*first, *first);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if !at.is_multiple_of(2) || at == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while at.is_multiple_of(2) && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    last == 0 && old == *old_root && new == *new_root
}

/// The largest power of two below `size`, which is at least 2.
const fn largest_power_below(size: u64) -> u64 {
    match size.saturating_sub(1).checked_ilog2() {
        Some(level) => 1_u64 << level,
        None => 0,
    }
}

fn root_of(count: u64, leaves: &mut dyn Iterator<Item = Hash>) -> Option<Hash> {
    let mut tree = Tree::default();
    for _ in 0..count {
        tree.append_hash(leaves.next()?);
    }
    Some(tree.root())
}

#[cfg(test)]
mod tests;
