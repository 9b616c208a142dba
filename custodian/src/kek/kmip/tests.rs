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
