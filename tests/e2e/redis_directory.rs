//! The node directory against a real Redis: its record, and its errors when Redis has a fault.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use stt_actors::ports::{DirectoryError, NodeDirectory, NodeRecord};
use test_support::port::free_port;
use test_support::redis_server::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use uttera_stt::redis::{NodeAddress, RedisDirectory, RedisPem};

pub const KEY: &str = "stt:nodes:kitchen";
const TTL: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

pub fn node() -> NodeAddress {
    NodeAddress {
        id: "kitchen".to_owned(),
        host: "10.0.0.7".to_owned(),
        port: 9005,
        version: "0.1.0".to_owned(),
    }
}

pub fn directory(url: &str) -> RedisDirectory {
    RedisDirectory::new(url, &RedisPem::default(), node()).expect("a URL")
}

pub async fn publish(directory: &RedisDirectory, load_score: f64) -> Result<(), DirectoryError> {
    let record = NodeRecord {
        load_score,
        accepts_requests: true,
    };
    // Far beyond the limit of a call: a hanging call must fail by itself.
    let call = timeout(PATIENCE, directory.publish(record, TTL));
    call.await.expect("an end")
}

pub async fn refusal(directory: &RedisDirectory) -> String {
    let error = publish(directory, 0.5).await.expect_err("refused");
    assert!(error.0.len() < 300, "{error}");
    assert!(!error.0.contains("hunter2"), "{error}");
    error.0
}

pub fn load_score(server: &RedisServer) -> Option<f64> {
    let value: Value = serde_json::from_str(&server.get(KEY)?).expect("JSON");
    value["load_score"].as_f64()
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn the_record_is_exactly_what_routers_read_and_ends_by_itself() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    let before = now();
    publish(&directory, 0.25).await.expect("published");
    let text = server.get(KEY).expect("a record");
    let beginning = r#"{"load_score":0.25,"accepts_requests":true,"host":"10.0.0.7","port":9005,"version":"0.1.0","ts":"#;
    let rest = text.strip_prefix(beginning).expect(&text);
    let ts = rest.strip_suffix('}').expect(&text);
    assert!(ts.contains('.'), "{text}");
    let ts: f64 = ts.parse().expect(&text);
    assert!(before <= ts && ts <= now(), "{text}");
    assert_eq!(server.keys(), [KEY]);
    assert!((1..=60).contains(&server.ttl(KEY)));
}

#[tokio::test]
async fn a_new_record_replaces_the_old_one_over_the_same_connection() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    publish(&directory, 0.25).await.expect("published");
    let first = publisher(&server);
    publish(&directory, 0.75).await.expect("published");
    assert_eq!(load_score(&server), Some(0.75));
    assert_eq!(publisher(&server), first);
}

/// The id of the connection whose last command was SET.
fn publisher(server: &RedisServer) -> String {
    let list: String = server.ask(&["CLIENT", "LIST"]);
    let mut lines = list.lines().filter(|line| line.contains(" cmd=set "));
    let line = lines.next().expect("a connection");
    assert_eq!(lines.next(), None);
    line.split_whitespace().next().expect("id=…").to_owned()
}

#[tokio::test]
async fn a_withdrawn_record_is_gone_and_withdrawing_it_again_is_no_error() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    publish(&directory, 0.25).await.expect("published");
    directory.withdraw().await.expect("withdrawn");
    assert_eq!(server.get(KEY), None);
    directory.withdraw().await.expect("nothing to do");
}

#[tokio::test]
async fn a_restarted_redis_has_the_record_again_with_the_next_call() {
    let mut server = RedisServer::start().await;
    let directory = directory(&server.url());
    publish(&directory, 0.25).await.expect("published");
    server.stop();
    let refused = refusal(&directory).await;
    assert!(refused.contains("the connection was refused"), "{refused}");
    server.restart().await;
    publish(&directory, 0.5).await.expect("published");
    server.restart().await;
    publish(&directory, 0.75).await.expect("published");
    assert_eq!(load_score(&server), Some(0.75));
}

