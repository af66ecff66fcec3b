//! Certificates of a running server: exchanged under load, broken, expired, and those of a primary and its fallback.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use test_support::command_line::{err, out, run_with};
use test_support::escalation_pair::{ALWAYS, PATH};
use test_support::keys::hang_up;
use test_support::tls::{Authority, Issued, KeyKind, client, text};
use test_support::{Server, form, model, patiently, sample};

use crate::tls::{COMMAND, TRANSCRIPTIONS, curl, server, status};

const RELOADED: &str = "the certificate was reloaded";
const NOT_RELOADED: &str = "the certificate could not be reloaded";

#[tokio::test]
async fn certificates_are_exchanged_under_load_and_no_request_is_lost() {
    let (old, new) = (Authority::new(), Authority::new());
    let issued = old.issue("server");
    let server = server(&issued.settings()).await;
    let (of_old, of_new) = (client(&old, None), client(&new, None));
    let url = format!("{}{TRANSCRIPTIONS}", server.url);
    // Connections that were open before the exchange go on; each of these users sends one request after the other.
    let reloaded = Arc::new(AtomicBool::new(false));
    let answered = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
    let users: Vec<_> = (answered.iter().cloned())
        .map(|answered| {
            let (client, url) = (client(&old, None), url.clone());
            let reloaded = Arc::clone(&reloaded);
            tokio::spawn(async move {
                while !reloaded.load(Ordering::Relaxed) {
                    let request = client.post(&url).multipart(form(&sample(COMMAND), &[]));
                    let response = request.send().await.expect("an answer");
                    assert_eq!(response.status(), 200);
                    assert!(response.text().await.expect("a body").contains("kitchen"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    assert_eq!(status(&of_old, &server, "/livez").await, Ok(200));
    status(&of_new, &server, "/livez")
        .await
        .expect_err("the old certificate");
    let are_connected =
        || async { (answered.iter()).all(|answered| answered.load(Ordering::Relaxed) > 0) };
    server.until("all users are connected", are_connected).await;
    new.issue("server").replace(&issued);
    hang_up(&server, RELOADED).await;
    // This connection is new.
    assert_eq!(status(&of_new, &server, "/livez").await, Ok(200));
    status(&client(&old, None), &server, "/livez")
        .await
        .expect_err("the new certificate");
    // This one is not.
    assert_eq!(status(&of_old, &server, "/livez").await, Ok(200));
    let of_before: Vec<_> = (answered.iter())
        .map(|answered| answered.load(Ordering::Relaxed))
        .collect();
    let go_on = || async {
        let mut now = answered.iter().zip(&of_before);
        // The first answer may be that of a request from before.
        now.all(|(now, before)| now.load(Ordering::Relaxed) > before + 1)
    };
    server.until("all users are answered again", go_on).await;
    reloaded.store(true, Ordering::Relaxed);
    for user in users {
        patiently(user).await.expect("no request is lost");
    }
}

#[tokio::test]
async fn a_broken_reload_keeps_the_certificate_and_is_reported() {
    let authority = Authority::new();
    let issued = authority.issue_with("server", KeyKind::EcPkcs8, 90);
    let ca = authority.certificate();
    let server = server(&issued.settings()).await;
    let expiry = "uttera_stt_tls_certificate_expiry_seconds{certificate=\"server\"}";
    let failed = "uttera_stt_tls_reload_failed{certificate=\"server\"}";
    let until = server.metric(expiry).await;
    let in_90_days = std::time::UNIX_EPOCH
        .elapsed()
        .expect("a time")
        .as_secs_f64()
        + 90.0 * 86400.0;
    assert!((until - in_90_days).abs() < 600.0, "{until} {in_90_days}");
    let fine = async |server: &Server| {
        let livez = format!("{}/livez", server.url);
        assert!(
            curl(&["--cacert", text(&ca), &livez])
                .await
                .status
                .success()
        );
    };
    let expired = authority.issue_with("expired", KeyKind::EcPkcs8, -1);
    let write = |path: &Path, text: &str| std::fs::write(path, text).expect("writes");
    let good = [&issued.certificate, &issued.key]
        .map(|path| std::fs::read_to_string(path).expect("is there"));
    let other_key = std::fs::read_to_string(&authority.issue("other").key).expect("is there");
    for (certificate, key, reason) in [
        ("", good[1].as_str(), "contains no certificate"),
        (&good[0], "garbage", "contains no private key"),
        (&good[0], &other_key, "does not belong"),
    ] {
        write(&issued.certificate, certificate);
        write(&issued.key, key);
        let line = hang_up(&server, NOT_RELOADED).await;
        assert!(line.contains(reason), "{line}");
        assert!((server.metric(failed).await - 1.0).abs() < 0.1);
        fine(&server).await;
    }
    expired.replace(&issued);
    let line = hang_up(&server, NOT_RELOADED).await;
    assert!(line.contains("expired"), "{line}");
    std::fs::remove_file(&issued.key).expect("is there");
    let line = hang_up(&server, NOT_RELOADED).await;
    assert!(
        line.contains("TLS_KEY") && line.contains("cannot be read"),
        "{line}"
    );
    assert!((server.metric(expiry).await - until).abs() < 0.1);
    authority
        .issue_with("renewed", KeyKind::RsaPkcs8, 180)
        .replace(&issued);
    hang_up(&server, RELOADED).await;
    assert!(server.metric(failed).await < 0.1);
    assert!(server.metric(expiry).await > until + 86400.0);
    fine(&server).await;
}

#[tokio::test]
async fn a_primary_presents_its_certificate_to_a_fallback_that_admits_primaries_only() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let issued = authority.issue("fallback");
    let ca = authority.certificate();
    let of_fallback = [&issued.settings()[..], &[("TLS_CLIENT_CA", text(&ca))]].concat();
    let fallback = Server::ready(&model("base").await, &of_fallback).await;
    let own = stranger.issue("primary");
    let settings = [
        ("FALLBACK_URL", fallback.url.as_str()),
        ("FALLBACK_CA", text(&ca)),
        ("FALLBACK_CERT", text(&own.certificate)),
        ("FALLBACK_KEY", text(&own.key)),
        ALWAYS,
    ];
    let primary = Server::ready(&model("tiny.en").await, &settings).await;
    let escalate = async || {
        let form = form_of_primary();
        primary.post(PATH, form).await.status().as_u16()
    };
    assert_eq!(escalate().await, 502);
    authority.issue("primary").replace(&own);
    hang_up(&primary, "the certificates for the fallback were reloaded").await;
    assert_eq!(escalate().await, 200);
    std::fs::write(&own.key, "garbage").expect("writes");
    hang_up(
        &primary,
        "the certificates for the fallback could not be reloaded",
    )
    .await;
    assert_eq!(escalate().await, 200);
    let failed = "uttera_stt_tls_reload_failed{certificate=\"fallback\"}";
    assert!((primary.metric(failed).await - 1.0).abs() < 0.1);
}

fn form_of_primary() -> reqwest::multipart::Form {
    let bytes = std::fs::read(sample(COMMAND)).expect("is there");
    let part = reqwest::multipart::Part::bytes(bytes).file_name(COMMAND);
    reqwest::multipart::Form::new().part("audio", part)
}

#[tokio::test]
async fn the_doctor_reads_the_certificates() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().to_owned();
    let check = |issued: &Issued, more: &[(&str, &str)]| {
        let settings = [&issued.settings()[..], &[("WHISPER_MODEL", "base")], more].concat();
        let output = run_with(&folder, &["check-config"], &settings);
        (output.status.success(), out(&output) + &err(&output))
    };
    let good = authority.issue("good");
    let (passed, told) = check(&good, &[]);
    assert!(passed && !told.contains("TLS"), "{told}");
    let soon = authority.issue_with("soon", KeyKind::EcPkcs8, 13);
    let (passed, told) = check(&soon, &[]);
    assert!(
        passed && told.contains("warning: TLS_CERT") && told.contains("expires on"),
        "{told}"
    );
    let open = authority.issue("open");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&open.key, mode).expect("is there");
    let (passed, told) = check(&open, &[]);
    assert!(
        passed && told.contains("every user of this machine can read"),
        "{told}"
    );
    let expired = authority.issue_with("expired", KeyKind::EcPkcs8, -1);
    let missing = Issued {
        certificate: good.certificate.clone(),
        key: folder.join("nowhere"),
    };
    let mixed = Issued {
        certificate: good.certificate.clone(),
        key: soon.key.clone(),
    };
    for (issued, reason) in [
        (&expired, "expired on"),
        (&missing, "cannot be read"),
        (&mixed, "does not belong"),
    ] {
        let (passed, told) = check(issued, &[]);
        assert!(!passed && told.contains(reason), "{told}");
    }
    let (passed, told) = check(&good, &[("TLS_CLIENT_CA", text(&good.key))]);
    assert!(
        !passed && told.contains("TLS_CLIENT_CA") && told.contains("no certificate"),
        "{told}"
    );
}
