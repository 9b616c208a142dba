use super::*;

#[test]
fn a_wrapped_secret_is_taken_apart() {
    let bytes = [&[3], b"key".as_slice(), &[1; NONCE_LEN], &[2; TAG_LEN], b"ciphertext"].concat();
    let wrapped = parse(&bytes).unwrap();
    assert_eq!(wrapped, Wrapped { key: "key", nonce: &[1; NONCE_LEN], tag: &[2; TAG_LEN], ciphertext: b"ciphertext" });
    for end in 0..=3 + NONCE_LEN + TAG_LEN {
        assert_eq!(parse(&bytes[..end]), None, "cut at {end}");
    }
    for (at, byte) in [(0, 0), (0, 255), (1, b' '), (1, b'\n'), (1, 0xFF)] {
        let mut changed = bytes.clone();
        changed[at] = byte;
        assert_eq!(parse(&changed), None, "byte {at} is {byte}");
    }
}

#[test]
fn what_a_server_encrypted_otherwise_is_not_stored() {
    let bytes = |bytes: &[u8]| SecretBytes::new(bytes.to_vec());
    let made = |data: &[u8], nonce: Option<&[u8]>, tag: Option<&[u8]>| {
        let answer = Encrypted { data: bytes(data), nonce: nonce.map(bytes), tag: tag.map(bytes) };
        assemble("key", &[1; NONCE_LEN], b"secret", &answer)
    };
    let (nonce, tag) = ([1; NONCE_LEN], [2; TAG_LEN]);
    for nonce in [None, Some(nonce.as_slice())] {
        let wrapped = made(b"cipher", nonce, Some(&tag)).unwrap();
        let expected = Wrapped { key: "key", nonce: &[1; NONCE_LEN], tag: &tag, ciphertext: b"cipher" };
        assert_eq!(parse(&wrapped), Some(expected));
    }
    assert_eq!(made(b"cipher", Some(&[3; NONCE_LEN]), Some(&tag)), None, "another nonce");
    assert_eq!(made(b"cipher", Some(&[1; 16]), Some(&tag)), None, "a longer nonce");
    assert_eq!(made(b"cipher", None, None), None, "no tag");
    assert_eq!(made(b"cipher", None, Some(&tag[..12])), None, "a shorter tag");
    assert_eq!(made(b"ciphertexttag", None, Some(&tag)), None, "more than the secret");
    assert_eq!(made(b"secret", None, Some(&tag)), None, "the secret itself");
    let answer = Encrypted { data: bytes(b"cipher"), nonce: None, tag: Some(bytes(&tag)) };
    assert_eq!(assemble(&"k".repeat(256), &nonce, b"secret", &answer), None, "a key that does not fit");
}
