//! One check: a name, and a question to the server whose answer must be right.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{Future, FutureExt};

use super::target::Target;

type Question = Box<dyn FnOnce(Arc<Target>) -> BoxFuture<'static, anyhow::Result<()>> + Send>;

/// A promise of the contract, and how it is tried.
pub struct Check {
    /// The promise.
    pub name: String,
    question: Question,
}

impl Check {
    /// The question fails with what is wrong, or with [`Skip`].
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

    /// Asks the server.
    pub fn ask(self, target: Arc<Target>) -> BoxFuture<'static, anyhow::Result<()>> {
        (self.question)(target)
    }
}

/// Why a check does not apply to this server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub &'static str);
