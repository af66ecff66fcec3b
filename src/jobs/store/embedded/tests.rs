use stt_actors::{Options, Priority};

use super::*;
use crate::jobs::record::{JobForm, StoredAudio, Submitter, now};
use crate::render::{Details, Format};

const KEEP: Duration = Duration::from_secs(60);

fn job(id: &str, key: Option<&str>) -> Job {
    Job {
        id: id.to_owned(),
        batch: id.to_owned(),
        number: 0,
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

#[tokio::test]
async fn jobs_survive_that_the_store_is_closed_and_a_running_one_is_queued_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = EmbeddedStore::open(folder.path(), KEEP).expect("opens");
    let salt = store.salt();
    let again = EmbeddedStore::open(folder.path(), KEEP);
    assert!(
        matches!(again, Err(StoreError::Unavailable(_))),
        "one process at a time"
    );
    for id in ["a", "b", "c"] {
        let put = store.put(vec![job(id, Some(id))]).await.expect("stored");
        assert!(matches!(put, Put::Added(_)));
    }
    let known = store.put(vec![job("d", Some("a"))]).await.expect("known");
    assert!(matches!(known, Put::Known(jobs) if jobs[0].id == "a"));
    assert_eq!(store.place("c").await.expect("reads"), Some(2));
    let claimed = store.claim().await.expect("works").expect("one");
    assert_eq!((claimed.job.id.as_str(), claimed.job.attempts), ("a", 1));
    let progress = Progress {
        chunks_done: 1,
        seconds_done: 8.0,
        seconds_known: 60.0,
    };
    let cut = |number| FinishedPart::Cut {
        number,
        target: Duration::from_secs(8),
    };
    assert!(
        store
            .save("a", progress, vec![cut(0), cut(1)])
            .await
            .expect("saves")
    );
    let finished = store.claim().await.expect("works").expect("one").job;
    let ended = store.finish(&finished.id, Ok(Transcript::default())).await;
    assert_eq!(
        ended.expect("works").map(|job| job.state),
        Some(State::Done)
    );
    assert!(
        store
            .finish(&finished.id, Ok(Transcript::default()))
            .await
            .expect("works")
            .is_none()
    );
    drop(store);
    let store = EmbeddedStore::open(folder.path(), KEEP).expect("opens");
    assert_eq!(store.salt(), salt);
    let counts = store.counts(Some("client")).await.expect("reads");
    assert_eq!(
        (counts.by_state, counts.of_client, counts.audio_bytes),
        ([2, 0, 1, 0], 3, 200)
    );
    let claimed = store.claim().await.expect("works").expect("one");
    assert_eq!((claimed.job.id.as_str(), claimed.job.attempts), ("a", 2));
    assert_eq!(
        (claimed.job.progress, claimed.finished.targets().len()),
        (progress, 2)
    );
    assert!(store.result("b").await.expect("reads").is_some());
    let (due, _) = store.due_callbacks(now() + 1.0).await.expect("reads");
    assert_eq!(due.len(), 1);
    assert!(store.expired(now()).await.expect("reads").is_empty());
    let expired = store.expired(now() + 61.0).await.expect("reads");
    assert_eq!(expired[0].id, "b");
    store.remove("a").await.expect("works").expect("was there");
    assert!(!store.renew("a").await.expect("works"));
    assert!(!store.save("a", progress, vec![]).await.expect("works"));
}
