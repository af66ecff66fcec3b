//! The stores of jobs: what the database of one node and a real Redis have in common, and what only nodes that share a
//! store can do to each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stt_actors::domain::finished::FinishedPart;
use stt_actors::domain::transcript::Transcript;
use stt_actors::{Options, Priority, Progress};
use test_support::redis_server::RedisServer;
use uttera_stt::jobs::audio::folder::AudioFolder;
use uttera_stt::jobs::audio::s3::S3Audio;
use uttera_stt::jobs::audio::{self, AudioError};
use uttera_stt::jobs::record::{
    Callback, Failure, Job, JobForm, State, StoredAudio, Submitter, now,
};
use uttera_stt::jobs::store::embedded::EmbeddedStore;
use uttera_stt::jobs::store::shared::SharedStore;
use uttera_stt::jobs::store::{
    CALLBACK_LEASE, Exceeded, JobStore, Put, PutLimits, Rest, StoreError,
};
use uttera_stt::jobs::{JobError, JobLimits, Jobs, TooLarge};
use uttera_stt::redis::RedisPem;
use uttera_stt::render::{Details, Format};
use uttera_stt::settings::S3Settings;
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

const KEEP: Duration = Duration::from_secs(60);
const LIMITS: PutLimits = PutLimits {
    jobs: 20,
    bytes: 2000,
    client_jobs: 16,
    client_bytes: 1600,
};

fn job(id: &str, key: Option<&str>) -> Job {
    Job {
        id: id.to_owned(),
        batch: id.to_owned(),
        number: 0,
        files: 1,
        owner: "owner".to_owned(),
        client: "client".to_owned(),
        submitter: Submitter {
            key: None,
            salt: [0; 16],
            address: None,
            priority: Priority::default(),
        },
        idempotency_key: key.map(str::to_owned),
        file_name: None,
        audio: StoredAudio {
            key: id.to_owned(),
            bytes: 100,
        },
        form: JobForm {
            options: Options::default(),
            format: Format::Json,
            details: Details::default(),
        },
        callback: Some(Callback::to("https://example.com/".to_owned())),
        created: now(),
        started: None,
        finished: None,
        expires: None,
        state: State::Queued,
        progress: Progress::default(),
        attempts: 0,
        error: None,
    }
}

fn of_client(id: &str, client: &str, bytes: u64) -> Job {
    let mut job = job(id, None);
    client.clone_into(&mut job.client);
    job.audio.bytes = bytes;
    job
}

async fn add(store: &dyn JobStore, id: &str) {
    let put = store.put(vec![job(id, Some(id))], LIMITS).await;
    assert!(matches!(put, Ok(Put::Added(_))), "{put:?}");
}

async fn claim(store: &dyn JobStore) -> Option<String> {
    let claimed = store.claim().await.expect("works");
    claimed.map(|claimed| claimed.job.id)
}

/// A node's view of the store in Redis.
async fn node(redis: &RedisServer) -> SharedStore {
    let opened = SharedStore::open(&redis.url(), &RedisPem::default(), "node", KEEP).await;
    opened.expect("opens")
}

const PROGRESS: Progress = Progress {
    chunks_done: 1,
    seconds_done: 8.0,
    seconds_known: 60.0,
};

fn cut(number: usize) -> FinishedPart {
    FinishedPart::Cut {
        number,
        target: Duration::from_secs(8),
    }
}

