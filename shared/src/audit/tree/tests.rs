use super::*;

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap()
}

fn narrow(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
}

fn root(leaves: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    for leaf in leaves {
        tree.append_hash(*leaf);
    }
    tree.root()
}

fn hash(value: &serde_json::Value) -> Hash {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

/// The published test vectors of Certificate Transparency, see `tests/vectors/audit/README.md`.
#[test]
fn roots_and_proofs_are_those_of_certificate_transparency() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/audit/rfc6962.json")).unwrap();
    let entries: Vec<Vec<u8>> =
        vectors["leaves"].as_array().unwrap().iter().map(|leaf| hex::decode(leaf.as_str().unwrap()).unwrap()).collect();
    let hashes: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
    let roots: Vec<Hash> = vectors["roots"].as_array().unwrap().iter().map(hash).collect();
    let mut tree = Tree::default();
    assert_eq!(tree.root(), roots[0]);
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(tree.append(entry), wide(index));
        assert_eq!(tree.root(), roots[index + 1], "size {}", index + 1);
    }
    let proof_of =
        |case: &serde_json::Value| -> Vec<Hash> { case["proof"].as_array().unwrap().iter().map(hash).collect() };
    for case in vectors["inclusion"].as_array().unwrap() {
        let (index, size) = (case["index"].as_u64().unwrap(), case["size"].as_u64().unwrap());
        let proof = inclusion_proof(index, size, &mut hashes.iter().copied()).unwrap();
        assert_eq!(proof, proof_of(case), "{case}");
        assert!(verify_inclusion(&hashes[narrow(index)], index, size, &proof, &roots[narrow(size)]));
    }
    for case in vectors["consistency"].as_array().unwrap() {
        let (old, new) = (case["old"].as_u64().unwrap(), case["new"].as_u64().unwrap());
        let proof = consistency_proof(old, new, &mut hashes.iter().copied()).unwrap();
        assert_eq!(proof, proof_of(case), "{case}");
        assert!(verify_consistency(old, &roots[narrow(old)], new, &roots[narrow(new)], &proof));
    }
}

#[test]
fn inclusion_holds_for_every_leaf_of_every_size_and_for_nothing_else() {
    let all = leaves(130);
    for size in 1..=130_usize {
        let root = root(&all[..size]);
        for index in 0..size {
            let (index64, size64) = (wide(index), wide(size));
            let proof = inclusion_proof(index64, size64, &mut all.iter().copied()).unwrap();
            assert!(verify_inclusion(&all[index], index64, size64, &proof, &root), "{index} of {size}");
            let other = (index + 1) % size;
            assert!(size == 1 || !verify_inclusion(&all[other], index64, size64, &proof, &root));
            assert!(size == 1 || !verify_inclusion(&all[index], wide(other), size64, &proof, &root));
            let longer = [proof.as_slice(), &[[0; 32]]].concat();
            assert!(!verify_inclusion(&all[index], index64, size64, &longer, &root));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!verify_inclusion(&all[index], index64, size64, shorter, &root));
            }
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][at % 32] ^= 1;
                assert!(!verify_inclusion(&all[index], index64, size64, &changed, &root));
            }
        }
        assert_eq!(inclusion_proof(wide(size), wide(size), &mut all.iter().copied()), None);
    }
    assert_eq!(inclusion_proof(3, 131, &mut all.iter().copied()), None, "a leaf too few");
}

#[test]
fn consistency_holds_between_all_sizes_and_for_nothing_else() {
    let all = leaves(130);
    let roots: Vec<Hash> = (0..=130).map(|size| root(&all[..size])).collect();
    for new in 1..=130_usize {
        for old in 1..=new {
            let (old64, new64) = (wide(old), wide(new));
            let proof = consistency_proof(old64, new64, &mut all.iter().copied()).unwrap();
            assert!(verify_consistency(old64, &roots[old], new64, &roots[new], &proof), "{old} in {new}");
            assert!(!verify_consistency(old64, &roots[old - 1], new64, &roots[new], &proof));
            assert!(!verify_consistency(old64, &roots[old], new64, &roots[new - 1], &proof));
            let longer = [proof.as_slice(), &[[0; 32]]].concat();
            assert!(!verify_consistency(old64, &roots[old], new64, &roots[new], &longer));
            for at in 0..proof.len() {
                let mut changed = proof.clone();
                changed[at][at % 32] ^= 1;
                assert!(!verify_consistency(old64, &roots[old], new64, &roots[new], &changed));
            }
        }
    }
    assert_eq!(consistency_proof(0, 5, &mut all.iter().copied()), None);
    assert_eq!(consistency_proof(6, 5, &mut all.iter().copied()), None);
    assert!(!verify_consistency(0, &roots[0], 5, &roots[5], &[]));
    assert!(!verify_consistency(6, &roots[6], 5, &roots[5], &[]));
}

#[test]
fn ranges_that_touch_join_to_the_same_tree() {
    let all = leaves(40);
    let range = |from: usize, to: usize| {
        let mut range = Range::empty(wide(from));
        for leaf in &all[from..to] {
            range.append_hash(*leaf);
        }
        range
    };
    for first in 0..=40 {
        for second in first..=40 {
            let mut tree = Tree::default();
            assert!(tree.join(&range(0, first)) && tree.join(&range(first, second)) && tree.join(&range(second, 40)));
            assert_eq!((tree.size(), tree.root()), (40, root(&all)), "{first}, {second}");
        }
    }
    let mut tree = Tree::default();
    assert!(!tree.join(&range(1, 2)), "a gap");
    assert_eq!(tree.size(), 0);
}

#[test]
fn the_largest_sizes_neither_overflow_nor_hang() {
    let hash = [7; 32];
    for (index, size) in [(0, u64::MAX), (u64::MAX - 1, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, u64::MAX)] {
        assert!(!verify_inclusion(&hash, index, size, &[hash; 64], &hash));
        assert!(!verify_consistency(index, &hash, size, &hash, &[hash; 65]));
    }
}
