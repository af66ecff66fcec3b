//! The other servers that the settings name: Redis, the S3 store, LibreTranslate and the fallback node. They are asked at the same
//! time, each with time limits of its own.

use std::path::PathBuf;

use reqwest::Url;
use serde_json::Value;

use super::clock::{self, Clock};
use super::finding::Finding;
use super::http::{self, Trust};
use super::settings::names_this_machine;
use crate::fallback::FallbackServer;
use crate::jobs::audio::AudioStore;
use crate::jobs::audio::s3::S3Audio;
use crate::redis::{NodeAddress, RedisDirectory};
use crate::settings::{Secret, Settings};
use crate::tls::redis::RedisFiles;

/// Findings about a neighbour, and its clock.
#[derive(Default)]
struct Asked {
    findings: Vec<Finding>,
    clock: Option<Clock>,
}

impl From<Finding> for Asked {
    fn from(finding: Finding) -> Self {
        Self {
            findings: vec![finding],
            clock: None,
        }
    }
}

/// Asks all configured neighbours.
pub(super) async fn examine(settings: &Settings) -> Vec<Finding> {
    let (redis, audio, translator, fallback) = tokio::join!(
        redis(settings),
        audio_of_jobs(settings),
        libretranslate(settings),
        fallback(settings)
    );
    let named = [
        ("Redis", redis.clock),
        ("LibreTranslate", translator.clock),
        ("the fallback", fallback.clock),
    ];
    let clocks: Vec<(&str, Clock)> = (named.into_iter())
        .filter_map(|(name, clock)| Some((name, clock?)))
        .collect();
    let mut findings = redis.findings;
    findings.extend(audio);
    findings.extend(translator.findings);
    findings.extend(fallback.findings);
    findings.extend(clock::examine(&clocks));
    findings
}