#[tokio::test]
async fn a_redis_that_hangs_is_an_error_and_works_again_when_it_goes_on() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    publish(&directory, 0.25).await.expect("published");
    server.pause().await;
    let refused = refusal(&directory).await;
    assert!(refused.contains("in time"), "{refused}");
    directory.withdraw().await.expect_err("no answer");
    server.resume().await;
    // Redis still executes the commands that it received while it was stopped; later calls override them.
    server
        .until("what came late is done", |server| {
            let counts: String = server.ask(&["INFO", "commandstats"]);
            counts.contains("cmdstat_set:calls=2,") && counts.contains("cmdstat_del:calls=1,")
        })
        .await;
    publish(&directory, 0.75).await.expect("published");
    assert_eq!(load_score(&server), Some(0.75));
    directory.withdraw().await.expect("withdrawn");
    assert_eq!(server.get(KEY), None);
}

#[tokio::test]
async fn calls_made_while_one_hangs_end_as_well() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    server.pause().await;
    let calls = [0.1, 0.2, 0.3, 0.4].map(|load_score| publish(&directory, load_score));
    for result in futures::future::join_all(calls).await {
        result.expect_err("no answer");
    }
    server.resume().await;
    publish(&directory, 0.75).await.expect("published");
}

#[tokio::test]
async fn a_wrong_password_is_reported_without_it_and_the_right_one_works_at_once() {
    let mut server = RedisServer::start_with_password("hunter2").await;
    let port = server.port();
    let wrong = directory(&format!("redis://:hunter22@127.0.0.1:{port}"));
    let refused = refusal(&wrong).await;
    assert!(
        refused.contains("rejected the user name or the password"),
        "{refused}"
    );
    let without = directory(&format!("redis://127.0.0.1:{port}"));
    let refused = refusal(&without).await;
    assert!(refused.contains("requires a password"), "{refused}");
    let right = directory(&server.url());
    publish(&right, 0.25).await.expect("published");
    server.restart_with_password(Some("hunter22")).await;
    refusal(&right).await;
    publish(&wrong, 0.5).await.expect("it is right by now");
    server.restart_with_password(None).await;
    publish(&without, 0.75)
        .await
        .expect("none is wanted by now");
}

#[tokio::test]
async fn an_unneeded_password_and_a_missing_database_are_reported() {
    let server = RedisServer::start().await;
    let port = server.port();
    let refused = refusal(&directory(&format!("redis://u:hunter2@127.0.0.1:{port}"))).await;
    assert!(refused.contains("password"), "{refused}");
    let refused = refusal(&directory(&format!("redis://127.0.0.1:{port}/4711"))).await;
    assert!(refused.contains("number of the database"), "{refused}");
}

#[tokio::test]
async fn a_full_redis_is_reported_and_gets_the_record_when_it_has_room() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    server.set_option("maxmemory", "1");
    let refused = refusal(&directory).await;
    assert!(refused.contains("memory is full"), "{refused}");
    server.set_option("maxmemory", "0");
    publish(&directory, 0.75).await.expect("published");
}

#[tokio::test]
async fn a_replica_is_reported_and_gets_the_record_when_it_is_a_master_again() {
    let server = RedisServer::start().await;
    let directory = directory(&server.url());
    publish(&directory, 0.25).await.expect("published");
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    let refused = refusal(&directory).await;
    assert!(refused.contains("replica"), "{refused}");
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    publish(&directory, 0.75).await.expect("published");
    assert_eq!(load_score(&server), Some(0.75));
}

#[tokio::test]
async fn the_permissions_to_set_and_delete_are_enough() {
    let server = RedisServer::start().await;
    let rules = ["ACL", "SETUSER", "node", "on", ">hunter2", "~stt:nodes:*"];
    let url = format!("redis://node:hunter2@127.0.0.1:{}", server.port());
    let directory = directory(&url);
    server.ask::<()>(&rules);
    let refused = refusal(&directory).await;
    assert!(refused.contains("SET and DEL are needed"), "{refused}");
    server.ask::<()>(&[&rules[..], &["+set", "+del"]].concat());
    for load_score in [0.25, 0.5] {
        publish(&directory, load_score).await.expect("published");
    }
    directory.withdraw().await.expect("withdrawn");
    assert_eq!(server.get(KEY), None);
}