/// What holds for every store.
async fn keeps_jobs(store: &dyn JobStore) {
    for id in ["a", "b", "c"] {
        add(store, id).await;
    }
    let known = store.put(vec![job("d", Some("a"))], LIMITS).await;
    assert!(matches!(known, Ok(Put::Known(jobs)) if jobs[0].id == "a"));
    // The same key of another client is another one.
    assert!(store.known("other", "a").await.expect("reads").is_empty());
    let places = store.places(&["c", "none", "a"]).await.expect("reads");
    assert_eq!(places, [Some(2), None, Some(0)]);
    let first = store.claim().await.expect("works").expect("one");
    assert_eq!((first.job.id.as_str(), first.job.attempts), ("a", 1));
    let saved = store.save("a", PROGRESS, vec![cut(0), cut(1)]).await;
    assert!(saved.expect("saves"));
    assert!(store.renew("a").await.expect("works"));
    assert_eq!(claim(store).await.as_deref(), Some("b"));
    let ended = store.finish("b", Ok(Transcript::default())).await;
    assert_eq!(
        ended.expect("works").map(|job| job.state),
        Some(State::Done)
    );
    assert!(store.result("b").await.expect("reads").is_some());
    let counts = store.counts(Some("client")).await.expect("reads");
    assert_eq!(
        (counts.by_state, counts.of_client, counts.audio_bytes),
        ([1, 1, 1, 0], 3, 200)
    );
    assert_eq!(counts.client_bytes, 200);
    let in_use = store.audio_in_use().await.expect("reads");
    assert_eq!((in_use.len(), in_use.contains(&"b".to_owned())), (2, false));
    // It goes on with what was finished; a blameless attempt does not count.
    store
        .release("a", true, Rest::default())
        .await
        .expect("works");
    let again = store.claim().await.expect("works").expect("one");
    assert_eq!((again.job.id.as_str(), again.job.attempts), ("a", 1));
    assert_eq!(
        (again.job.progress, again.finished.targets().len()),
        (PROGRESS, 2)
    );
    let failure = Failure {
        code: "code".to_owned(),
        message: "message".to_owned(),
    };
    let failed = store.finish("a", Err(failure.clone())).await;
    assert_eq!(
        failed.expect("works").and_then(|job| job.error),
        Some(failure)
    );
    takes_callbacks(store).await;
    assert!(store.expired(now()).await.expect("reads").is_empty());
    assert_eq!(store.expired(now() + 61.0).await.expect("reads").len(), 2);
    assert_eq!(claim(store).await.as_deref(), Some("c"));
    // A job that rests makes place for a later one.
    add(store, "d").await;
    let rest = Rest {
        here: Duration::from_secs(15),
        ..Rest::default()
    };
    store.release("c", true, rest).await.expect("works");
    assert_eq!(claim(store).await.as_deref(), Some("d"));
    assert_eq!(claim(store).await, None);
    pass_a_lease().await;
    assert_eq!(claim(store).await.as_deref(), Some("c"));
    store.remove("c").await.expect("works").expect("was there");
    assert!(!store.renew("c").await.expect("works"));
    assert!(!store.save("c", PROGRESS, vec![]).await.expect("works"));
    assert_eq!(claim(store).await, None);
}

/// Two callbacks are due: each is taken once, until its lease ends or its state is stored.
async fn takes_callbacks(store: &dyn JobStore) {
    let take = async |at: f64| store.take_callbacks(at, 1).await.expect("reads");
    let at = now() + 1.0;
    let (first, next) = take(at).await;
    assert!(next.is_some_and(|next| next < at), "the other one is due");
    let (second, next) = take(at).await;
    assert_ne!(first[0].id, second[0].id);
    let postponed = store.postpone_callback(&first[0].id, at + 10.0).await;
    postponed.expect("works");
    let (again, _) = take(at + 11.0).await;
    assert_eq!(again[0].id, first[0].id);
    let lease_ends = at + CALLBACK_LEASE.as_secs_f64();
    assert!(next.is_some_and(|next| (next - lease_ends).abs() < 0.01));
    assert!(take(at).await.0.is_empty());
    assert_eq!(take(lease_ends + 1.0).await.0.len(), 1);
    for job in [&first[0], &second[0]] {
        let mut callback = job.callback.clone().expect("one");
        callback.next = Some(at + 500.0);
        let stored = store.set_callback(&job.id, callback).await;
        stored.expect("works");
    }
    let (none, next) = take(at + 499.0).await;
    assert!(none.is_empty() && next.is_some_and(|next| (next - at - 500.0).abs() < 0.01));
    assert_eq!(take(at + 501.0).await.0.len(), 1);
}

