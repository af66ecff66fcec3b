//! A bucket of an S3 store, such as MinIO, SeaweedFS, Garage or Amazon's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::buffered::BufWriter;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use stt_actors::domain::chunk::AudioSource;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tracing::{info, warn};

use super::{AudioError, AudioStore, is_left_over};
use crate::jobs::record::StoredAudio;
use crate::settings::S3Settings;
use crate::tls::install_crypto;

/// Bytes that one request of an upload transfers.
const PART: usize = 8 << 20;
/// Parts of one upload that are in transfer at the same time, and in memory.
const PARTS_AT_ONCE: usize = 2;
/// How long a connection to the store may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long the store may take for an answer, the upload of a part included, and for more of a download. With
/// [`PARTS_AT_ONCE`] parts, an upload must be faster than about 4 Mbit/s.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// How often a request is tried again, if the store fails or cannot be reached.
const RETRIES: usize = 2;
/// After this time a request is not tried again: a client waits for the store, too.
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// The place in a bucket.
#[derive(Debug)]
pub struct S3Audio {
    bucket: Arc<AmazonS3>,
    prefix: ObjectPath,
    /// The folder for audio that is being decoded.
    scratch: PathBuf,
}

impl S3Audio {
    /// The place that the settings name. What they leave open is taken from the environment, as Amazon's programs do,
    /// such as the identity of a pod. `scratch`: a folder for audio that is being decoded.
    ///
    /// # Errors
    /// The settings cannot be used. The store is not asked.
    pub fn new(settings: &S3Settings, scratch: PathBuf) -> io::Result<Self> {
        install_crypto();
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&settings.bucket)
            // Some stores cannot delete several objects in one request.
            .with_disable_bulk_delete(true)
            .with_client_options(
                ClientOptions::new()
                    .with_connect_timeout(CONNECT_LIMIT)
                    .with_read_timeout(ANSWER_LIMIT)
                    .with_timeout_disabled(),
            )
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: RETRIES,
                retry_timeout: RETRY_LIMIT,
            });
        if let Some(endpoint) = &settings.endpoint {
            let is_plain = endpoint.scheme() == "http";
            builder = builder
                .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                .with_allow_http(is_plain);
        }
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if let Some(id) = &settings.key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(key) = &settings.key {
            builder = builder.with_secret_access_key(&**key);
        }
        Ok(Self {
            bucket: Arc::new(builder.build()?),
            prefix: ObjectPath::from(settings.prefix.as_str()),
            scratch,
        })
    }

    fn path(&self, key: &str) -> ObjectPath {
        self.prefix.clone().join(key)
    }

    async fn download(&self, audio: &StoredAudio) -> Result<NamedTempFile, AudioError> {
        let path = self.path(&audio.key);
        // In one request: not every store can send parts. If the connection breaks, the library goes on where it broke.
        let found = self.bucket.get(&path).await.map_err(io::Error::from)?;
        if found.meta.size != audio.bytes {
            return Err(AudioError::Lost("the object has another length".to_owned()));
        }
        let local = tempfile::Builder::new()
            .prefix("job-")
            .tempfile_in(&self.scratch)
            .map_err(AudioError::NoCopy)?;
        let file = local.reopen().map_err(AudioError::NoCopy)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut bytes = found.into_stream();
        while let Some(bytes) = bytes.try_next().await.map_err(io::Error::from)? {
            file.write_all(&bytes).await.map_err(AudioError::NoCopy)?;
        }
        file.flush().await.map_err(AudioError::NoCopy)?;
        Ok(local)
    }
}

#[async_trait]
impl AudioStore for S3Audio {
    async fn store(&self, file: &Path, key: &str) -> io::Result<u64> {
        let bucket: Arc<dyn ObjectStore> = Arc::clone(&self.bucket) as _;
        let mut from = tokio::fs::File::open(file).await?;
        let mut to = BufWriter::with_capacity(bucket, self.path(key), PART)
            .with_max_concurrency(PARTS_AT_ONCE);
        let bytes = match tokio::io::copy(&mut from, &mut to).await {
            Ok(bytes) => bytes,
            Err(error) => {
                // Parts that are stored already.
                let _ = to.abort().await;
                return Err(error);
            }
        };
        // This removes them itself if it fails.
        to.shutdown().await?;
        Ok(bytes)
    }

    async fn ping(&self) -> io::Result<()> {
        // One page of the list, however many objects there are.
        self.bucket.list(Some(&self.prefix)).try_next().await?;
        Ok(())
    }

    async fn fetch(&self, audio: &StoredAudio) -> Result<AudioSource, AudioError> {
        let path = self.download(audio).await?.into_temp_path();
        Ok(AudioSource::guarded(path.to_path_buf(), Arc::new(path)))
    }

    async fn remove(&self, key: &str) {
        match self.bucket.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => warn!(%error, key, "the audio of a job could not be removed"),
        }
    }

    async fn sweep(&self, prefix: &str, in_use: &[String]) -> io::Result<()> {
        let stored = self.bucket.list_with_delimiter(Some(&self.prefix)).await?;
        for object in stored.objects {
            let key = object.location.filename().unwrap_or_default();
            let age = SystemTime::from(object.last_modified).elapsed().ok();
            if is_left_over(key, prefix, in_use, age) {
                info!(key, "removing audio that no job needs");
                self.remove(key).await;
            }
        }
        Ok(())
    }
}