#[tokio::test]
async fn a_unix_socket_works() {
    let server = RedisServer::start().await;
    let directory = directory(&format!("unix://{}", server.socket().display()));
    publish(&directory, 0.25).await.expect("published");
    assert_eq!(load_score(&server), Some(0.25));
}

#[tokio::test]
async fn unreachable_hosts_are_reported_with_their_address() {
    let port = free_port();
    let refused = refusal(&directory(&format!("redis://u:hunter2@127.0.0.1:{port}"))).await;
    assert!(refused.contains(&format!("127.0.0.1:{port}")), "{refused}");
    // Reserved for documentation: either there is no route, or no host replies.
    refusal(&directory("redis://u:hunter2@192.0.2.1")).await;
    refusal(&directory("redis://u:hunter2@nowhere.invalid")).await;
    refusal(&directory("unix:///nowhere/redis.sock?pass=hunter2")).await;
}

#[tokio::test]
async fn something_else_that_answers_is_no_redis() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move {
        let mut connection = accept(&listener).await;
        read_command(&mut connection).await;
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        connection.write_all(answer).await.expect("sent");
    });
    let refused = refusal(&directory(&url)).await;
    assert!(refused.contains("does not speak"), "{refused}");
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_connection_with_an_answer_outstanding_is_closed_so_that_no_late_one_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let directory = directory(&url);
    // After the time limit:
    let (refused, mut first) = tokio::join!(refusal(&directory), async {
        let mut first = accept(&listener).await;
        assert!(read_command(&mut first).await.contains("SET"));
        first
    });
    assert!(refused.contains("no answer in time"), "{refused}");
    until_closed(&mut first).await;
    // If the caller does not wait for it:
    let mut second = tokio::select! {
        _ = publish(&directory, 0.5) => panic!("there was no reply"),
        second = async {
            let mut second = accept(&listener).await;
            assert!(read_command(&mut second).await.contains("SET"));
            second
        } => second,
    };
    until_closed(&mut second).await;
    let third = async {
        let mut third = accept(&listener).await;
        assert!(read_command(&mut third).await.contains("DEL"));
        third.write_all(b":1\r\n").await.expect("sent");
    };
    let (withdrawn, ()) = tokio::join!(directory.withdraw(), third);
    withdrawn.expect("withdrawn");
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let accepted = timeout(PATIENCE, listener.accept()).await;
    accepted.expect("a connection").expect("accepted").0
}

/// The commands are short: one read gets a whole one.
async fn read_command(connection: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    let read = timeout(PATIENCE, connection.read(&mut bytes)).await;
    let length = read.expect("a command").expect("read");
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

async fn until_closed(connection: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
    // The connection is closed, by a reset or normally.
    let _ = read.expect("the end");
}

/// Set in the child process of this test, because the trusted certificates are read from the environment.
const TLS_URL: &str = "UTTERA_TEST_TLS_URL";

#[tokio::test]
async fn tls_works_with_a_trusted_certificate_and_refuses_any_other() {
    if let Ok(url) = std::env::var(TLS_URL) {
        return publish(&directory(&url), 0.25).await.expect("published");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = make_certificate(folder.path());
    let port = free_port();
    let server = RedisServer::start_with(
        None,
        &[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
        ],
    )
    .await;
    let url = format!("rediss://127.0.0.1:{port}");
    let refused = refusal(&directory(&url)).await;
    assert!(refused.contains("certificate"), "{refused}");
    assert_eq!(server.get(KEY), None);
    let itself = std::env::current_exe().expect("a path");
    let trusting = Command::new(itself)
        .args([
            "--exact",
            "redis_directory::tls_works_with_a_trusted_certificate_and_refuses_any_other",
        ])
        .env("SSL_CERT_FILE", &certificate)
        .env(TLS_URL, &url)
        .output()
        .expect("starts");
    assert!(trusting.status.success(), "{trusting:?}");
    assert_eq!(load_score(&server), Some(0.25));
    // Plain text where TLS is expected.
    refusal(&directory(&format!("rediss://127.0.0.1:{}", server.port()))).await;
}

/// A self-signed certificate for 127.0.0.1, and its key.
fn make_certificate(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=redis of a test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-out", &certificate, "-keyout", &key])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}
