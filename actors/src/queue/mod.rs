//! The shared work queue: its order, its decisions, and the Dispatcher that carries them out.

pub mod dispatcher;
pub mod messages;
pub mod traces;
pub mod waiting;
pub mod work_queue;
#[cfg(test)]
mod work_queue_tests;
