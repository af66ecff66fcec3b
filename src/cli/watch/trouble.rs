//! Errors of the server, each reported once until the server works again.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use uttera_stt_client::{Attempt, Error};

use super::tell;
use crate::cli::transcribe::job::is_about_the_file;

/// The errors that were reported and are not over: the method of the request, and the status with the code. Both are
/// empty if the server did not reply.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<BTreeSet<(String, String)>>);

impl Trouble {
    /// Reports on standard error what an attempt says about the server, if that is new.
    pub fn attempt(&self, attempt: &Attempt<'_>) {
        // A call with retries left says nothing yet.
        if attempt.will_retry.is_none()
            && let Some(news) = self.news(attempt.method, attempt.error)
        {
            tell(format_args!("{}: {news}", attempt.server));
        }
    }

    fn news(&self, method: &str, error: Option<&Error>) -> Option<String> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            let before = told.len();
            told.retain(|(of, _)| !of.is_empty() && of != method);
            let is_over = before > 0 && told.is_empty();
            return is_over.then(|| "the server works again".to_owned());
        };
        let status = error.status();
        let is_lost_job = method != "POST" && status.is_some_and(|status| status.status == 404);
        if is_about_the_file(error) || is_lost_job || matches!(error, Error::Source(_)) {
            return None;
        }
        let key = status.map(|status| {
            let code = status.code.as_deref().unwrap_or_default();
            (method.to_owned(), format!("{} {code}", status.status))
        });
        let is_new = told.insert(key.unwrap_or_default());
        is_new.then(|| format!("{error}; files wait, and are tried again until the server works"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_reported_once_and_its_end_too() {
        let trouble = Trouble::default();
        let away = Error::Connect("refused".to_owned());
        let news = trouble.news("POST", Some(&away)).expect("is new");
        assert!(news.contains("refused"), "{news}");
        assert_eq!(trouble.news("GET", Some(&away)), None);
        let broken = Error::Interrupted(String::new());
        assert_eq!(trouble.news("GET", Some(&broken)), None);
        assert!(trouble.news("GET", None).is_some());
        assert_eq!(trouble.news("GET", None), None);
        assert!(trouble.news("GET", Some(&away)).is_some());
        let invalid = Error::Invalid(String::new());
        assert_eq!(trouble.news("POST", Some(&invalid)), None);
    }
}
