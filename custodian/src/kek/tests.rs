//! What every place of the key has in common, shown with a key in a file.

use super::*;

fn kek(byte: u8) -> Kek {
    Kek::new(Box::new(FileKey::of(byte)), Duration::from_secs(5))
}

#[tokio::test]
async fn a_secret_opens_under_its_own_key_and_purpose_only() {
    let wrapped = kek(1).wrap(b"purpose", b"secret").await.unwrap();
    assert_eq!(kek(1).unwrap(b"purpose", &wrapped).await.unwrap().expose(), b"secret");
    assert!(!wrapped.windows(6).any(|window| window == b"secret"));
    assert!(kek(2).unwrap(b"purpose", &wrapped).await.is_err(), "another key");
    assert!(kek(1).unwrap(b"other", &wrapped).await.is_err(), "another purpose");
    for index in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[index] ^= 1;
        assert!(kek(1).unwrap(b"purpose", &changed).await.is_err(), "byte {index}");
        assert!(kek(1).unwrap(b"purpose", &wrapped[..index]).await.is_err(), "cut at {index}");
    }
}

#[tokio::test]
async fn no_two_wrappings_are_alike() {
    assert_ne!(kek(1).wrap(b"", b"secret").await.unwrap(), kek(1).wrap(b"", b"secret").await.unwrap());
}

#[tokio::test]
async fn a_secret_that_another_kind_of_key_wrapped_is_told_from_damage() {
    let wrapped = kek(1).wrap(b"purpose", b"secret").await.unwrap();
    for (format, expected) in
        [(2, Some(Place::Pkcs11)), (3, Some(Place::Transit)), (4, Some(Place::Kmip)), (0, None), (5, None)]
    {
        let mut changed = wrapped.clone();
        changed[0] = format;
        let found = match kek(1).unwrap(b"purpose", &changed).await.unwrap_err() {
            KekError::OtherPlace { wrapped, configured: Place::File } => Some(wrapped),
            KekError::OpenFailed => None,
            other => panic!("{other}"),
        };
        assert_eq!(found, expected, "format {format}");
    }
}

#[tokio::test]
async fn sizes_have_bounds() {
    assert!(kek(1).wrap(b"", &[0; SECRET_MAX]).await.is_ok());
    assert!(matches!(kek(1).wrap(b"", &[0; SECRET_MAX + 1]).await, Err(KekError::Misconfigured { .. })));
    assert!(matches!(kek(1).unwrap(b"", &[1; WRAPPED_MAX + 1]).await, Err(KekError::OpenFailed)));
}
