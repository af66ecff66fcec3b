//! OpenAI's realtime transcription: `/v1/realtime`, and the ephemeral keys for it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use stt_actors::domain::live::LiveClient;

use super::{keyed_post, models, only};
use crate::http::caller::{Caller, PresentedKey, key_of_web_socket, offered_protocols};
use crate::http::connections::request_reader::{EndOfInput, WEB_SOCKET_PATH};
use crate::http::realtime::session::{self, Opened};
use crate::http::realtime::{self, SessionConfig, Shape, secrets};
use crate::http::reply::error::ApiError;
use crate::http::{AppState, auth, cors};

/// The sub-protocols that the server speaks.
const REALTIME: &str = "realtime";
const BETA: &str = "openai-beta.realtime-v1";

pub fn configure(config: &mut web::ServiceConfig) {
    config.service(
        web::resource(WEB_SOCKET_PATH)
            .wrap(from_fn(auth::require_key))
            .route(web::get().to(connect))
            .default_service(only("GET")),
    );
    keyed_post(config, "/v1/realtime/client_secrets", client_secret);
    keyed_post(
        config,
        "/v1/realtime/transcription_sessions",
        transcription_session,
    );
}

/// Opens a session.
async fn connect(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let caller = Caller::of(&request);
    let is_open = matches!(caller.key, PresentedKey::NotRequired);
    // A page that has a key may connect from anywhere; without keys, any page that its user visits could.
    if is_open && !cors::allows_page(&state.settings.cors_allow_origins, &request) {
        return Err(ApiError::origin_not_allowed());
    }
    let protocols: &[&str] = if offers(&request, REALTIME) {
        &[REALTIME]
    } else {
        &[BETA]
    };
    let handshake = actix_ws::handle_with_protocols(&request, body, protocols);
    let (response, sender, messages) =
        handshake.map_err(|error| ApiError::upgrade_required(&error.to_string()))?;
    state.limits.admit(&caller)?;
    let (config, shape) = start_of_session(&state, &request);
    let id = realtime::new_id("sess");
    let client = LiveClient {
        priority: caller.priority(),
        session_id: Arc::from(id.as_str()),
        is_in_turn: false,
    };
    let default_language = state.settings.default_language.as_deref();
    let options = config.live_options(default_language);
    let live = state.stt.open_live(client, options).await?;
    let opened = Opened {
        state: state.get_ref().clone(),
        caller,
        id,
        shape,
        config,
        live,
        messages,
        sender,
        end_of_input: request.conn_data::<EndOfInput>().cloned(),
    };
    actix_web::rt::spawn(session::run(opened));
    Ok(response)
}

/// The configuration and the shape with which a session begins.
fn start_of_session(state: &AppState, request: &HttpRequest) -> (SessionConfig, Shape) {
    let is_beta = offers(request, BETA)
        || (request.headers().get("openai-beta")).is_some_and(|value| value == "realtime=v1");
    let key = key_of_web_socket(request.headers());
    let secret = key.and_then(|key| state.client_secrets.session(key));
    let (mut config, shape) = secret.unwrap_or_else(|| {
        let shape = if is_beta { Shape::Beta } else { Shape::Current };
        (SessionConfig::new(query_model(request)), shape)
    });
    config.name_model(|| models::served_name(state));
    (config, shape)
}

fn offers(request: &HttpRequest, protocol: &str) -> bool {
    offered_protocols(request.headers()).any(|offered| offered == protocol)
}

/// The model in the query. OpenAI takes none for transcription; some clients send it to every server.
fn query_model(request: &HttpRequest) -> Option<String> {
    let query = web::Query::<Vec<(String, String)>>::from_query(request.query_string()).ok()?;
    let values = query.into_inner().into_iter();
    let mut models = values.filter_map(|(name, value)| (name == "model").then_some(value));
    models.find(|model| (1..=256).contains(&model.len()))
}

/// Makes an ephemeral key.
async fn client_secret(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = secrets::read(body).await?;
    let session = body.get("session").cloned().unwrap_or_else(|| json!({}));
    let made = make(&state, &request, &body, &session, "session", Shape::Current)?;
    Ok(HttpResponse::Ok().json(json!({
        "value": made.value,
        "expires_at": made.expires_at,
        "session": made.session,
    })))
}

/// Makes an ephemeral key, in the shape of the beta.
async fn transcription_session(
    state: web::Data<AppState>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = secrets::read(body).await?;
    let made = make(&state, &request, &body, &body, "", Shape::Beta)?;
    let mut reply = made.session;
    reply["client_secret"] = json!({"value": made.value, "expires_at": made.expires_at});
    Ok(HttpResponse::Ok().json(reply))
}

/// An ephemeral key and its session.
struct Made {
    value: String,
    expires_at: u64,
    session: Value,
}

fn make(
    state: &AppState,
    request: &HttpRequest,
    body: &Value,
    session: &Value,
    path: &str,
    shape: Shape,
) -> Result<Made, ApiError> {
    let mut config = SessionConfig::new(None);
    config.update(session, path)?;
    realtime::check_language(state, config.language())?;
    config.name_model(|| models::served_name(state));
    let lifetime = secrets::lifetime(body)?;
    let expires_at = realtime::unix_time() + lifetime;
    let session = config.report(shape, &realtime::new_id("sess"), expires_at);
    let caller = Caller::of(request);
    let lifetime = Duration::from_secs(lifetime);
    let value = (state.client_secrets).create(&caller, config, shape, lifetime)?;
    Ok(Made {
        value,
        expires_at,
        session,
    })
}
