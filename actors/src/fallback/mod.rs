//! The fallback to which a Transcription escalates doubtful texts: another node, or a second model on
//! this node.

pub mod model;
pub mod policy;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::domain::error::FallbackError;
use crate::domain::job::SchedulingKey;
use crate::fallback::model::FallbackModelHandle;
use crate::fallback::policy::EscalationPolicy;
use crate::ports::{FallbackNode, FallbackPort, FallbackRequest, FallbackText};
use crate::task::caught;

/// The running fallback.
#[derive(Clone)]
pub enum Fallback {
    /// Another node.
    Node(Arc<dyn FallbackNode>),
    /// A second model on this node.
    Model(FallbackModelHandle),
}

impl Fallback {
    /// Transcribes a chunk. `scheduling` decides its order in the queue of this node's fallback model.
    /// Dropping the future cancels the request.
    ///
    /// # Errors
    /// The fallback failed, exceeded its time limit or panicked.
    pub async fn transcribe(
        &self,
        request: FallbackRequest,
        scheduling: SchedulingKey,
    ) -> Result<FallbackText, FallbackError> {
        // It ends with the call, also with one that is dropped.
        let _span = request.trace.span.clone();
        let call = async {
            match self {
                Self::Node(node) => node.transcribe(request).await,
                Self::Model(model) => model.transcribe(request, scheduling).await,
            }
        };
        let panicked = || FallbackError::BadAnswer("the call panicked".to_owned());
        caught(call).await.unwrap_or_else(|| Err(panicked()))
    }
}

/// Which texts are escalated, and to which fallback.
#[derive(Clone)]
pub struct Escalator {
    /// Decides which texts are doubtful.
    pub policy: EscalationPolicy,
    /// The fallback.
    pub fallback: Fallback,
    /// Limits the escalated chunks of all requests together.
    pub room: Arc<Semaphore>,
}

/// Maximum number of escalated chunks in memory: 61 MB of samples at the maximum length.
const CHUNKS_AT_FALLBACK: usize = 64;

impl Escalator {
    /// `None` if there is no fallback. `model`: the handle of this node's fallback model, if the port is
    /// one.
    pub(crate) fn new(
        policy: EscalationPolicy,
        port: Option<&FallbackPort>,
        model: Option<&FallbackModelHandle>,
    ) -> Option<Self> {
        let fallback = match port? {
            FallbackPort::Node(node) => Fallback::Node(Arc::clone(node)),
            FallbackPort::Model { .. } => Fallback::Model(model?.clone()),
        };
        Some(Self {
            policy,
            fallback,
            room: Arc::new(Semaphore::new(CHUNKS_AT_FALLBACK)),
        })
    }
}

impl std::fmt::Debug for Escalator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Escalator").field(&self.policy).finish()
    }
}
