//! What every place of the key has in common, shown with a key in a file.

use std::sync::{Arc, Mutex};

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

/// A key that does as it is told.
struct Moody {
    key: FileKey,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Away,
    Hanging,
    /// Wraps, and opens nothing.
    Forgetful,
    Unhealthy,
}

impl Moody {
    async fn call<T>(&self, wraps: bool, result: Result<T, KekError>) -> Result<T, KekError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well | Mood::Unhealthy => result,
            Mood::Away => Err(away()),
            Mood::Hanging => std::future::pending().await,
            Mood::Forgetful if wraps => result,
            Mood::Forgetful => Err(KekError::OpenFailed),
        }
    }
}

fn away() -> KekError {
    KekError::Unavailable { what: "it is away".to_owned(), remedy: "wait".to_owned() }
}

impl KeyEncryptionKey for Moody {
    fn place(&self) -> Place {
        Place::Pkcs11
    }

    fn describe(&self) -> String {
        "moody".to_owned()
    }

    fn wrap<'a>(&'a self, aad: &'a [u8], secret: &'a [u8]) -> Pending<'a, Vec<u8>> {
        Box::pin(async move { self.call(true, self.key.wrap(aad, secret).await).await })
    }

    fn unwrap<'a>(&'a self, aad: &'a [u8], wrapped: &'a [u8]) -> Pending<'a, SecretBytes> {
        Box::pin(async move { self.call(false, self.key.unwrap(aad, wrapped).await).await })
    }

    fn health(&self) -> Pending<'_, ()> {
        let unhealthy = *self.mood.lock().unwrap() == Mood::Unhealthy;
        Box::pin(async move { if unhealthy { Err(away()) } else { Ok(()) } })
    }
}

fn moody(timeout: Duration) -> (Kek, Arc<Mutex<Mood>>) {
    let mood = Arc::new(Mutex::new(Mood::Well));
    let key = Moody { key: FileKey::of(1), mood: Arc::clone(&mood) };
    (Kek::new(Box::new(key), timeout), mood)
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_longer_than_the_timeout() {
    let (kek, mood) = moody(Duration::from_secs(5));
    let wrapped = kek.wrap(b"", b"secret").await.unwrap();
    *mood.lock().unwrap() = Mood::Hanging;
    let started = tokio::time::Instant::now();
    assert!(matches!(kek.wrap(b"", b"secret").await, Err(KekError::TimedOut { .. })));
    assert!(matches!(kek.unwrap(b"", &wrapped).await, Err(KekError::TimedOut { .. })));
    assert_eq!(started.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn a_probe_finds_out_whatever_keeps_the_key_from_being_used() {
    let (kek, mood) = moody(Duration::from_millis(20));
    for bad in [Mood::Away, Mood::Hanging, Mood::Forgetful, Mood::Unhealthy] {
        assert!(kek.probe().await.is_ok() && kek.is_usable());
        *mood.lock().unwrap() = bad;
        assert!(kek.probe().await.is_err() && !kek.is_usable());
        *mood.lock().unwrap() = Mood::Well;
    }
}

#[tokio::test]
async fn a_call_notes_whether_the_key_could_be_used_and_a_damaged_secret_says_nothing_of_it() {
    let (kek, mood) = moody(Duration::from_secs(5));
    let wrapped = kek.wrap(b"", b"secret").await.unwrap();
    assert!(kek.unwrap(b"other", &wrapped).await.is_err() && kek.is_usable());
    *mood.lock().unwrap() = Mood::Away;
    assert!(kek.unwrap(b"", &wrapped).await.is_err() && !kek.is_usable());
    *mood.lock().unwrap() = Mood::Well;
    assert!(kek.unwrap(b"other", &wrapped).await.is_err() && !kek.is_usable());
    assert!(kek.unwrap(b"", &wrapped).await.is_ok() && kek.is_usable());
}

#[tokio::test(start_paused = true)]
async fn the_key_is_looked_at_each_half_minute_and_soon_after_a_failure() {
    let (kek, mood) = moody(Duration::from_secs(5));
    let wrapped = kek.wrap(b"", b"secret").await.unwrap();
    let kek = Arc::new(kek);
    let watched = tokio::spawn({
        let kek = Arc::clone(&kek);
        async move { kek.watch().await }
    });
    *mood.lock().unwrap() = Mood::Away;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert!(kek.is_usable());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!kek.is_usable());
    // 1, 2, 4, 8, 16 seconds after it was noticed at 30 s: the look at 61 s is the next after 45 s.
    tokio::time::sleep(Duration::from_secs(24)).await;
    *mood.lock().unwrap() = Mood::Well;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(kek.is_usable());
    // A release that fails is followed by a look soon.
    *mood.lock().unwrap() = Mood::Away;
    assert!(kek.unwrap(b"", &wrapped).await.is_err());
    *mood.lock().unwrap() = Mood::Well;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(kek.is_usable());
    watched.abort();
}
