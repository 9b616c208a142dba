use super::*;

#[test]
fn plain_http_stays_on_this_machine() {
    for (address, loopback, metadata) in [
        ("127.0.0.1", true, true),
        ("127.9.9.9", true, true),
        ("::1", true, true),
        ("169.254.169.254", false, true),
        ("169.254.170.2", false, true),
        ("fd00:ec2::254", false, true),
        ("fd00:ec3::254", false, false),
        ("fe80::1", false, false),
        ("10.0.0.1", false, false),
        ("0.0.0.0", false, false),
        ("192.0.2.1", false, false),
    ] {
        let parsed = address.parse().unwrap();
        assert_eq!((Plain::Loopback.takes(parsed), Plain::Metadata.takes(parsed)), (loopback, metadata), "{address}");
    }
    for (host, expected) in
        [("localhost", true), ("[::1]", true), ("127.0.0.1", true), ("localhost.example.com", false), ("0", false)]
    {
        assert_eq!(is_loopback(host), expected, "{host}");
    }
}

#[test]
fn a_host_is_named_as_it_was_signed() {
    for (url, expected) in [
        ("https://s3.eu-central-1.amazonaws.com/bucket/x?y", "s3.eu-central-1.amazonaws.com"),
        ("https://s3.example.com:443/", "s3.example.com"),
        ("https://s3.example.com:8443/", "s3.example.com:8443"),
        ("http://127.0.0.1:8333/", "127.0.0.1:8333"),
        ("http://[::1]:80/", "[::1]"),
    ] {
        let target = Target::of(&url.parse().unwrap()).unwrap();
        assert_eq!(target.header().unwrap(), expected, "{url}");
    }
    assert_eq!(Target::of(&"http://[::1]:80/".parse().unwrap()).unwrap().host(), "::1");
    assert_eq!(Target::of(&"ftp://example.com/".parse().unwrap()), None);
    assert_eq!(Target::of(&"/path".parse().unwrap()), None);
}

#[test]
fn refusals() {
    let long = "x".repeat(5000);
    for (refusal, expected) in [
        ("<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>Please</Message></Error>", "SlowDown: Please"),
        ("<Error><Code>NoSuchKey</Code></Error>", "NoSuchKey"),
        ("<Error><Code>broken", "<Error><Code>broken"),
        ("", ""),
        (&long, &long[..REASON_MAX]),
    ] {
        assert_eq!(shortened(&Bytes::copy_from_slice(refusal.as_bytes())), expected);
    }
}

/// A body of which a piece of so many bytes comes after each pause.
struct Slow {
    pieces: u32,
    bytes: usize,
    pause: Duration,
    next: Pin<Box<Sleep>>,
}

impl Body for Slow {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.pieces == 0 {
            return Poll::Ready(None);
        }
        std::task::ready!(self.next.as_mut().poll(context));
        let pause = self.pause;
        self.pieces -= 1;
        self.next.as_mut().reset(Instant::now() + pause);
        Poll::Ready(Some(Ok(Frame::data(vec![0; self.bytes].into()))))
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_slow_ends() {
    let seconds = Duration::from_secs;
    for (pieces, bytes, pause, expected) in [
        // As fast as it must be, for hours.
        (10_000, 64 * 1024, seconds(1), Ok(10_000)),
        // Slow at times, and fast enough over all.
        (20, 2 * 1024 * 1024, seconds(29), Ok(20 * 29)),
        // Something comes each second, and never enough of it.
        (1_000_000, 1, seconds(1), Err(30)),
        (1_000_000, 32 * 1024, seconds(1), Err(60)),
        // Nothing comes.
        (2, 1024 * 1024, seconds(31), Err(30)),
    ] {
        let begun = Instant::now();
        let body = Slow { pieces, bytes, pause, next: Box::pin(sleep(pause)) };
        let done = Bounded::new(body, u64::MAX).collect().await.map(|_| ()).map_err(|error| error.to_string());
        let took = begun.elapsed().as_secs();
        match expected {
            Ok(seconds) => assert_eq!((done, took), (Ok(()), seconds)),
            Err(seconds) => {
                assert!(done.unwrap_err().contains("no answer in time"));
                assert!(took.abs_diff(seconds) <= 1, "{took} {seconds}");
            }
        }
    }
    let body = Slow { pieces: 2, bytes: 10, pause: seconds(1), next: Box::pin(sleep(seconds(1))) };
    let error = Bounded::new(body, 19).collect().await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
