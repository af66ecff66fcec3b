//! Where a Transcription has texts made that it does not trust: another node, or this node's larger
//! model.

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

/// Who has the larger model.
#[derive(Clone)]
pub enum Fallback {
    /// Another node.
    Node(Arc<dyn FallbackNode>),
    /// This one.
    Model(FallbackModelHandle),
}

impl Fallback {
    /// Has a chunk transcribed. `scheduling`: when its turn is, where it has to wait for others of this
    /// node. Dropping the future gives the request up.
    pub async fn transcribe(
        &self,
        request: FallbackRequest,
        scheduling: SchedulingKey,
    ) -> Result<FallbackText, FallbackError> {
        let asking = async {
            match self {
                Self::Node(node) => node.transcribe(request).await,
                Self::Model(model) => model.transcribe(request, scheduling).await,
            }
        };
        let panicked = || FallbackError::BadAnswer("a panic while it was asked".to_owned());
        caught(asking).await.unwrap_or_else(|| Err(panicked()))
    }
}

/// When texts are had again, and where.
#[derive(Clone)]
pub struct Escalator {
    /// Which texts are not trusted.
    pub policy: EscalationPolicy,
    /// Who makes better ones.
    pub fallback: Fallback,
    /// How many chunks of all requests together may be there.
    pub room: Arc<Semaphore>,
}

/// 61 MB of samples if each is as long as it may be.
const CHUNKS_AT_FALLBACK: usize = 64;

impl Escalator {
    /// `None` where there is nobody to escalate to. `model`: this node's larger model, where the
    /// port has one.
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
