//! Checks that the model knows the language of a request.

use stt_actors::ports::EngineInfo;

use crate::http::AppState;
use crate::http::reply::error::ApiError;
use crate::language;

/// Rejects other languages than English on an English-only model, which would write English words that
/// sound similar. `requested`: the request's language; without one, `DEFAULT_LANGUAGE` counts.
///
/// # Errors
/// The model does not know the language.
pub fn check(state: &AppState, requested: Option<&str>) -> Result<(), ApiError> {
    let default = state.settings.default_language.as_deref();
    match state.stt.snapshot().last_engine {
        Some(engine) => check_for(&engine, requested, default),
        // Requests are admitted only after a model was loaded.
        None => Ok(()),
    }
}

fn check_for(
    engine: &EngineInfo,
    requested: Option<&str>,
    default: Option<&str>,
) -> Result<(), ApiError> {
    let Some(code) = requested.or(default) else {
        return Ok(());
    };
    if engine.multilingual || code == "en" {
        return Ok(());
    }
    let (name, model) = (language::name_of(code), &engine.model);
    let message = if requested.is_some() {
        format!(
            "the language {code:?} ({name}) is not supported: the model {model} knows English only"
        )
    } else {
        format!(
            "the server's DEFAULT_LANGUAGE is {code:?} ({name}), but its model {model} knows English only; send language=en"
        )
    };
    Err(ApiError::unsupported_language("language", message))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix_web::ResponseError;

    use super::*;

    fn engine(multilingual: bool) -> EngineInfo {
        EngineInfo {
            model: "tiny.en".to_owned(),
            multilingual,
            device: "CPU".to_owned(),
            process_id: None,
            load_time: Duration::ZERO,
            calibration: None,
        }
    }

    #[test]
    fn an_english_only_model_rejects_other_languages() {
        for (requested, default) in [(None, None), (Some("en"), Some("de")), (None, Some("en"))] {
            assert!(check_for(&engine(false), requested, default).is_ok());
            assert!(check_for(&engine(true), requested, default).is_ok());
        }
        for (requested, default, names) in [
            (Some("de"), Some("en"), "\"de\" (german)"),
            (None, Some("de"), "DEFAULT_LANGUAGE"),
        ] {
            assert!(check_for(&engine(true), requested, default).is_ok());
            let error = check_for(&engine(false), requested, default).expect_err("rejected");
            assert_eq!(
                (error.status_code().as_u16(), error.code()),
                (400, "unsupported_language")
            );
            assert!(error.to_string().contains(names), "{error}");
        }
    }
}
