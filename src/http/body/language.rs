//! Whether the model knows the language that a request says is spoken.

use stt_actors::ports::EngineInfo;

use crate::http::AppState;
use crate::http::reply::error::ApiError;
use crate::language;

/// Refuses a language other than English on a model that knows no other: it would write English
/// words for the sounds. `asked`: by the request; else the server's default counts.
///
/// # Errors
/// The model does not know it.
pub fn check(state: &AppState, asked: Option<&str>) -> Result<(), ApiError> {
    let default = state.settings.default_language.as_deref();
    match state.stt.snapshot().last_engine {
        Some(engine) => check_for(&engine, asked, default),
        // Nothing was admitted before a model was loaded.
        None => Ok(()),
    }
}

fn check_for(
    engine: &EngineInfo,
    asked: Option<&str>,
    default: Option<&str>,
) -> Result<(), ApiError> {
    let Some(code) = asked.or(default) else {
        return Ok(());
    };
    if engine.multilingual || code == "en" {
        return Ok(());
    }
    let (name, model) = (language::name_of(code), &engine.model);
    let message = if asked.is_some() {
        format!(
            "the language {code:?} ({name}) is not one of this server's: its model {model} knows English only"
        )
    } else {
        format!(
            "this server's DEFAULT_LANGUAGE is {code:?} ({name}), but its model {model} knows English only; language=en works"
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
            process_id: None,
            load_time: Duration::ZERO,
            calibration: None,
        }
    }

    #[test]
    fn a_model_that_knows_english_only_takes_no_other_language() {
        for (asked, default) in [(None, None), (Some("en"), Some("de")), (None, Some("en"))] {
            assert!(check_for(&engine(false), asked, default).is_ok());
            assert!(check_for(&engine(true), asked, default).is_ok());
        }
        for (asked, default, names) in [
            (Some("de"), Some("en"), "\"de\" (german)"),
            (None, Some("de"), "DEFAULT_LANGUAGE"),
        ] {
            assert!(check_for(&engine(true), asked, default).is_ok());
            let error = check_for(&engine(false), asked, default).expect_err("refused");
            assert_eq!(
                (error.status_code().as_u16(), error.code()),
                (400, "unsupported_language")
            );
            assert!(error.to_string().contains(names), "{error}");
        }
    }
}
