//! One check: a name, and a function that queries the server and judges the answers.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{Future, FutureExt};

use super::target::Target;

type Question = Box<dyn FnOnce(Arc<Target>) -> BoxFuture<'static, anyhow::Result<()>> + Send>;

/// A promise of the public API, and how it is checked.
pub struct Check {
    /// The promise, as reports name it.
    pub name: String,
    question: Question,
}

impl Check {
    /// Creates a check. `question` returns an error that says what is wrong, or [`Skip`].
    pub fn new<F, R>(name: impl Into<String>, question: F) -> Self
    where
        F: FnOnce(Arc<Target>) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self {
            name: name.into(),
            question: Box::new(|target| question(target).boxed()),
        }
    }

    /// Runs the check.
    pub fn ask(self, target: Arc<Target>) -> BoxFuture<'static, anyhow::Result<()>> {
        (self.question)(target)
    }
}

/// The reason why a check does not apply to this server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub &'static str);
