//! Transcribes files by a server: `transcribe --url`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use uttera_stt_client::{
    Attempt, Audio, Client, Error, Job, ResponseFormat, Speech, SpeechEvent, SpeechOptions, SttPool,
};

use super::job::{FinishedJob, JobError, Pause, finish_job};
use super::{Progress, TranscribeArgs, each_file, output};
use crate::cli::server_key::server_key;
use crate::render::Format;

/// Options for the server.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Use this server: uttera-stt, or any other with OpenAI's API. If given more than once, the servers take turns.
    /// The key comes from the environment variable UTTERA_API_KEY, never from the command line.
    #[arg(long)]
    url: Vec<String>,
    /// Environment variable with the server's key, in place of UTTERA_API_KEY.
    #[arg(long, value_name = "NAME", requires = "url")]
    api_key_env: Option<String>,
    /// Model name in the requests, for servers with several models.
    #[arg(
        long,
        value_name = "NAME",
        requires = "url",
        default_value = "whisper-1"
    )]
    ask_for: String,
    /// Time limit in seconds for each file. With --job: for its upload, and for the time that the server may be away; the
    /// job itself has no limit.
    #[arg(long, value_name = "N", requires = "url", default_value_t = 3600,
        value_parser = clap::value_parser!(u64).range(1..))]
    limit_seconds: u64,
    /// Print the text while the server produces it; requires --format txt.
    #[arg(long, requires = "url", conflicts_with_all = ["beside", "output_dir"])]
    stream: bool,
    /// Submit each file as a job, which the server does after all other work, and wait for it, also while the server
    /// restarts. Ctrl-C leaves the job to the server; the same command takes it up again.
    #[arg(long, requires = "url", conflicts_with_all = ["stream", "translate"])]
    job: bool,
}

impl ServerArgs {
    pub fn is_named(&self) -> bool {
        !self.url.is_empty()
    }

    fn clients(&self) -> anyhow::Result<Vec<Client>> {
        let key = server_key(self.api_key_env.as_deref())?;
        let clients = self.url.iter().map(|url| {
            let client = Client::builder(url).api_key(&key).telemetry(tell_retry);
            client.build().context("--url")
        });
        clients.collect()
    }

    fn servers(&self) -> anyhow::Result<SttPool> {
        let clients = self.clients()?;
        let limit = Duration::from_secs(self.limit_seconds);
        let mut pool = SttPool::builder(clients).timeout(limit);
        if self.url.len() > 1 {
            // A server that does not answer must leave time for the others.
            pool = pool.attempt_timeout(limit / self.url.len() as u32);
        }
        Ok(pool.build()?)
    }
}

/// Prints why the client waits before a retry.
fn tell_retry(attempt: &Attempt<'_>) {
    if let (Some(error), Some(wait)) = (attempt.error, attempt.will_retry) {
        let (server, wait) = (attempt.server, wait.as_secs_f64());
        eprintln!("{server}: {error}; trying again in {wait:.1} s");
    }
}

/// Sends the files to a server one after the other. Prints the error of a file that fails, and continues.
/// `local_option` is a given option that applies to this machine only.
///
/// # Errors
/// The options conflict, or a file failed.
pub async fn transcribe(args: TranscribeArgs, local_option: Option<&str>) -> anyhow::Result<()> {
    if let Some(option) = local_option {
        bail!("{option} applies to this machine only; with --url, the server has its own settings");
    }
    ensure!(
        !args.server.stream || args.format == Format::Text,
        "--stream requires --format txt"
    );
    let options = options(&args);
    if args.server.job {
        return as_jobs(&args, &options).await;
    }
    let pool = args.server.servers()?;
    let speech = if args.translate {
        pool.translations()
    } else {
        pool.transcriptions()
    };
    each_file(&args, async |file: &Path| {
        if args.server.stream {
            print_stream(speech, &options, file).await?;
            return Ok(None);
        }
        let _progress = Progress::of(file, "{msg} {spinner} {elapsed}");
        let format = response_format(args.format);
        Ok(Some(
            speech.rendered(Audio::file(file), format, &options).await?,
        ))
    })
    .await
}

