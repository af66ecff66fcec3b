//! Callbacks of the jobs of a real server.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use test_support::{Server, form, model, refused, sample};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::jobs::{JOBS, job, submit};

const SECRET: &str = "a secret for signatures";

/// A receiver that answers only when its test says so.
struct Silent {
    url: String,
    answer: watch::Sender<bool>,
    calls: watch::Receiver<usize>,
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (answer, answers) = watch::channel(false);
        let (calling, calls) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                calling.send_modify(|calls| *calls += 1);
                let mut answers = answers.clone();
                tokio::spawn(async move {
                    let _ = connection.read(&mut [0; 4096]).await;
                    let _ = answers.wait_for(|answer| *answer).await;
                    let head = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                    let _ = connection.write_all(head).await;
                    // Closed unread, the connection would break.
                    let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
                });
            }
        });
        Self { url, answer, calls }
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_delays_the_callbacks_of_no_other() {
    // On a slow machine, callbacks to the silent host may have been given up before the other one is due.
    const ROUNDS: usize = 4;
    for _ in 0..ROUNDS {
        if given_up_before_another_is_delivered().await == 0 {
            return;
        }
    }
    panic!("the other host had to wait in {ROUNDS} rounds");
}

/// Sends callbacks to a host that does not answer, and then one to another. Returns how many of the first were given up
/// when the other one was delivered.
async fn given_up_before_another_is_delivered() -> usize {
    let mut silent = Silent::start().await;
    let receiver = MockServer::start().await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&receiver)
        .await;
    let settings = [
        ("JOB_CALLBACK_SECRET", SECRET),
        ("JOB_CALLBACK_HOSTS", "127.0.0.1,localhost"),
    ];
    let server = Server::ready(&model("tiny.en").await, &settings).await;
    let noise = server.folder().join("noise.wav");
    std::fs::write(&noise, b"no audio at all").expect("writes");
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(submit(&server, &noise, &[("callback_url", &silent.url)]).await);
    }
    let called = silent.calls.wait_for(|calls| *calls > 0).await;
    drop(called.expect("it is called"));
    let other = receiver.uri().replace("127.0.0.1", "localhost");
    let other = submit(&server, &noise, &[("callback_url", &other)]).await;
    let callback = async |id: &str| job(&server, id).await["callback"].clone();
    let is_delivered = async || callback(&other).await["status"] == "delivered";
    server.until("the other one is called", is_delivered).await;
    let mut given_up = 0;
    for id in &waiting {
        given_up += usize::from(callback(id).await["attempts"] != 0);
    }
    silent.answer.send_replace(true);
    for id in waiting {
        let is_delivered = async || callback(&id).await["status"] == "delivered";
        server
            .until("the callback is delivered", is_delivered)
            .await;
    }
    given_up
}

#[tokio::test]
async fn a_callback_is_signed_and_repeated_even_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = MockServer::start().await;
    let broken = Mock::given(method("POST")).respond_with(ResponseTemplate::new(500));
    let broken = broken.mount_as_scoped(&receiver).await;
    let settings = [
        ("JOBS_DIR", folder.path().to_str().expect("UTF-8")),
        ("JOB_CALLBACK_SECRET", SECRET),
        ("JOB_CALLBACK_HOSTS", "127.0.0.1"),
    ];
    let model = model("tiny.en").await;
    let mut first = Server::ready(&model, &settings).await;
    let private = first
        .post(
            JOBS,
            form(
                &sample("en-command.wav"),
                &[("callback_url", "http://10.0.0.1/")],
            ),
        )
        .await;
    refused(private, 400, "callback_refused", Some("callback_url")).await;
    // The name is listed nowhere, and its address is not public.
    let local = receiver.uri().replace("127.0.0.1", "localhost");
    let id = submit(
        &first,
        &sample("en-command.wav"),
        &[("callback_url", &local)],
    )
    .await;
    let status =
        async |server: &Server, id: &str| job(server, id).await["callback"]["status"].clone();
    let is_refused = || async { status(&first, &id).await == "refused" };
    first.until("the callback is refused", is_refused).await;
    assert_eq!(broken.received_requests().await.len(), 0);
    let id = submit(
        &first,
        &sample("en-command.wav"),
        &[("callback_url", &receiver.uri())],
    )
    .await;
    first.log_line("a callback failed and is repeated").await;
    first.child.kill().expect("it runs");
    first.child.wait().expect("it ends");
    drop(broken);
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&receiver)
        .await;
    let second = Server::start(&model, &settings).await;
    let is_delivered = || async { status(&second, &id).await == "delivered" };
    second
        .until("the callback is delivered", is_delivered)
        .await;
    let mut requests = receiver.received_requests().await.expect("recorded");
    let callback = requests.pop().expect("one");
    let body = String::from_utf8(callback.body).expect("UTF-8");
    let report: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&report["id"], &report["status"]),
        (&id.as_str().into(), &"done".into())
    );
    let signature = callback.headers["x-uttera-signature"]
        .to_str()
        .expect("text");
    let (time, hmac) = signature.split_once(",v1=").expect("two parts");
    let time = time.strip_prefix("t=").expect("a time");
    let mut expected = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    expected.update(format!("{time}.{body}").as_bytes());
    let expected = expected.finalize().into_bytes();
    let expected: Vec<String> = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = expected.concat();
    assert_eq!(hmac, expected);
    assert!(
        second
            .metric("uttera_stt_job_callbacks_total{outcome=\"delivered\"}")
            .await
            > 0.0
    );
}
