//! Waiting. Deadlines are there so that a broken build fails instead of hanging; they claim nothing about speed.

use std::time::{Duration, Instant};

/// Longest wait for something that should happen.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Pause between two looks.
pub const TICK: Duration = Duration::from_millis(20);

/// Waits for a future with a deadline.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until `question` has an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut question: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(TICK).await;
    }
}
