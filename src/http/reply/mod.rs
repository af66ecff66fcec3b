//! What the server sends back: errors, event streams, headers, and the document that describes them.

pub mod accept;
pub mod error;
pub mod escalation_headers;
pub mod load_report;
pub mod openapi;
pub mod schema;
pub mod sse;
