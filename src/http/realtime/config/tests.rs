//! Tests of what clients set, and of what the tree and the client get of it.

use serde_json::{Value, json};

use super::*;

fn updated(config: &SessionConfig, session: &Value) -> SessionConfig {
    let mut config = config.clone();
    config.update(session, "session").expect("valid");
    config
}

fn input(config: &SessionConfig) -> Value {
    config.report(Shape::Current, "sess_1", 7)["audio"]["input"].take()
}

#[test]
fn only_fields_that_are_present_change_and_null_clears_them() {
    let new = SessionConfig::new(Some("served".to_owned()));
    assert_eq!(
        updated(&new, &json!({"unknown": 1, "audio": {"input": {}}})),
        new
    );
    let set = updated(
        &new,
        &json!({"type": "transcription", "include": ["item.input_audio_transcription.logprobs"], "audio": {"input": {
            "format": {"type": "audio/pcm", "rate": 16000},
            "noise_reduction": {"type": "far_field"},
            "transcription": {"model": "m", "language": "German", "prompt": "p", "keywords": ["a", " "], "delay": "low"},
            "turn_detection": {"type": "server_vad", "threshold": 0.25, "silence_duration_ms": 700.0},
        }}}),
    );
    assert_eq!(
        input(&set),
        json!({
            "format": {"type": "audio/pcm", "rate": 16000},
            "noise_reduction": {"type": "far_field"},
            "transcription": {"model": "m", "language": "de", "prompt": "p", "keywords": ["a"], "delay": "low"},
            "turn_detection": {"type": "server_vad", "threshold": 0.25, "prefix_padding_ms": 300, "silence_duration_ms": 700},
        })
    );
    assert!(set.logprobs);
    let turns = json!({"audio": {"input": {"turn_detection": {"prefix_padding_ms": 0}}}});
    let changed = input(&updated(&set, &turns));
    assert_eq!(changed["turn_detection"]["silence_duration_ms"], 700);
    assert_eq!(changed["turn_detection"]["prefix_padding_ms"], 0);
    let language = json!({"audio": {"input": {"transcription": {"language": null}}}});
    let changed = input(&updated(&set, &language));
    assert_eq!(changed["transcription"]["prompt"], "p");
    assert!(changed["transcription"].get("language").is_none());
    let all = json!({"include": null, "audio": {"input": {
        "format": null, "noise_reduction": null, "transcription": null, "turn_detection": null,
    }}});
    let cleared = updated(&set, &all);
    assert_eq!(
        input(&cleared),
        json!({
            "format": {"type": "audio/pcm", "rate": 24000},
            "noise_reduction": null,
            "transcription": {"model": "m"},
            "turn_detection": null,
        })
    );
    assert!(!cleared.logprobs);
    // An error changes nothing, even if other fields are valid.
    let mut kept = set.clone();
    let wrong =
        json!({"audio": {"input": {"turn_detection": null, "transcription": {"language": "xx"}}}});
    kept.update(&wrong, "session").expect_err("not valid");
    assert_eq!(kept, set);
}

#[test]
fn the_shape_of_the_beta_means_the_same() {
    let new = SessionConfig::new(None);
    let beta = updated(
        &new,
        &json!({
            "input_audio_format": "g711_alaw",
            "input_audio_noise_reduction": {"type": "near_field"},
            "input_audio_transcription": {"language": "auto"},
            "turn_detection": null,
        }),
    );
    let current = updated(
        &new,
        &json!({"audio": {"input": {
            "format": {"type": "audio/pcma", "rate": 8000},
            "noise_reduction": {"type": "near_field"},
            "transcription": {"language": "auto"},
            "turn_detection": null,
        }}}),
    );
    assert_eq!(beta, current);
    let reported = beta.report(Shape::Beta, "sess_1", 7);
    assert_eq!(reported["input_audio_format"], "g711_alaw");
    assert_eq!(
        reported["input_audio_noise_reduction"]["type"],
        "near_field"
    );
    assert!(reported["turn_detection"].is_null() && reported.get("audio").is_none());
    assert_eq!(
        (&reported["id"], &reported["expires_at"]),
        (&json!("sess_1"), &json!(7))
    );
}

#[test]
fn the_tree_gets_languages_prompt_format_and_turns() {
    let options = |transcription: Value, default| {
        let session = json!({"audio": {"input": {"transcription": transcription}}});
        updated(&SessionConfig::new(None), &session).live_options(default)
    };
    for (transcription, default, language, languages, prompt) in [
        (json!({}), None, None, vec![], None),
        (json!({}), Some("es"), Some("es"), vec![], None),
        (json!({"language": "auto"}), Some("es"), None, vec![], None),
        (
            json!({"language": "fr"}),
            Some("es"),
            Some("fr"),
            vec![],
            None,
        ),
        (
            json!({"languages": ["en", "de"]}),
            Some("es"),
            None,
            vec!["en", "de"],
            None,
        ),
        (
            json!({"languages": ["de"]}),
            Some("es"),
            Some("de"),
            vec!["de"],
            None,
        ),
        (
            json!({"prompt": "Transcribe the audio."}),
            None,
            None,
            vec![],
            None,
        ),
        (
            json!({"prompt": " A talk. ", "keywords": ["Uttera", "Redis"]}),
            None,
            None,
            vec![],
            Some("A talk. Uttera, Redis"),
        ),
        (
            json!({"keywords": ["Uttera"]}),
            None,
            None,
            vec![],
            Some("Uttera"),
        ),
    ] {
        let options = options(transcription.clone(), default).options;
        assert_eq!(options.language.as_deref(), language, "{transcription}");
        assert_eq!(options.languages, languages, "{transcription}");
        assert_eq!(options.prompt.as_deref(), prompt, "{transcription}");
    }
    let turns = |turns: Value| {
        let session = json!({"turn_detection": turns});
        updated(&SessionConfig::new(None), &session)
            .live_options(None)
            .turns
    };
    assert_eq!(turns(Value::Null), TurnDetection::Manual);
    let silence = TurnDetection::Silence {
        threshold: 0.5,
        prefix: Duration::from_millis(300),
        silence: Duration::from_millis(500),
    };
    assert_eq!(turns(json!({"type": "server_vad"})), silence);
    for (eagerness, seconds) in [("low", 8), ("medium", 4), ("high", 2), ("auto", 4)] {
        let longest = Duration::from_secs(seconds);
        let given = json!({"type": "semantic_vad", "eagerness": eagerness});
        assert_eq!(turns(given), TurnDetection::Sentence { longest });
    }
}
