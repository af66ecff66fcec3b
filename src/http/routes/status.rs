//! `/v1/status`: what the node does now and did in the last 15 minutes, once or as a feed.

use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::web::Bytes;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use futures::Stream;

use super::readable;
use crate::board::Viewer;
use crate::http::reply::error::ApiError;
use crate::http::reply::sse;
use crate::http::request_log::StreamedLogLine;
use crate::http::{AppState, auth};

pub fn configure(config: &mut web::ServiceConfig) {
    config
        .service(readable("/v1/status", report).wrap(from_fn(auth::require_key)))
        .service(readable("/v1/status/events", events).wrap(from_fn(auth::require_key)));
}

/// One report.
async fn report(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(state.board.report())
}

/// A report at once, and then one each second until the client leaves or the server stops.
async fn events(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    if request.method() == Method::HEAD {
        return Ok(sse::head().finish());
    }
    let viewer = state.board.watch().map_err(ApiError::not_watchable)?;
    let log_line = StreamedLogLine::default();
    let feed = Feed {
        viewer,
        log_line: log_line.clone(),
    };
    let mut response = sse::head().streaming(feed.stream());
    response.extensions_mut().insert(log_line);
    Ok(response)
}

/// The body of the feed.
struct Feed {
    viewer: Viewer,
    log_line: StreamedLogLine,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        futures::stream::unfold(self, |mut feed| async {
            let event = feed.viewer.next().await?;
            Some((Ok(event), feed))
        })
    }
}

impl Drop for Feed {
    /// The feed has no end of its own: a client that leaves is not a warning.
    fn drop(&mut self) {
        self.log_line.end(None, None);
    }
}
