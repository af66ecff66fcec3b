//! Files to text by a server: `transcribe --url`.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use uttera_stt_client::{
    Attempt, Audio, Client, ResponseFormat, Speech, SpeechEvent, SpeechOptions, SttPool,
};

use super::{Progress, TranscribeArgs, each_file};
use crate::render::Format;

/// Where a key is looked for that nobody said another place of.
const KEY_VARIABLE: &str = "UTTERA_API_KEY";

/// Which server, and how it is asked.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Let this server do it: uttera-stt, or any with OpenAI's API. Given more than once: whichever
    /// answers. A key is taken from the environment variable UTTERA_API_KEY, never from the command
    /// line.
    #[arg(long)]
    url: Vec<String>,
    /// The environment variable that has the server's key, in place of UTTERA_API_KEY.
    #[arg(long, value_name = "NAME", requires = "url")]
    api_key_env: Option<String>,
    /// The model that requests name, for servers that have several.
    #[arg(
        long,
        value_name = "NAME",
        requires = "url",
        default_value = "whisper-1"
    )]
    ask_for: String,
    /// A server that has not answered after so long has failed on the file.
    #[arg(long, value_name = "N", requires = "url", default_value_t = 3600,
        value_parser = clap::value_parser!(u64).range(1..))]
    limit_seconds: u64,
    /// Print the text while the server makes it; with --format txt.
    #[arg(long, requires = "url", conflicts_with_all = ["beside", "output_dir"])]
    stream: bool,
}

impl ServerArgs {
    pub fn is_named(&self) -> bool {
        !self.url.is_empty()
    }

    fn key(&self) -> anyhow::Result<String> {
        let name = self.api_key_env.as_deref().unwrap_or(KEY_VARIABLE);
        match std::env::var(name) {
            Ok(key) => Ok(key),
            // Nobody asked for the usual one.
            Err(std::env::VarError::NotPresent) if self.api_key_env.is_none() => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("no key in {name}")),
        }
    }

    fn servers(&self) -> anyhow::Result<SttPool> {
        let key = self.key()?;
        let clients = self.url.iter().map(|url| {
            let client = Client::builder(url).api_key(&key).telemetry(tell_retry);
            client.build().context("--url")
        });
        let clients: Vec<Client> = clients.collect::<anyhow::Result<_>>()?;
        let limit = Duration::from_secs(self.limit_seconds);
        let mut pool = SttPool::builder(clients).timeout(limit);
        if self.url.len() > 1 {
            // One that says nothing leaves time for the others.
            pool = pool.attempt_timeout(limit / self.url.len() as u32);
        }
        Ok(pool.build()?)
    }
}

/// Somebody waits at the terminal and wants to know what for.
fn tell_retry(attempt: &Attempt<'_>) {
    if let (Some(error), Some(wait)) = (attempt.error, attempt.will_retry) {
        let (server, wait) = (attempt.server, wait.as_secs_f64());
        eprintln!("{server}: {error}; trying again in {wait:.1} s");
    }
}

/// Has the files transcribed one after the other. One that fails is told and the rest is done all
/// the same. The second argument is an option given that has a meaning on this machine only.
///
/// # Errors
/// Options that do not fit, or a file that failed.
pub async fn transcribe(args: TranscribeArgs, local_option: Option<&str>) -> anyhow::Result<()> {
    if let Some(option) = local_option {
        bail!("{option} is about this machine; with --url, the server has its own settings");
    }
    ensure!(
        !args.server.stream || args.format == Format::Text,
        "--stream prints text: it goes with --format txt only"
    );
    let pool = args.server.servers()?;
    let options = options(&args);
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

fn options(args: &TranscribeArgs) -> SpeechOptions {
    SpeechOptions {
        model: Some(args.server.ask_for.clone()),
        language: args.language.clone(),
        prompt: args.prompt.clone(),
        // What is as usual is not said: not every server knows all of it.
        temperature: (args.temperature > 0.0).then_some(args.temperature),
        vad_filter: args.no_vad.then_some(false),
        hallucination_guard: args.no_hallucination_guard.then_some(false),
        multilingual: args.multilingual.then_some(true),
        ..SpeechOptions::default()
    }
}

fn response_format(format: Format) -> ResponseFormat {
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
    // What failed is not told in the middle of a line, and silence is a line as in other formats.
    if begun || result.is_ok() {
        println!();
    }
    result
}
