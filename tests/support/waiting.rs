//! Waits for a condition, never for a fixed time.

use std::time::{Duration, Instant};

use crate::PATIENCE;

/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics if that takes longer than [`PATIENCE`].
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    until_or_show(what, condition, String::new).await;
}

/// Like `until`, with details for the panic's message.
pub async fn until_or_show(
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
    show: impl Fn() -> String,
) {
    let begin = Instant::now();
    while !condition().await {
        assert!(
            begin.elapsed() < PATIENCE,
            // The reason comes last: where only the end of the output is kept, it is not lost.
            "{}\nnever happened: {what}",
            show()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Awaits `future`; panics if that takes longer than [`PATIENCE`].
pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, future).await;
    in_time.expect("it takes too long")
}
