//! HTTPS in a program that has no setup for it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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

/// Answers every request with a short transcript.
async fn serve(certificate: &[u8], key: &[u8]) -> String {
    let chain = CertificateDer::pem_slice_iter(certificate);
    let chain: Result<Vec<_>, _> = chain.collect();
    let key = PrivateKeyDer::from_pem_slice(key).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
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
    let url = serve(&certificate, &key).await;
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
async fn a_connection_without_a_handshake_times_out() {
    // The server accepts the connection and sends nothing, so the handshake never ends.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let builder = Client::builder(url).no_proxy().retry(RetryPolicy::never());
    let client = builder.connect_timeout(Duration::from_millis(50)).build();
    let error = client.expect("a client").health().await.expect_err("hangs");
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
}
