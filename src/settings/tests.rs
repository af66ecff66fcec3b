//! Precedence of sources, invalid values, and the messages about them.

use super::env_file::Assignment;
use super::variables::VARIABLES;
use super::*;

fn sources(file: &[(&str, &str)], environment: &[(&str, &str)], cli: &[(&str, &str)]) -> Sources {
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        (pairs.iter())
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let assignments = own(file)
        .into_iter()
        .map(|(name, value)| Assignment { name, value })
        .collect();
    Sources {
        file: Some((PathBuf::from("test.env"), assignments)),
        environment: own(environment).into_iter().collect(),
        command_line: own(cli),
        role: Role::default(),
    }
}

fn load(file: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
    Settings::load(&sources(file, &[], &[]))
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file() {
    let port = |file, environment, cli| {
        let loaded = Settings::load(&sources(file, environment, cli)).expect("loads");
        loaded.settings.port
    };
    assert_eq!(port(&[], &[], &[]), 9005);
    assert_eq!(port(&[("PORT", "1")], &[], &[]), 1);
    assert_eq!(port(&[("PORT", "1")], &[("PORT", "2")], &[]), 2);
    assert_eq!(
        port(&[("PORT", "1")], &[("PORT", "2")], &[("PORT", "3")]),
        3
    );
    assert_eq!(port(&[("PORT", "1")], &[("PORT", "")], &[]), 1);
}

#[test]
fn an_invalid_value_is_one_line_with_variable_value_and_what_is_allowed() {
    let error = load(&[("PORT", "many")]).expect_err("rejected").to_string();
    assert_eq!(
        error,
        "PORT=many (test.env) is invalid: expected a port from 0 to 65535"
    );
    for (name, value) in [
        ("HOST", "nowhere"),
        ("WHISPER_FP16", "maybe"),
        ("WHISPER_THREADS", "0"),
        ("WHISPER_BEAM_SIZE", "9"),
        ("DEFAULT_LANGUAGE", "klingon"),
        ("MAX_UPLOAD_MB", "-1"),
        ("MAX_AUDIO_SECONDS", "NaN"),
        ("COMPUTE_TYPE", "float17"),
        ("DEVICE", "tpu"),
        ("REDIS_URL", "redis"),
        ("LIBRETRANSLATE_URL", "libretranslate:5000"),
        ("LIBRETRANSLATE_TIMEOUT_S", "0"),
        ("CORS_ALLOW_ORIGINS", "https://a.example, *"),
        ("CORS_ALLOW_ORIGINS", "a.example"),
        ("CORS_ALLOW_ORIGINS", "https://a.example/page"),
        ("CONF_LOGPROB_THRESHOLD", "1.5"),
        ("LOG_FORMAT", "xml"),
        ("API_KEYS", " , "),
        ("RATE_LIMIT_RPS", "0.0001"),
        ("RATE_LIMIT_BURST", "0"),
        ("MAX_AUDIO_SECONDS_PER_DAY", "-1"),
        ("MAX_CONNECTIONS", "0"),
        ("METRICS_KEYED", "maybe"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("TRUSTED_PROXIES", "proxy.example"),
    ] {
        let error = load(&[(name, value)]).expect_err(name).to_string();
        assert!(error.starts_with(name) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn origins_are_normalised_to_what_browsers_send() {
    let origins = |value| {
        let loaded = load(&[("CORS_ALLOW_ORIGINS", value)]).expect(value);
        loaded.settings.cors_allow_origins
    };
    assert_eq!(origins(""), Origins::None);
    assert_eq!(origins("*"), Origins::Any);
    let these = origins("https://A.example:443/, http://localhost:3000,, capacitor://localhost");
    let expected = [
        "https://a.example",
        "http://localhost:3000",
        "capacitor://localhost",
    ];
    assert_eq!(these, Origins::These(expected.map(str::to_owned).to_vec()));
}

#[test]
fn a_default_language_that_the_named_model_does_not_support_stops_the_start() {
    let load = |model, language| {
        load(&[("WHISPER_MODEL", model), ("DEFAULT_LANGUAGE", language)]).map(drop)
    };
    for (model, language) in [
        ("tiny.en", "en-US"),
        ("tiny", "de"),
        ("/x/mine.en.bin", "de"),
    ] {
        assert_eq!(load(model, language), Ok(()), "{model}");
    }
    let error = load("tiny.en-q5_1", "German")
        .expect_err("rejected")
        .to_string();
    assert_eq!(
        error,
        "DEFAULT_LANGUAGE=German (test.env) is invalid: the model tiny.en-q5_1 (WHISPER_MODEL) knows English only"
    );
}

#[test]
fn unknown_names_are_warned_about_with_the_nearest_known_one() {
    let loaded = load(&[
        ("WISPER_MODEL", "base"),
        ("VENV_PYTHON", "/x"),
        ("QQQ", "1"),
    ]);
    let warnings = loaded.expect("loads").warnings;
    assert!(
        warnings[0].contains("did you mean WHISPER_MODEL"),
        "{warnings:?}"
    );
    assert!(warnings[1].contains("not use Python"), "{warnings:?}");
    assert!(!warnings[2].contains("did you mean"), "{warnings:?}");
}

#[test]
fn a_setting_without_effect_causes_a_warning() {
    let warnings = |file| load(file).expect("loads").warnings;
    let found = warnings(&[("HOT_QUEUE_SAFETY_FACTOR", "0.5")]);
    let expected = "HOT_QUEUE_SAFETY_FACTOR is set, but has no effect in this version";
    assert_eq!(found, [expected]);
    let found = warnings(&[("MAX_CONCURRENCY", "8"), ("COLD_POOL_SIZE", "3")]);
    let expected = "MAX_CONCURRENCY=8 is more than the 4 workers";
    assert!(found[0].starts_with(expected), "{found:?}");
    let fitting = [("MAX_CONCURRENCY", "4"), ("COLD_POOL_SIZE", "3")];
    assert_eq!(warnings(&fitting), [""; 0]);
    let both = [("FALLBACK_URL", "http://x"), ("FALLBACK_MODEL", "small")];
    let found = warnings(&both);
    assert!(
        found[0].contains("FALLBACK_MODEL has no effect"),
        "{found:?}"
    );
    assert_eq!(warnings(&both[..1]), [""; 0]);
}

#[test]
fn a_role_has_its_own_defaults_and_every_source_overrides_them() {
    let load = |role, file: &[(&str, &str)], cli: &[(&str, &str)]| {
        let sources = Sources {
            role,
            ..sources(file, &[], cli)
        };
        Settings::load(&sources).expect("loads")
    };
    let of = |loaded: &Loaded| (loaded.settings.host.to_string(), loaded.settings.port);
    let primary = load(Role::Primary, &[], &[]);
    assert_eq!(of(&primary), ("0.0.0.0".to_owned(), 8081));
    assert!(primary.in_force.contains(&("PORT", "8081".to_owned())));
    assert!(!primary.settings.is_set("PORT"));
    let fallback = load(Role::Fallback, &[("HOST", "127.0.0.2")], &[("PORT", "1")]);
    assert_eq!(of(&fallback), ("127.0.0.2".to_owned(), 1));
}

#[test]
fn the_model_of_a_role_wins_unless_the_command_line_names_one() {
    let model = |role, file: &[(&str, &str)], cli: &[(&str, &str)]| {
        let sources = Sources {
            role,
            ..sources(file, &[], cli)
        };
        Settings::load(&sources)
            .expect("loads")
            .settings
            .whisper_model
    };
    let both = [
        ("CT2_SMALL_PATH", "/small"),
        ("CT2_MEDIUM_PATH", "/medium"),
        ("WHISPER_MODEL", "base"),
    ];
    assert_eq!(model(Role::Primary, &both, &[]), "/small");
    assert_eq!(model(Role::Fallback, &both, &[]), "/medium");
    assert_eq!(model(Role::Hotcold, &both[1..], &[]), "/medium");
    assert_eq!(
        model(Role::Primary, &both, &[("WHISPER_MODEL", "tiny")]),
        "tiny"
    );
    assert_eq!(model(Role::Primary, &both[2..], &[]), "base");
}

#[test]
fn secrets_are_never_shown() {
    let loaded = load(&[("API_KEYS", "sesame, open")]).expect("loads");
    assert_eq!(
        loaded.settings.api_keys,
        ["sesame", "open"].map(Secret::from)
    );
    let shown = format!("{loaded:?} {:?}", loaded.settings.api_keys);
    assert!(
        !shown.contains("sesame") && shown.contains("***"),
        "{shown}"
    );
    let error = load(&[("REDIS_URL", "pass:secretly")]).expect_err("rejected");
    assert!(!error.to_string().contains("secretly"), "{error}");
}

#[test]
fn every_default_in_the_table_is_the_effective_one() {
    for variable in VARIABLES.iter().filter(|v| !v.default.is_empty()) {
        let mut settings = Settings::default();
        (variable.read)(&mut settings, variable.default).expect(variable.name);
        let (with, without) = (
            format!("{settings:?}"),
            format!("{:?}", Settings::default()),
        );
        assert_eq!(with, without, "{}", variable.name);
    }
}

#[test]
fn the_documentation_has_every_variable_with_its_default() {
    let page = include_str!("../../docs/configuration.md");
    let later = page.find("## Read and checked").expect("the heading");
    for variable in VARIABLES {
        let default = match variable.default {
            "" => "–".to_owned(),
            default => format!("`{default}`"),
        };
        let row = format!("| `{}` | {default} | {}", variable.name, variable.meaning);
        let position = page.find(&row).unwrap_or_else(|| panic!("no row {row}"));
        assert_eq!(position < later, variable.in_effect, "{}", variable.name);
    }
}

#[test]
fn an_ipv4_proxy_written_as_ipv6_becomes_ipv4() {
    let loaded = load(&[(
        "TRUSTED_PROXIES",
        "::ffff:192.0.2.1, ::ffff:10.0.0.0/104, ::/0",
    )]);
    let shown: Vec<String> = (loaded.expect("loads").settings.trusted_proxies.iter())
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["192.0.2.1/32", "10.0.0.0/8", "::/0"]);
}

#[test]
fn a_list_of_allowed_networks_without_a_network_is_refused() {
    let loaded = load(&[("ALLOWED_NETWORKS", "192.0.2.1,10.0.0.0/8 , ::1")]).expect("loads");
    assert_eq!(loaded.settings.allowed_networks.len(), 3);
    for empty in [",", " , "] {
        let error = load(&[("ALLOWED_NETWORKS", empty)]).expect_err("refused");
        assert!(error.to_string().contains("at least one"), "{error}");
    }
}

#[test]
fn a_node_registers_only_what_routers_can_read() {
    for (given, expected) in [
        ("stt-1.example", "stt-1.example"),
        ("my_container", "my_container"),
        ("10.0.0.5", "10.0.0.5"),
        ("fd00:0::5", "[fd00::5]"),
        ("[fd00::5]", "[fd00::5]"),
    ] {
        let loaded = load(&[("NODE_HOST", given)]).expect("loads");
        assert_eq!(loaded.settings.node_host.as_deref(), Some(expected));
    }
    let long = format!("{}.example", "a".repeat(64));
    for wrong in [
        "10.0.0.5:9005",
        "999.1.1.1",
        "1.2.3",
        "[10.0.0.5]",
        "[fd00::5]:9005",
        "fe80::1%eth0",
        "http://stt.example",
        "stt.example/",
        "stt..example",
        "-stt",
        "küche",
        "two names",
        &long,
    ] {
        let error = load(&[("NODE_HOST", wrong)]).expect_err(wrong).to_string();
        assert!(
            error.contains("NODE_HOST") && error.contains("host name or an IP address"),
            "{error}"
        );
    }
    let loaded = load(&[("NODE_ID", "10.0.0.5:9005 (attic)")]).expect("loads");
    assert_eq!(
        loaded.settings.node_id.as_deref(),
        Some("10.0.0.5:9005 (attic)")
    );
    for wrong in ["küche", "a\tb", &"x".repeat(201)] {
        let error = load(&[("NODE_ID", wrong)]).expect_err(wrong).to_string();
        assert!(
            error.contains("NODE_ID") && error.contains("printable"),
            "{error}"
        );
    }
}

#[test]
fn a_certificate_needs_its_key_and_the_demand_for_certificates_needs_tls() {
    let refused = |pairs: &[(&str, &str)]| load(pairs).expect_err("refused").to_string();
    for (alone, needed) in [
        ("TLS_CERT", "TLS_KEY"),
        ("TLS_KEY", "TLS_CERT"),
        ("TLS_CLIENT_CA", "TLS_CERT"),
        ("FALLBACK_CERT", "FALLBACK_KEY"),
        ("FALLBACK_KEY", "FALLBACK_CERT"),
    ] {
        let told = refused(&[(alone, "/file")]);
        assert!(told.starts_with(alone) && told.contains(needed), "{told}");
    }
    let both = [("TLS_CERT", "/file"), ("TLS_KEY", "/file")];
    assert!(load(&both).expect("loads").settings.tls.is_on());
    let plain = [("FALLBACK_CA", "/file"), ("FALLBACK_URL", "http://x")];
    assert_eq!(load(&plain).expect("loads").warnings.len(), 1);
    let encrypted = [("FALLBACK_CA", "/file"), ("FALLBACK_URL", "https://x")];
    assert_eq!(
        load(&encrypted).expect("loads").warnings,
        Vec::<String>::new()
    );
}

#[test]
fn every_protocol_needs_a_port_of_its_own() {
    let error = load(&[("PORT", "9000"), ("WYOMING_PORT", "9000")]).err();
    let told = error.expect("it is refused").to_string();
    assert!(
        told.contains("WYOMING_PORT=9000") && told.contains("other than PORT"),
        "{told}"
    );
    let both = [("WYOMING_PORT", "9001"), ("AGENT_CHECK_PORT", "9001")];
    let error = load(&both).err();
    let told = error.expect("it is refused").to_string();
    assert!(
        told.contains("AGENT_CHECK_PORT=9001") && told.contains("other than WYOMING_PORT"),
        "{told}"
    );
    for pair in [
        [("PORT", "0"), ("WYOMING_PORT", "0")],
        [("WYOMING_PORT", "0"), ("AGENT_CHECK_PORT", "0")],
        [("WYOMING_PORT", "10300"), ("AGENT_CHECK_PORT", "9006")],
        [("PORT", "9000"), ("WYOMING_PORT", "9001")],
    ] {
        load(&pair).expect("loads");
    }
}
