//! Waits for a condition, never for a fixed time.

use std::time::{Duration, Instant};

use crate::PATIENCE;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds, and panics when it does not within [`PATIENCE`].
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    until_or_show(what, condition, String::new).await;
}

/// The same, with something to look at in the panic's message.
pub async fn until_or_show(
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
    show: impl Fn() -> String,
) {
    let begin = Instant::now();
    while !condition().await {
        assert!(
            begin.elapsed() < PATIENCE,
            "never happened: {what}\n{}",
            show()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Awaits `future`, and panics when it takes longer than [`PATIENCE`].
pub async fn patiently<T>(future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(PATIENCE, future).await;
    in_time.expect("it takes too long")
}