/// Limits hold for what is kept and for what is added together.
async fn has_limits(store: &dyn JobStore) {
    let put = async |jobs: Vec<Job>| match store.put(jobs, LIMITS).await.expect("works") {
        Put::Exceeded(exceeded) => Some(exceeded),
        Put::Added(_) => None,
        Put::Known(known) => panic!("{known:?}"),
    };
    let many = |from: usize, to: usize| (from..to).map(|n| of_client(&format!("{n}"), "one", 1));
    assert_eq!(put(many(0, 10).collect()).await, None);
    let exceeded = put(many(10, 17).collect()).await;
    assert_eq!(exceeded, Some(Exceeded::ClientJobs(10)));
    let large = vec![of_client("large", "two", 1601)];
    assert_eq!(put(large).await, Some(Exceeded::ClientBytes));
    assert_eq!(put(vec![of_client("large", "two", 1600)]).await, None);
    let more = vec![of_client("more", "three", 391)];
    assert_eq!(put(more).await, Some(Exceeded::Bytes));
    let others = (20..30).map(|n| of_client(&format!("{n}"), "four", 1));
    assert_eq!(put(others.collect()).await, Some(Exceeded::Jobs));
    // What is over takes no space.
    store
        .remove("large")
        .await
        .expect("works")
        .expect("was there");
    assert_eq!(put(vec![of_client("more", "three", 391)]).await, None);
}

#[tokio::test]
async fn the_database_of_a_node_keeps_jobs_within_limits() {
    for limits in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = EmbeddedStore::open(folder.path(), KEEP).expect("opens");
        if limits {
            has_limits(&store).await;
        } else {
            keeps_jobs(&store).await;
        }
    }
}

#[tokio::test]
async fn redis_keeps_jobs_within_limits() {
    let mut redis = RedisServer::start().await;
    keeps_jobs(&node(&redis).await).await;
    redis.restart().await;
    has_limits(&node(&redis).await).await;
}

#[tokio::test]
async fn the_database_survives_the_end_of_its_process_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let store = EmbeddedStore::open(folder.path(), KEEP).expect("opens");
    let salt = store.salt();
    let again = EmbeddedStore::open(folder.path(), KEEP);
    assert!(
        matches!(again, Err(StoreError::Unavailable(_))),
        "one process at a time"
    );
    add(&store, "a").await;
    assert_eq!(claim(&store).await.as_deref(), Some("a"));
    let saved = store.save("a", PROGRESS, vec![cut(0)]).await;
    assert!(saved.expect("saves"));
    drop(store);
    let store = EmbeddedStore::open(folder.path(), KEEP).expect("opens");
    assert_eq!(store.salt(), salt);
    // It was running: that attempt counts.
    let claimed = store.claim().await.expect("works").expect("one");
    assert_eq!((claimed.job.attempts, claimed.job.progress), (2, PROGRESS));
    assert_eq!(claimed.finished.targets().len(), 1);
    let file = std::fs::metadata(folder.path().join("jobs.redb")).expect("is there");
    assert_eq!(file.permissions().mode() & 0o077, 0);
}

/// Makes the lease of a consumer's job so old that it has ended.
fn age(redis: &RedisServer, id: &str) {
    let entry: String = redis.ask(&["HGET", &format!("{{stt:jobs}}:meta:{id}"), "entry"]);
    let stream = "{stt:jobs}:stream";
    let pending: Vec<(String, String, u64, u64)> =
        redis.ask(&["XPENDING", stream, "nodes", &entry, &entry, "1"]);
    let consumer = &pending[0].1;
    let claim = ["XCLAIM", stream, "nodes", consumer, "0", &entry];
    redis.ask::<Vec<String>>(&[&claim[..], &["IDLE", "20000", "JUSTID"]].concat());
}

