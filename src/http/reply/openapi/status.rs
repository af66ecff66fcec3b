//! The routes of the status.

use std::time::Duration;

use utoipa::openapi::content::Content;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::ComponentsBuilder;

use super::{Path, described, get_and_head, json, keyed, operation, text, with_errors};
use crate::board::{NotWatchable, report};
use crate::http::reply::error::ApiError;

/// Adds the schemas of the report.
pub fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    components
        .schema_from::<report::Report>()
        .schema_from::<report::NodeStatus>()
        .schema_from::<report::DrainReport>()
        .schema_from::<report::LaneReport>()
        .schema_from::<report::LaneWork>()
        .schema_from::<report::QueueReport>()
        .schema_from::<report::WaitingChunks>()
        .schema_from::<report::JobsReport>()
        .schema_from::<report::PoolReport>()
        .schema_from::<report::MemoryReport>()
        .schema_from::<report::HistoryReport>()
        .schema_from::<report::WarningReport>()
        .schema_from::<report::NodesReport>()
        .schema_from::<report::NodeReport>()
}

pub fn paths(keys_required: bool) -> Vec<Path> {
    let report = operation(
        "What the server does and did in the last 15 minutes",
        "state",
    )
    .response("200", json("The report.", "Status"));
    let events =
        described("A report (`Status`) at once, and then one each second, each as `data`.")
            .content("text/event-stream", Content::new(Some(text())));
    let events = operation("The same, each second", "state").response("200", events.build());
    let path = |operation: OperationBuilder, mut errors: Vec<ApiError>| {
        errors.push(ApiError::not_found("", None));
        errors.extend(keys_required.then(|| ApiError::too_many_wrong_keys(Duration::ZERO)));
        get_and_head(keyed(with_errors(operation, errors), keys_required))
    };
    let refused = vec![ApiError::not_watchable(NotWatchable::TooMany)];
    vec![
        ("/v1/status", path(report, Vec::new())),
        ("/v1/status/events", path(events, refused)),
    ]
}
