//! `scripts/transcribe.sh` with this server and real speech.

use test_support::transcribe_script::{Script, told};
use test_support::{Server, model, sample, sample_text, words};

#[tokio::test]
async fn speech_comes_back_as_text_with_the_key_that_the_server_wants() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "other,secret")]).await;
    let script = Script::new();
    let command = std::fs::read(sample("en-command.wav")).expect("is there");
    script.file("voice; \"note\",\n1.wav", &command);
    let key = [("OPENAI_API_KEY", "secret")];
    let whole = format!("{}/v1/audio/transcriptions", server.url);
    for url in [&server.url, &whole] {
        let arguments = ["voice; \"note\",\n1.wav", "--language", "en"];
        let output = script.run_with(url, &arguments, &key).await;
        assert_eq!(told(&output), (Some(0), String::new()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(words(&text), words(&sample_text("en-command.wav")));
    }
    let voice_note = sample("en-long.ogg");
    let voice_note = voice_note.to_str().expect("UTF-8");
    let output = script.run_with(&server.url, &[voice_note], &key).await;
    assert_eq!(told(&output), (Some(0), String::new()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        test_support::wer::Score::of(&sample_text("en-long.ogg"), &text).rate() < 0.2,
        "{text}"
    );
    assert!(sample("en-long.ogg").exists());
}

#[tokio::test]
async fn an_error_of_the_server_is_shown_in_its_words() {
    let server = Server::ready(&model("tiny.en").await, &[("API_KEYS", "secret")]).await;
    let script = Script::new();
    script.file("a.wav", b"no sound at all");
    for variables in [&[][..], &[("WHISPER_API_KEY", "wrong")]] {
        let output = script.run_with(&server.url, &["a.wav"], variables).await;
        let (status, words) = told(&output);
        assert_eq!(status, Some(5), "{words}");
        assert!(words.contains("(401)") && words.contains("key"), "{words}");
        assert!(!words.contains('{') && !words.contains("wrong"), "{words}");
    }
    let key = [("WHISPER_API_KEY", "secret")];
    let output = script
        .run_with(&server.url, &["a.wav", "--remove"], &key)
        .await;
    let (status, words) = told(&output);
    assert_eq!(status, Some(5), "{words}");
    assert!(words.contains("(400)") && !words.contains('{'), "{words}");
    assert!(script.here().join("a.wav").exists());
}