/// Lets the time of a lease pass for all stores of this process, at once. Nothing else waits meanwhile.
async fn pass_a_lease() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(20)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_job_of_a_dead_node_is_taken_however_many_others_run_and_a_node_never_takes_its_own() {
    let redis = RedisServer::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    for number in 10..24 {
        add(&first, &number.to_string()).await;
    }
    for _ in 0..14 {
        assert!(claim(&first).await.is_some());
    }
    assert_eq!(claim(&second).await, None);
    age(&redis, "23");
    assert_eq!(claim(&second).await, None, "Redis may have been away");
    pass_a_lease().await;
    assert_eq!(claim(&first).await, None, "it works on it");
    assert_eq!(claim(&second).await.as_deref(), Some("23"));
    // The first one notices that it has lost it, and can have it again.
    assert!(!first.renew("23").await.expect("works"));
    assert!(!first.save("23", PROGRESS, vec![]).await.expect("works"));
    let late = first.finish("23", Ok(Transcript::default())).await;
    assert!(late.expect("works").is_none());
    // No node takes a job that rests everywhere, and only other ones a job that rests here.
    let rest = Rest {
        here: Duration::from_secs(60),
        everywhere: Duration::from_secs(600),
    };
    let not_here = Rest {
        here: Duration::ZERO,
        ..rest
    };
    let not_its_job = first.release("23", false, not_here).await;
    not_its_job.expect("works");
    let resting = || redis.ask::<Vec<String>>(&["ZRANGE", "{stt:jobs}:resting", "0", "-1"]);
    assert!(resting().is_empty());
    second.release("23", false, rest).await.expect("works");
    assert_eq!(resting(), ["23"]);
    assert_eq!(claim(&first).await, None);
    redis.ask::<()>(&["ZADD", "{stt:jobs}:resting", "1", "23"]);
    assert_eq!(claim(&second).await, None, "it rests here");
    assert_eq!(claim(&first).await.as_deref(), Some("23"));
    // Deletion reaches the node that works on it.
    second.remove("23").await.expect("works").expect("is there");
    assert!(!first.renew("23").await.expect("works"));
}

#[tokio::test]
async fn nodes_keep_their_jobs_while_redis_is_away() {
    let redis = RedisServer::start().await;
    let (first, second) = (node(&redis).await, node(&redis).await);
    add(&first, "a").await;
    assert_eq!(claim(&first).await.as_deref(), Some("a"));
    pass_a_lease().await;
    redis.pause().await;
    assert!(first.renew("a").await.is_err());
    assert!(second.claim().await.is_err());
    redis.resume().await;
    // Redis executes what it was sent before.
    test_support::until("it answers", async || second.get("a").await.is_ok()).await;
    age(&redis, "a");
    assert_eq!(claim(&second).await, None, "its node could not renew it");
    assert!(first.renew("a").await.expect("works"));
    let saved = first.save("a", PROGRESS, vec![cut(0)]).await;
    assert!(saved.expect("works"));
}

#[tokio::test]
async fn an_answer_that_is_lost_loses_no_job_and_no_result() {
    let redis = RedisServer::start().await;
    let store = Arc::new(node(&redis).await);
    let folder = tempfile::tempdir().expect("a folder");
    let audio = Arc::new(AudioFolder::open(folder.path()).expect("opens"));
    let limits = JobLimits {
        folder: PathBuf::from(folder.path()),
        time_to_live: KEEP,
        per_client: 10,
        storage_bytes: 1000,
        client_bytes: 1000,
        concurrency: 1,
    };
    let jobs = Jobs::new(limits, Arc::clone(&store) as _, audio);
    let recording = folder.path().join("recording");
    std::fs::write(&recording, "audio").expect("writes");
    let mut new = job("a", None);
    new.audio = jobs.store_audio(&recording).await.expect("stores");
    let path = folder.path().join("audio").join(&new.audio.key);
    redis.pause().await;
    // Redis does it when it runs again.
    let unknown = jobs.submit(vec![new]).await;
    assert!(matches!(
        unknown,
        Err(JobError::Store(StoreError::Unavailable(_)))
    ));
    redis.resume().await;
    let stored = async || store.get("a").await.is_ok_and(|job| job.is_some());
    test_support::until("it is stored", stored).await;
    assert!(path.exists(), "its audio is needed");
    assert_eq!(claim(&*store).await.as_deref(), Some("a"));
    redis.pause().await;
    let unknown = store.finish("a", Ok(Transcript::default())).await;
    assert!(unknown.is_err());
    redis.resume().await;
    let done = async || {
        let job = store.get("a").await.ok().flatten();
        job.is_some_and(|job| job.state == State::Done)
    };
    test_support::until("it is done", done).await;
    let again = store.finish("a", Ok(Transcript::default())).await;
    assert!(again.expect("works").is_some(), "this node has ended it");
    // A job that is refused leaves no audio, whether its request is too large or the others take the space.
    add(&*store, "other").await;
    for (bytes, is_too_large) in [(1000, false), (1001, true)] {
        let mut second = job("b", None);
        second.audio = jobs.store_audio(&recording).await.expect("stores");
        second.audio.bytes = bytes;
        let path = folder.path().join("audio").join(&second.audio.key);
        match jobs.submit(vec![second]).await {
            Err(JobError::ClientFull) => assert!(!is_too_large),
            Err(JobError::TooLarge(TooLarge::Audio(1001, 1000, _))) => assert!(is_too_large),
            other => panic!("{other:?}"),
        }
        assert!(!path.exists());
    }
    let room = async |bytes| jobs.check_room("client", bytes).await;
    assert!(room(900).await.is_ok());
    assert!(matches!(room(901).await, Err(JobError::ClientFull)));
    assert!(matches!(room(1001).await, Err(JobError::TooLarge(_))));
}

