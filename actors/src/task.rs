//! Tasks beside an actor. The panic of an actor reaches its supervisor, but the panic of a task that it spawned
//! would only mean that a message never arrives.

use std::panic::AssertUnwindSafe;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use futures::FutureExt;

/// Runs a future; `None`: it panicked, and the panic hook has logged it.
pub async fn caught<F: Future>(future: F) -> Option<F::Output> {
    // State that the future shares with others is behind locks; the rest is dropped with it.
    AssertUnwindSafe(future).catch_unwind().await.ok()
}

/// Spawns a task that ends when its handle is dropped.
pub(crate) fn spawn<F>(future: F) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let handle: JoinHandle<()> = tokio::spawn(future);
    AbortOnDropHandle::new(handle)
}
