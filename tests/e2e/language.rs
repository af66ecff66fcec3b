//! The language of a request, and the server's default language, on real models.

use serde_json::Value;
use test_support::{Server, model, refused, sample, sample_text, words};

#[tokio::test]
async fn a_model_that_knows_english_only_refuses_other_languages_before_any_work() {
    let settings = [("DEFAULT_LANGUAGE", "de")];
    // A model file: only the model itself shows which languages it knows.
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    server.log_line("the model knows English only").await;
    let file = sample("en-command.wav");
    let before = server.chunks_handed_out();
    for (value, names) in [
        ("es", "spanish"),
        ("pt-BR", "portuguese"),
        ("klingon", "klingon"),
    ] {
        let response = server.transcribe(&file, &[("language", value)]).await;
        let message = refused(response, 400, "unsupported_language", Some("language")).await;
        assert!(message.contains(names), "{message}");
    }
    let response = server.transcribe(&file, &[]).await;
    let message = refused(response, 400, "unsupported_language", Some("language")).await;
    assert!(message.contains("DEFAULT_LANGUAGE"), "{message}");
    assert_eq!(server.chunks_handed_out(), before);
    for value in ["en", "en-US", "English"] {
        let response = server.transcribe(&file, &[("language", value)]).await;
        let body: Value = response.json().await.expect("JSON");
        let text = body["text"].as_str().expect("text");
        assert_eq!(
            words(text),
            words(&sample_text("en-command.wav")),
            "{value}"
        );
    }
}

#[tokio::test]
async fn the_default_language_counts_where_a_request_names_none() {
    let settings = [("DEFAULT_LANGUAGE", "Spanish")];
    let server = Server::ready(&model("base").await, &settings).await;
    let file = sample("de-sentence.wav");
    for (language, spoken) in [("", "spanish"), ("de-AT", "german")] {
        let fields = [("response_format", "verbose_json"), ("language", language)];
        let body: Value = (server.transcribe(&file, &fields).await.json().await).expect("JSON");
        assert_eq!(body["language"], spoken);
    }
}

#[tokio::test]
async fn both_engines_detect_only_among_the_languages_of_the_request() {
    for engine in ["native", "whisper.cpp"] {
        let server = Server::ready(&model("base").await, &[("ENGINE", engine)]).await;
        let file = sample("es-sentence.wav");
        for (languages, spoken) in [
            (&["en", "es", "fr"][..], &["spanish"][..]),
            (&["en", "de"], &["english", "german"]),
        ] {
            let mut fields = vec![("response_format", "verbose_json")];
            fields.extend(languages.iter().map(|code| ("languages[]", *code)));
            let body: Value = (server.transcribe(&file, &fields).await.json().await).expect("JSON");
            let found = body["language"].as_str().expect("a language");
            assert!(spoken.contains(&found), "{engine}, {languages:?}: {found}");
        }
    }
}