#[tokio::test]
async fn a_redis_that_lost_its_data_gets_the_salt_again_and_what_cannot_be_read_is_left_out() {
    let mut redis = RedisServer::start().await;
    let first = node(&redis).await;
    let salt = first.salt();
    redis.restart().await;
    let restored = async || first.maintain().await.is_ok();
    test_support::until("it is restored", restored).await;
    assert_eq!(first.salt(), salt);
    let second = node(&redis).await;
    assert_eq!(second.salt(), salt);
    for id in ["a", "b"] {
        add(&first, id).await;
    }
    redis.ask::<()>(&["SET", "{stt:jobs}:job:a", "{\"state\":\"resting\"}"]);
    let list = second.list("owner").await.expect("reads");
    assert_eq!(list.len(), 1);
    assert!(second.claim().await.is_err(), "it is of another version");
    assert_eq!(claim(&second).await.as_deref(), Some("b"));
    // It is left alone, although its lease has ended.
    pass_a_lease().await;
    age(&redis, "a");
    assert_eq!(claim(&second).await, None);
    // Its audio is not removed: nobody knows its name.
    assert!(second.audio_in_use().await.is_err());
}

/// The audio of a job that a store has.
fn stored(key: &str) -> StoredAudio {
    StoredAudio {
        key: key.to_owned(),
        bytes: 5,
    }
}

#[tokio::test]
async fn audio_that_cannot_be_read_is_not_a_folder_that_is_away() {
    let jobs = tempfile::tempdir().expect("a folder");
    let folder = AudioFolder::open(jobs.path()).expect("opens");
    let path = jobs.path().join("audio");
    let fetch = async || audio::fetch(&folder, &stored("key")).await;
    assert!(matches!(fetch().await, Err(AudioError::Lost(_))));
    std::os::unix::fs::symlink("key", path.join("key")).expect("links");
    assert!(matches!(fetch().await, Err(AudioError::Unreadable(_))));
    std::fs::remove_file(path.join("key")).expect("removes");
    std::fs::write(path.join("key"), "audio").expect("writes");
    assert!(fetch().await.is_ok());
    std::fs::remove_dir_all(&path).expect("removes");
    std::fs::write(&path, "no folder").expect("writes");
    assert!(matches!(fetch().await, Err(AudioError::Unavailable(_))));
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_not_a_bucket_that_is_away() {
    let server = MockServer::start().await;
    let settings = S3Settings {
        bucket: "bucket".to_owned(),
        endpoint: Some(server.uri().parse().expect("a URL")),
        key_id: Some("id".to_owned()),
        key: Some("key".into()),
        ..S3Settings::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let bucket = S3Audio::new(&settings, folder.path().to_owned()).expect("is valid");
    let fetch = async || audio::fetch(&bucket, &stored("key")).await;
    let answer = |at: &str, answer| Mock::given(path(at)).respond_with(answer);
    let forbidden = || ResponseTemplate::new(403);
    answer("/bucket/key", forbidden()).mount(&server).await;
    let away = answer("/bucket", forbidden())
        .mount_as_scoped(&server)
        .await;
    assert!(matches!(fetch().await, Err(AudioError::Unavailable(_))));
    drop(away);
    let empty = "<ListBucketResult><Name>bucket</Name></ListBucketResult>";
    let list = ResponseTemplate::new(200).set_body_string(empty);
    answer("/bucket", list).mount(&server).await;
    assert!(matches!(fetch().await, Err(AudioError::Unreadable(_))));
    assert!(matches!(
        audio::fetch(&bucket, &stored("none")).await,
        Err(AudioError::Lost(_))
    ));
}
