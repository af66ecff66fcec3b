//! Panics in tasks beside an actor. An actor's own panic reaches its supervisor; that of a task it
//! spawned would only mean that a message never comes.

use std::panic::AssertUnwindSafe;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use futures::FutureExt;

/// Runs a future to its end; `None` if it panicked (the panic hook has told the log by then).
pub async fn caught<F: Future>(future: F) -> Option<F::Output> {
    // Whatever the future had borrowed is behind locks or gone with it.
    AssertUnwindSafe(future).catch_unwind().await.ok()
}

/// A task that ends with its handle.
pub(crate) fn spawn<F>(future: F) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let handle: JoinHandle<()> = tokio::spawn(future);
    AbortOnDropHandle::new(handle)
}
