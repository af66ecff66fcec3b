//! Transcribes a file: `cargo run -p uttera-stt-client --example transcribe -- URL FILE`. The key, if
//! the server wants one, is in `UTTERA_API_KEY`.

use std::error::Error;
use std::io::Write;

use uttera_stt_client::{Attempt, Audio, Client, SpeechEvent, SpeechOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: transcribe URL FILE".into());
    };
    let client = Client::builder(url)
        .api_key(std::env::var("UTTERA_API_KEY").unwrap_or_default())
        .telemetry(|attempt: &Attempt<'_>| {
            if let (Some(error), Some(wait)) = (attempt.error, attempt.will_retry) {
                eprintln!("{error}; trying again in {wait:?}");
            }
        })
        .build()?;
    let speech = client.transcriptions();
    let mut events = speech
        .stream(Audio::file(file), &SpeechOptions::default())
        .await?;
    while let Some(event) = events.next().await {
        match event? {
            SpeechEvent::Delta(delta) => {
                print!("{}", delta.text);
                std::io::stdout().flush()?;
            }
            SpeechEvent::Done(_) => println!(),
            _ => {}
        }
    }
    Ok(())
}
