//! A certificate authority of a test, and the certificates that it issues, made with openssl.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a private key is written.
#[derive(Clone, Copy, Debug)]
pub enum KeyKind {
    /// EC, in PKCS#8.
    EcPkcs8,
    /// EC, in the older format of its own.
    EcSec1,
    /// RSA, in PKCS#8.
    RsaPkcs8,
    /// RSA, in the older format of its own.
    RsaPkcs1,
}

/// An authority with a folder of its own.
pub struct Authority {
    folder: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The file with the certificate.
    pub certificate: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Self { folder };
        let (certificate, key) = (authority.path("ca.pem"), authority.path("ca.key"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "365",
            "-subj",
            "/CN=An authority of a test",
            "-out",
            text(&certificate),
            "-keyout",
            text(&key),
        ]);
        authority
    }

    /// The file with its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Issues a certificate for 127.0.0.1, localhost and stt.test, for servers and clients, valid for 90 days.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, KeyKind::EcPkcs8, 90)
    }

    /// The same with this kind of key, valid for this number of days from now; a negative one: expired.
    pub fn issue_with(&self, name: &str, kind: KeyKind, days: i32) -> Issued {
        let [key, request, extensions, certificate] =
            ["key", "csr", "ext", "pem"].map(|end| self.path(&format!("{name}.{end}")));
        match kind {
            KeyKind::EcPkcs8 => openssl(&[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                text(&key),
            ]),
            // With the parameters of the curve before the key, as openssl writes it.
            KeyKind::EcSec1 => openssl(&[
                "ecparam",
                "-name",
                "secp384r1",
                "-genkey",
                "-out",
                text(&key),
            ]),
            KeyKind::RsaPkcs8 => openssl(&[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-out",
                text(&key),
            ]),
            KeyKind::RsaPkcs1 => openssl(&["genrsa", "-traditional", "-out", text(&key), "2048"]),
        }
        let subject = format!("/CN={name}");
        openssl(&[
            "req",
            "-new",
            "-key",
            text(&key),
            "-subj",
            &subject,
            "-out",
            text(&request),
        ]);
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:stt.test\n\
                     extendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(&extensions, names).expect("writes");
        let (ca, ca_key, days) = (self.certificate(), self.path("ca.key"), days.to_string());
        openssl(&[
            "x509",
            "-req",
            "-in",
            text(&request),
            "-CA",
            text(&ca),
            "-CAkey",
            text(&ca_key),
            "-CAcreateserial",
            "-days",
            &days,
            "-extfile",
            text(&extensions),
            "-out",
            text(&certificate),
        ]);
        Issued { certificate, key }
    }

    /// A path in the authority's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Issued {
    /// The settings with which a server presents it.
    pub fn settings(&self) -> [(&'static str, &str); 2] {
        [
            ("TLS_CERT", text(&self.certificate)),
            ("TLS_KEY", text(&self.key)),
        ]
    }

    /// Certificate and key in one text, as clients take them.
    pub fn pem(&self) -> Vec<u8> {
        let read = |path: &Path| std::fs::read(path).expect("is there");
        [read(&self.certificate), read(&self.key)].concat()
    }

    /// Puts this certificate in the place of another one, by renaming, so that no reader sees half a file.
    pub fn replace(&self, other: &Self) {
        for (from, to) in [
            (&self.certificate, &other.certificate),
            (&self.key, &other.key),
        ] {
            let new = to.with_extension("new");
            std::fs::copy(from, &new).expect("copies");
            std::fs::rename(new, to).expect("renames");
        }
    }
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn openssl(arguments: &[&str]) {
    let made = Command::new("openssl").args(arguments).output();
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{arguments:?}: {made:?}");
}

/// A client with these certificates: it trusts only this authority, and presents this certificate.
pub fn client(authority: &Authority, own: Option<&Issued>) -> reqwest::Client {
    let trusted = std::fs::read(authority.certificate()).expect("is there");
    let trusted = reqwest::Certificate::from_pem(&trusted).expect("a certificate");
    let mut builder = crate::http::client_builder().tls_certs_only([trusted]);
    if let Some(own) = own {
        let own = reqwest::Identity::from_pem(&own.pem()).expect("a pair");
        builder = builder.identity(own);
    }
    builder.build().expect("a client")
}

/// An address of this machine from which a connection to 127.0.0.1 looks like one of another machine. `None`, with a
/// message, if the machine has no network.
pub fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing; the kernel chooses the address for it.
    let chosen = socket
        .connect("198.51.100.1:9")
        .and_then(|()| socket.local_addr());
    let found = chosen
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback());
    if found.is_none() {
        println!("skipped: this machine has no address but 127.0.0.1");
    }
    found
}