async fn redis(settings: &Settings) -> Asked {
    const CHECK: &str = "redis";
    let Some(url) = &settings.redis_url else {
        return Asked::default();
    };
    let node = NodeAddress {
        id: "doctor".to_owned(),
        host: String::new(),
        port: settings.port,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let why = "without its record in Redis, routers do not find this node";
    let files = RedisFiles::of(&settings.redis_tls).read();
    // The check of the certificates reports files that cannot be used.
    let Ok(pem) = files else {
        return Asked::default();
    };
    let directory = match RedisDirectory::new(url, &pem, node) {
        Ok(directory) => directory,
        Err(error) => return Finding::error(CHECK, error.to_string(), why).into(),
    };
    match directory.ping().await {
        Ok(time) => Asked {
            clock: time.map(|time| Clock::compare(time, std::time::SystemTime::now())),
            ..Finding::ok(CHECK, "it answers (REDIS_URL)").into()
        },
        Err(error) => Finding::error(CHECK, error.0, why)
            .mended_by("start Redis, open its port to this machine, or correct REDIS_URL")
            .into(),
    }
}

async fn audio_of_jobs(settings: &Settings) -> Option<Finding> {
    const CHECK: &str = "job-audio";
    let s3 = Some(&settings.jobs.s3).filter(|s3| s3.is_used())?;
    let answer = match S3Audio::new(s3, PathBuf::new()) {
        Ok(audio) => audio.ping().await,
        Err(error) => Err(error),
    };
    Some(match answer {
        Ok(()) => Finding::ok(CHECK, "the S3 store answers (JOB_AUDIO_URL)"),
        Err(error) => {
            let what = format!("the S3 store (JOB_AUDIO_URL): {error}");
            Finding::error(CHECK, what, "new jobs are rejected, and queued ones wait")
                .mended_by("start the store, or correct JOB_AUDIO_URL and the AWS_… settings")
        }
    })
}

async fn libretranslate(settings: &Settings) -> Asked {
    const CHECK: &str = "libretranslate";
    let Some(url) = &settings.libretranslate_url else {
        return Asked::default();
    };
    let place = http::place(url);
    let failed = |problem: String| {
        let what = format!("LibreTranslate at {place}: {problem}");
        Finding::error(CHECK, what, "requests for translations fail")
            .mended_by("start LibreTranslate, or correct LIBRETRANSLATE_URL")
    };
    let reply = match http::get(http::below(url, "/languages"), None, &Trust::default()).await {
        Ok(reply) => reply,
        Err(problem) => return failed(problem).into(),
    };
    let languages = serde_json::from_slice::<Vec<Value>>(&reply.body);
    let finding = match (reply.status, languages) {
        (200, Ok(languages)) => {
            let number = languages.len();
            Finding::ok(CHECK, format!("{place} answers, with {number} languages"))
        }
        (200, Err(_)) => failed("GET /languages gives no list: is it LibreTranslate?".to_owned()),
        (status, _) => failed(format!("GET /languages gives status {status}")),
    };
    Asked {
        clock: reply.clock,
        ..finding.into()
    }
}

async fn fallback(settings: &Settings) -> Asked {
    let Some(url) = &settings.fallback_url else {
        return Asked::default();
    };
    let node = Fallback {
        place: http::place(url),
        base: without_version(url),
        key: settings.fallback_api_key.clone().map(Secret::reveal),
        // The check of the client reports what is wrong with them.
        trust: Trust::of_fallback(settings).unwrap_or_default(),
    };
    if let Err(error) = FallbackServer::of(settings) {
        return node.failed(&error.to_string()).into();
    }
    let is_itself = url.host_str().is_some_and(names_this_machine)
        && url.port_or_known_default() == Some(settings.port);
    if is_itself {
        let finding = node.failed("that is this node itself (HOST, PORT)");
        return finding
            .mended_by("set FALLBACK_URL to the other node")
            .into();
    }
    node.ask().await
}

/// The fallback node.
struct Fallback {
    place: String,
    base: Url,
    key: Option<String>,
    trust: Trust,
}

impl Fallback {
    const CHECK: &str = "fallback";
    const WHY: &str = "doubtful texts are not transcribed again: /v1/transcribe fails with 502, and other routes keep \
                       the doubtful text";

    async fn ask(&self) -> Asked {
        let ready = match self.readiness().await {
            Ok(reply) => reply,
            Err(problem) => return self.failed(&problem).into(),
        };
        // GET is no request for work: with a valid key, this path answers that it takes only POST.
        let work = http::below(&self.base, "/v1/transcribe");
        let status = http::get(work, self.key.as_deref(), &self.trust).await;
        let finding = match (status.map(|reply| reply.status), ready.status) {
            (Err(problem), _) => self.failed(&format!("GET /v1/transcribe: {problem}")),
            (Ok(401 | 403), _) => {
                let problem = match self.key {
                    Some(_) => "it rejects the key",
                    None => "it requires a key",
                };
                let fix = "set FALLBACK_API_KEY to a key of that node (its API_KEYS)";
                self.failed(problem).mended_by(fix)
            }
            (Ok(404), _) => self.failed("it has no /v1/transcribe, which escalation needs"),
            (Ok(300..=399), _) => self.failed("it redirects, which the server does not follow"),
            (Ok(_), 200) => {
                let key = if self.key.is_some() {
                    ", and accepts the key"
                } else {
                    ""
                };
                Finding::ok(Self::CHECK, format!("{} is ready{key}", self.place))
            }
            (Ok(_), status) => {
                let what = format!(
                    "the fallback at {} is not ready (status {status})",
                    self.place
                );
                Finding::warning(Self::CHECK, what, Self::WHY).mended_by(format!(
                    "uttera-stt smoke {}://{}, and the log of that node",
                    self.base.scheme(),
                    self.place
                ))
            }
        };
        Asked {
            clock: ready.clock,
            ..finding.into()
        }
    }

    /// `/readyz`, else the paths that other servers of this kind have.
    async fn readiness(&self) -> Result<http::Reply, String> {
        let mut reply = http::get(http::below(&self.base, "/readyz"), None, &self.trust).await?;
        for path in ["/v1/health", "/health"] {
            if reply.status != 404 {
                break;
            }
            reply = http::get(http::below(&self.base, path), None, &self.trust).await?;
        }
        Ok(reply)
    }

    fn failed(&self, problem: &str) -> Finding {
        let what = format!("the fallback at {}: {problem}", self.place);
        Finding::error(Self::CHECK, what, Self::WHY)
            .mended_by("start the fallback node, or correct FALLBACK_URL")
    }
}

/// The base URL without `/v1` at its end, which the client ignores, too.
fn without_version(url: &Url) -> Url {
    let mut base = url.clone();
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    base.set_path(&path);
    base
}

#[cfg(test)]
mod tests {
    use wiremock::matchers::{header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::super::finding::Severity;
    use super::*;

    const KEY: &str = "between-us-0123456789";

    /// A server that answers these paths with these statuses and bodies, and every other path with 404.
    async fn server(routes: &[(&str, u16, &str)]) -> MockServer {
        let server = MockServer::start().await;
        for (at, status, body) in routes {
            let reply = ResponseTemplate::new(*status).set_body_raw(*body, "application/json");
            let mock = Mock::given(method("GET"))
                .and(path(*at))
                .respond_with(reply);
            mock.mount(&server).await;
        }
        server
    }

    fn only(asked: Asked) -> Finding {
        let [finding] = <[Finding; 1]>::try_from(asked.findings).expect("one finding");
        finding
    }

    async fn of_fallback(node: &MockServer, key: Option<&str>) -> Finding {
        let mut settings = Settings::default();
        settings.fallback_url = Some(format!("{}/v1/", node.uri()).parse().expect("a URL"));
        settings.fallback_api_key = key.map(Secret::from);
        let finding = only(fallback(&settings).await);
        assert!(!format!("{finding:?}").contains(KEY), "{finding:?}");
        finding
    }

    #[tokio::test]
    async fn a_fallback_must_be_ready_and_accept_the_key() {
        let node = server(&[("/readyz", 200, "{}")]).await;
        let mock = |status| {
            let keyed = header("authorization", format!("Bearer {KEY}"));
            let given = Mock::given(path("/v1/transcribe")).and(keyed);
            given.respond_with(ResponseTemplate::new(status))
        };
        mock(405).mount(&node).await;
        let other = Mock::given(path("/v1/transcribe")).respond_with(ResponseTemplate::new(401));
        other.mount(&node).await;
        assert_eq!(of_fallback(&node, Some(KEY)).await.severity, Severity::Ok);
        let wrong = of_fallback(&node, Some("something-else")).await;
        assert_eq!(wrong.severity, Severity::Error);
        assert!(wrong.what.ends_with("it rejects the key"), "{wrong:?}");
        let keyless = of_fallback(&node, None).await;
        assert!(keyless.what.ends_with("it requires a key"), "{keyless:?}");
    }

    #[tokio::test]
    async fn a_fallback_that_loads_is_a_warning_and_a_stranger_is_an_error() {
        let loading = server(&[("/readyz", 503, "{}"), ("/v1/transcribe", 405, "")]).await;
        assert_eq!(
            of_fallback(&loading, None).await.severity,
            Severity::Warning
        );
        let of_python = server(&[("/health", 200, "{}"), ("/v1/transcribe", 405, "")]).await;
        assert_eq!(of_fallback(&of_python, None).await.severity, Severity::Ok);
        let stranger = server(&[("/health", 200, "{}")]).await;
        assert_eq!(of_fallback(&stranger, None).await.severity, Severity::Error);
    }

    #[tokio::test]
    async fn a_node_that_is_its_own_fallback_is_an_error() {
        let mut settings = Settings::default();
        settings.fallback_url = Some("http://localhost:9005".parse().expect("a URL"));
        let finding = only(fallback(&settings).await);
        assert!(finding.what.contains("this node itself"), "{finding:?}");
    }

    #[tokio::test]
    async fn libretranslate_must_list_its_languages() {
        let ask = async |status, body| {
            let server = server(&[("/languages", status, body)]).await;
            let mut settings = Settings::default();
            settings.libretranslate_url = Some(server.uri().parse().expect("a URL"));
            only(libretranslate(&settings).await)
        };
        let works = ask(200, r#"[{"code":"en"},{"code":"de"}]"#).await;
        assert_eq!(works.severity, Severity::Ok);
        assert!(works.what.ends_with("with 2 languages"), "{works:?}");
        for (status, body) in [(200, "<h1>Hello</h1>"), (200, "{}"), (500, "[]"), (302, "")] {
            let finding = ask(status, body).await;
            assert_eq!(finding.severity, Severity::Error, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn a_wrong_clock_of_a_neighbour_is_a_warning() {
        let late = ResponseTemplate::new(200)
            .insert_header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .set_body_raw("[]", "application/json");
        let server = MockServer::start().await;
        Mock::given(path("/languages"))
            .respond_with(late)
            .mount(&server)
            .await;
        let mut settings = Settings::default();
        settings.libretranslate_url = Some(server.uri().parse().expect("a URL"));
        let found = examine(&settings).await;
        let clock = found
            .iter()
            .find(|f| f.check == "clock")
            .expect("a finding");
        assert_eq!(clock.severity, Severity::Warning);
        assert!(
            clock.what.contains("ahead of that of LibreTranslate"),
            "{clock:?}"
        );
    }

    #[tokio::test]
    async fn without_neighbours_there_is_nothing_to_report() {
        assert_eq!(examine(&Settings::default()).await, []);
    }
}
