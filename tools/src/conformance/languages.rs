//! Languages: how clients name them, and which ones are rejected.

use std::sync::Arc;

use anyhow::{bail, ensure};
use reqwest::multipart::Form;

use super::check::{Check, Skip};
use super::expect::{Refusal, equal, error_of, says, text};
use super::metrics::Page;
use super::target::{TRANSCRIPTIONS, Target};
use crate::probe::speech::{COMMAND, GERMAN, SPANISH, Speech};
use uttera_stt_client::language;

/// A language that Whisper does not support.
const UNKNOWN: &str = "klingon";

pub fn checks() -> Vec<Check> {
    vec![
        Check::new("a code, a region and an English name are the same", names),
        Check::new(
            "all 99 languages are known, by their codes and by name",
            all,
        ),
        Check::new(
            "three-letter codes, withdrawn codes and locales",
            other_notations,
        ),
        Check::new(
            "und and mul mean that the language is detected",
            undetermined,
        ),
        Check::new("an unknown language is 400 and named", unknown),
        Check::new(
            "the code of a country names the code of its language",
            country,
        ),
        Check::new("the language spoken is detected", detected),
        Check::new("a language that is given is used", given),
        Check::new("to_language=en is whisper's own translation", to_english),
        Check::new("to_language of another language", to_german),
        Check::new("an unknown to_language is 400 and named", to_unknown),
    ]
}

async fn names(target: Arc<Target>) -> anyhow::Result<()> {
    for name in ["en", "EN", "en-US", "en_GB", "English", " english "] {
        let fields = [("language", name)];
        let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
        says(text(&body, "text")?, &COMMAND)?;
    }
    Ok(())
}

/// The code of the error for a form without a file. This is a fast test of `language`, because nothing is
/// transcribed.
async fn refusal_without_a_file(target: &Target, language: &str) -> anyhow::Result<String> {
    let form = Form::new().text("language", language.to_owned());
    let reply = target.post_form(TRANSCRIPTIONS, form).await?;
    reply.ensure_status(400)?;
    Ok(text(&error_of(&reply)?, "code")?.to_owned())
}

async fn all(target: Arc<Target>) -> anyhow::Result<()> {
    if refusal_without_a_file(&target, UNKNOWN).await? != "unsupported_language" {
        bail!(Skip("the server checks the file before the language"));
    }
    for known in language::all() {
        for name in [known.code(), known.three_letter_code(), known.name()] {
            let code = refusal_without_a_file(&target, name).await?;
            ensure!(code == "missing_file", "{name:?} is rejected: {code}");
        }
    }
    Ok(())
}

/// Notations of English, and of languages whose code was withdrawn or has two forms.
async fn other_notations(target: Arc<Target>) -> anyhow::Result<()> {
    for name in [
        "eng",
        "en_US.UTF-8",
        "en_IE@euro",
        "en-u-ca-gregory",
        "in",
        "iw",
        "ji",
        "ger",
        "deu",
    ] {
        let code = refusal_without_a_file(&target, name).await?;
        ensure!(code == "missing_file", "{name:?} is rejected: {code}");
    }
    Ok(())
}

async fn undetermined(target: Arc<Target>) -> anyhow::Result<()> {
    for name in ["und", "mul", "auto"] {
        let code = refusal_without_a_file(&target, name).await?;
        ensure!(code == "missing_file", "{name:?} is rejected: {code}");
    }
    let fields = [("language", "und")];
    let body = target.transcribe(&COMMAND, &fields).await?.good_json()?;
    says(text(&body, "text")?, &COMMAND)
}

async fn country(target: Arc<Target>) -> anyhow::Result<()> {
    for (country, code) in [("jp", "\"ja\""), ("cn", "\"zh\"")] {
        let reply = target
            .transcribe(&COMMAND, &[("language", country)])
            .await?;
        Refusal::new(400, "unsupported_language", Some("language")).ensure(&reply)?;
        let error = error_of(&reply)?;
        let message = text(&error, "message")?;
        ensure!(message.contains(code), "{message:?} does not name {code}");
    }
    Ok(())
}

async fn unknown(target: Arc<Target>) -> anyhow::Result<()> {
    let reply = target
        .transcribe(&COMMAND, &[("language", UNKNOWN)])
        .await?;
    Refusal::new(400, "unsupported_language", Some("language")).ensure(&reply)?;
    names_the_value(&reply.json()?["error"]["message"])
}

fn names_the_value(message: &serde_json::Value) -> anyhow::Result<()> {
    let message = message.as_str().unwrap_or_default();
    ensure!(
        message.contains(UNKNOWN),
        "{message:?} does not name the value"
    );
    Ok(())
}

async fn told(target: &Target, speech: &Speech, more: &[(&str, &str)]) -> anyhow::Result<()> {
    if target.english_only {
        bail!(Skip("the model supports English only"));
    }
    let expected = if speech.name == GERMAN.name {
        "german"
    } else {
        "spanish"
    };
    let fields = [&[("response_format", "verbose_json")], more].concat();
    let body = target.transcribe(speech, &fields).await?.good_json()?;
    equal(&body, "language", expected)?;
    says(text(&body, "text")?, speech)
}

async fn detected(target: Arc<Target>) -> anyhow::Result<()> {
    told(&target, &SPANISH, &[]).await?;
    told(&target, &GERMAN, &[]).await
}

async fn given(target: Arc<Target>) -> anyhow::Result<()> {
    told(&target, &SPANISH, &[("language", "es")]).await?;
    told(&target, &GERMAN, &[("language", "de-AT")]).await
}

async fn to_english(target: Arc<Target>) -> anyhow::Result<()> {
    if target.english_only {
        bail!(Skip("the model supports English only"));
    }
    for language in ["en", "en-US"] {
        let fields = [("to_language", language), ("language", "es")];
        let body = target.translate(&SPANISH, &fields).await?.good_json()?;
        super::translations::is_english(text(&body, "text")?)?;
    }
    Ok(())
}

async fn to_german(target: Arc<Target>) -> anyhow::Result<()> {
    let page = Page::scrape(&target).await?;
    let has_backend = page.value("uttera_stt_libretranslate_configured") == Some(1.0);
    let fields = [("to_language", "de")];
    let reply = target.translate(&COMMAND, &fields).await?;
    if has_backend {
        let body = reply.good_json()?;
        ensure!(!text(&body, "text")?.is_empty(), "the text is empty");
        let mode = reply.header("x-translation-mode");
        ensure!(mode == "libretranslate", "X-Translation-Mode is {mode:?}");
        return Ok(());
    }
    Refusal::new(400, "unsupported_language", Some("to_language")).ensure(&reply)?;
    ensure!(
        reply.text()?.contains("LIBRETRANSLATE_URL"),
        "the message does not name LIBRETRANSLATE_URL"
    );
    Ok(())
}

async fn to_unknown(target: Arc<Target>) -> anyhow::Result<()> {
    let fields = [("to_language", UNKNOWN)];
    let reply = target.translate(&COMMAND, &fields).await?;
    Refusal::new(400, "unsupported_language", Some("to_language")).ensure(&reply)?;
    names_the_value(&reply.json()?["error"]["message"])
}