/// Submits the files as jobs, and waits for each. A result is deleted on the server after it was written here.
async fn as_jobs(args: &TranscribeArgs, options: &SpeechOptions) -> anyhow::Result<()> {
    let clients = args.server.clients()?;
    let [client] = clients.as_slice() else {
        bail!("--job requires one --url, because a job belongs to its server");
    };
    let limit = Duration::from_secs(args.server.limit_seconds);
    let options = SpeechOptions {
        timeout: Some(limit),
        ..options.clone()
    };
    each_file(args, async |file: &Path| {
        let finished = patiently(client, file, response_format(args.format), &options, limit);
        let finished = finished.await?;
        let written = match &finished.text {
            Ok(text) => output::write(text, args, file),
            Err(message) => Err(anyhow!("the job failed: {message}")),
        };
        if written.is_ok() || finished.text.is_err() {
            // A job that cannot be deleted expires.
            let _ = client.delete_job(&finished.id).await;
        }
        written.map(|()| None)
    })
    .await
}

/// Finishes a job although its server is away or busy: until it accepted the job, as long as the pauses are together not
/// longer than the limit, and afterwards, as long as it answers within the limit.
async fn patiently(
    client: &Client,
    file: &Path,
    format: ResponseFormat,
    options: &SpeechOptions,
    limit: Duration,
) -> anyhow::Result<FinishedJob> {
    let (mut pause, mut paused) = (Pause::default(), Duration::ZERO);
    let mut is_accepted = false;
    loop {
        let submitted = |job: &Job| {
            is_accepted = true;
            eprintln!("{}: job {}", file.display(), job.id);
        };
        let error = match finish_job(client, file, format, options, Some(limit), submitted).await {
            Ok(finished) => return Ok(finished),
            Err(error) => error,
        };
        let wait = pause.after(&error);
        paused += wait;
        // A server that was never there is rather a wrong address than one that restarts.
        let is_absent = !is_accepted && matches!(error, JobError::Call(Error::Connect(_)));
        if is_absent || !error.is_outage() || paused > limit {
            return Err(error.into());
        }
        eprintln!("{error}; trying again in {} s", wait.as_secs());
        tokio::time::sleep(wait).await;
    }
}

fn options(args: &TranscribeArgs) -> SpeechOptions {
    SpeechOptions {
        model: Some(args.server.ask_for.clone()),
        language: args.language.clone(),
        prompt: args.prompt.clone(),
        // Default values are not sent, because some servers do not know all fields.
        temperature: (args.temperature > 0.0).then_some(args.temperature),
        vad_filter: args.no_vad.then_some(false),
        hallucination_guard: args.no_hallucination_guard.then_some(false),
        multilingual: args.multilingual.then_some(true),
        ..SpeechOptions::default()
    }
}

/// The name of a format in requests.
pub fn response_format(format: Format) -> ResponseFormat {
    match format {
        Format::Json => ResponseFormat::Json,
        Format::Text => ResponseFormat::Text,
        Format::VerboseJson => ResponseFormat::VerboseJson,
        Format::Srt => ResponseFormat::Srt,
        Format::Vtt => ResponseFormat::Vtt,
    }
}

async fn print_stream(
    speech: Speech<'_>,
    options: &SpeechOptions,
    file: &Path,
) -> anyhow::Result<()> {
    let mut events = speech.stream(Audio::file(file), options).await?;
    let mut begun = false;
    let result = loop {
        match events.next().await {
            Some(Ok(SpeechEvent::Delta(delta))) => {
                begun = true;
                let mut out = std::io::stdout().lock();
                write!(out, "{}", delta.text)?;
                out.flush()?;
            }
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(_)) | None => break Ok(()),
        }
    };
    // End the line before an error is printed, and print an empty line for silence, as in other formats.
    if begun || result.is_ok() {
        println!();
    }
    result
}
