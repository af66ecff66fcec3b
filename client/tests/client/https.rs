//! HTTPS in a program that has no setup for it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uttera_stt_client::{Client, Error, RetryPolicy};

/// A self-signed certificate for 127.0.0.1 and its key, both in PEM format.
fn make_certificate(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=a test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let read = |path| std::fs::read(path).expect("is there");
    (read(certificate), read(key))
}

/// Answers every request. `clients`: the authority of whose certificates clients need one, in PEM format.
async fn serve(certificate: &[u8], key: &[u8], clients: Option<&[u8]>) -> String {
    let chain = CertificateDer::pem_slice_iter(certificate);
    let chain: Result<Vec<_>, _> = chain.collect();
    let key = PrivateKeyDer::from_pem_slice(key).expect("a key");
    let provider = Arc::new(ring::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let authority = CertificateDer::from_pem_slice(authority).expect("a certificate");
            roots.add(authority).expect("an authority");
            let roots = Arc::new(roots);
            let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            builder.build().expect("a verifier")
        }
    };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.expect("a certificate"), key)
        .expect("fit each other");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head).await;
            let reply =
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";
            let _ = stream.write_all(reply).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("https://{address}")
}

#[tokio::test]
async fn a_certificate_is_trusted_only_if_it_was_added() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = make_certificate(folder.path());
    let url = serve(&certificate, &key, None).await;
    let builder = Client::builder(&url).no_proxy().retry(RetryPolicy::never());

    let trusting = builder
        .clone()
        .root_certificate(certificate)
        .build()
        .expect("a client");
    assert_eq!(trusting.health().await.expect("a reply")["ok"], true);
    let plain = builder
        .clone()
        .build()
        .expect("the system has certificates");
    let error = plain
        .health()
        .await
        .expect_err("the certificate is not trusted");
    assert!(
        matches!(&error, Error::Connect(why) if why.contains("certificate")),
        "{error:?}"
    );
    for nonsense in ["", "no certificate"] {
        let built = builder.clone().root_certificate(nonsense).build();
        assert!(matches!(built, Err(Error::Invalid(_))), "{built:?}");
    }
    // The provider of the process is the program's choice.
    assert!(CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn a_certificate_is_presented_and_the_system_is_not_trusted_in_addition() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = make_certificate(folder.path());
    // The certificate is its own authority.
    let url = serve(&certificate, &key, Some(&certificate)).await;
    let builder = Client::builder(&url).no_proxy().retry(RetryPolicy::never());
    let builder = builder.only_root_certificates(certificate.clone());
    let presenting = builder.clone();
    let presenting = presenting.client_certificate(certificate.clone(), key.clone());
    let presenting = presenting.build().expect("a client");
    assert_eq!(presenting.health().await.expect("a reply")["ok"], true);
    let silent = builder.clone().build().expect("a client");
    silent.health().await.expect_err("it needs a certificate");
    for (chain, key) in [
        (certificate.clone(), Vec::new()),
        (Vec::new(), key.clone()),
        (certificate.clone(), certificate.clone()),
    ] {
        let built = builder.clone().client_certificate(chain, key).build();
        assert!(matches!(built, Err(Error::Invalid(_))), "{built:?}");
    }
}

#[tokio::test]
async fn a_connection_without_a_handshake_times_out() {
    // The server accepts the connection and sends nothing, so the handshake never ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let builder = Client::builder(url).no_proxy().retry(RetryPolicy::never());
    let client = builder.connect_timeout(Duration::from_millis(50)).build();
    let error = client.expect("a client").health().await.expect_err("hangs");
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
}
