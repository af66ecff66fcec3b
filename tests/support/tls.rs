//! A proxy that adds TLS to a server, for clients that demand it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A running proxy.
pub struct TlsProxy {
    /// Its base URL.
    pub url: String,
    folder: tempfile::TempDir,
}

impl TlsProxy {
    /// Starts a proxy before the server with this base URL.
    pub async fn start(server: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (certificate_in(&folder), folder.path().join("key.pem"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj"])
            .args(["/CN=a test", "-addext", "subjectAltName=IP:127.0.0.1"])
            .arg("-out")
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{made:?}");
        let chain = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("fit each other");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let server = server
            .strip_prefix("http://")
            .expect("plain HTTP")
            .to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tokio::spawn(async move {
                    if let Ok(mut client) = acceptor.accept(client).await
                        && let Ok(mut server) = TcpStream::connect(server).await
                    {
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self {
            url: format!("https://{address}"),
            folder,
        }
    }

    /// Its certificate.
    pub fn certificate(&self) -> PathBuf {
        certificate_in(&self.folder)
    }
}

fn certificate_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("certificate.pem")
}
