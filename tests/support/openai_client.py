"""What OpenAI's own Python client makes of the server.

Usage: openai_client.py CHECK, with BASE_URL, API_KEY and FILE in the environment. A check that fails
raises; one that has something to tell prints it as JSON.
"""

import array
import asyncio
import base64
import json
import os
import pathlib
import sys
import time
import wave

import openai

FILE = pathlib.Path(os.environ["FILE"])


def settings(**more):
    """Answers must have the very types that the client declares."""
    given = {"base_url": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"]}
    return {**given, "max_retries": 0, "_strict_response_validation": True, **more}


def client(**more):
    return openai.OpenAI(**settings(**more))


def transcribe(api, **fields):
    fields = {"model": "whisper-1", "file": FILE, **fields}
    return api.audio.transcriptions.create(**fields)


def refusal(kind, call):
    """The error that a call must raise, of exactly this class."""
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, repr(error)
        assert error.request_id, repr(error)
        return error
    raise AssertionError(f"no {kind.__name__}")


def formats():
    """Every reply format has its type, and all have the same text."""
    api = client()
    plain = transcribe(api)
    assert type(plain).__name__ == "Transcription", plain
    assert plain.usage.type == "duration" and plain.usage.seconds >= 1, plain
    verbose = transcribe(api, response_format="verbose_json", timestamp_granularities=["segment"])
    assert type(verbose).__name__ == "TranscriptionVerbose", verbose
    assert verbose.language == "english" and verbose.duration > 1, verbose
    assert "".join(segment.text for segment in verbose.segments).strip() == verbose.text
    for segment in verbose.segments:
        assert 0 <= segment.start <= segment.end <= verbose.duration, segment
        assert segment.avg_logprob < 0 and segment.tokens, segment
    text = transcribe(api, response_format="text")
    srt = transcribe(api, response_format="srt")
    vtt = transcribe(api, response_format="vtt")
    assert srt.startswith("1\n00:00:0") and vtt.startswith("WEBVTT\n\n00:00:0"), (srt, vtt)
    for other in (verbose.text, text.strip()):
        assert other == plain.text, other
    for subtitles in (srt, vtt):
        assert plain.text in " ".join(subtitles.split()), subtitles
    return plain.text


def ways_of_sending():
    """Files as people give them, every optional field, and the asynchronous client."""
    api = client()
    expected = transcribe(api).text
    for file in (
        FILE.open("rb"),
        FILE.read_bytes(),
        ("voice.ogg", FILE.read_bytes()),
        ("voice", FILE.read_bytes(), "application/octet-stream"),
    ):
        assert transcribe(api, file=file).text == expected
    for model in ("gpt-4o-transcribe", "gpt-4o-mini-transcribe", "anything"):
        assert transcribe(api, model=model, language="en", prompt="", temperature=0).text == expected

    async def both():
        async with openai.AsyncOpenAI(**settings()) as other:
            return await asyncio.gather(transcribe(other), transcribe(other))

    assert [one.text for one in asyncio.run(both())] == [expected, expected]


def translations():
    """From whatever is spoken to English."""
    api = client()
    plain = api.audio.translations.create(model="whisper-1", file=FILE)
    assert type(plain).__name__ == "Translation", plain
    verbose = api.audio.translations.create(
        model="whisper-1", file=FILE, response_format="verbose_json"
    )
    assert type(verbose).__name__ == "TranslationVerbose", verbose
    assert verbose.language == "english" and verbose.text == plain.text, verbose
    return plain.text


def models():
    api = client()
    ids = [model.id for model in api.models.list()]
    assert "whisper-1" in ids and len(ids) == 2, ids
    for name in ids + ["gpt-4o-transcribe"]:
        model = api.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "uttera"), model
    error = refusal(openai.NotFoundError, lambda: api.models.retrieve("gpt-5"))
    assert error.code == "model_not_found", error.body


def errors():
    """Refusals come as the classes that programs catch, with their fields."""
    api = client()
    for kind, code, param, fields in (
        (openai.BadRequestError, "unsupported_language", "language", {"language": "klingon"}),
        (openai.BadRequestError, "audio_decode_error", "file", {"file": ("a.wav", b"no sound")}),
        (openai.UnprocessableEntityError, "invalid_value", "response_format", {"response_format": "xml"}),
        (openai.UnprocessableEntityError, "invalid_value", "temperature", {"temperature": 2}),
    ):
        error = refusal(kind, lambda: transcribe(api, **fields))
        assert (error.code, error.param) == (code, param), error.body
        assert error.type == "invalid_request_error", error.body
    stranger = client(api_key="wrong")
    error = refusal(openai.AuthenticationError, lambda: transcribe(stranger))
    assert error.code == "invalid_api_key", error.body
    refusal(openai.AuthenticationError, stranger.models.list)


def request_ids():
    """The server's id, and a client's own."""
    api = client()
    assert transcribe(api)._request_id
    own = transcribe(api, extra_headers={"X-Request-Id": "from-the-client"})
    assert own._request_id == "from-the-client"
    raw = api.audio.transcriptions.with_raw_response.create(model="whisper-1", file=FILE)
    assert raw.headers["x-route"] == "HOT" and raw.request_id, raw.headers
    assert raw.parse().text


def streaming():
    """Deltas as they come, then the whole text; with and without the tokens' probabilities."""
    # The client declares that streams are paid by the token; ours tell seconds, as all other replies.
    loose = {"_strict_response_validation": False}
    api = client(**loose)
    events = list(transcribe(api, stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"}, events
    assert done.type == "transcript.text.done", done
    assert done.text == "".join(event.delta for event in deltas) == transcribe(api).text
    *deltas, done = transcribe(api, stream=True, include=["logprobs"])
    told = bytes(int(byte) for token in done.logprobs for byte in token.bytes)
    assert told.decode().strip() == done.text, done
    assert sum(len(event.logprobs) for event in deltas) == len(done.logprobs), deltas

    async def one_by_one():
        async with openai.AsyncOpenAI(**settings(**loose)) as other:
            return [event async for event in await transcribe(other, stream=True)]

    assert asyncio.run(one_by_one())[-1].text == done.text
    # A format that cannot be streamed arrives as without `stream`.
    raw = api.audio.transcriptions.with_raw_response
    for format, beginning in (("srt", "1\n00:"), ("vtt", "WEBVTT\n"), ("verbose_json", "{")):
        plain = raw.create(model="whisper-1", file=FILE, stream=True, response_format=format)
        body = plain.http_response.read().decode()
        assert body.startswith(beginning), body
    return done.text


def words():
    """Words with their times, with segments and without; and each token's probability."""
    api = client()
    fields = {"response_format": "verbose_json"}
    both = transcribe(api, timestamp_granularities=["word", "segment"], **fields)
    alone = transcribe(api, timestamp_granularities=["word"], **fields)
    none = transcribe(api, **fields)
    assert both.segments and alone.segments is None and none.words is None, (both, alone, none)
    assert [word.word for word in both.words] == both.text.split() == [w.word for w in alone.words]
    last = 0.0
    for word in both.words:
        assert last <= word.start <= word.end <= both.duration, both.words
        last = word.end
    plain = transcribe(api, include=["logprobs"])
    told = bytes(int(byte) for token in plain.logprobs for byte in token.bytes)
    assert told.decode().strip() == plain.text, plain
    assert all(token.logprob <= 0 for token in plain.logprobs), plain
    assert transcribe(api).logprobs is None
    return both.text


def patience():
    """Retries as the server says; returns how long it slept, and how long the server asked for."""
    slept, told = [], []
    sleep = time.sleep
    time.sleep = lambda seconds: (slept.append(seconds), sleep(seconds))
    api = client(max_retries=100)
    send = api._client.send

    def watched(*given, **more):
        answer = send(*given, **more)
        if answer.status_code == 503:
            told.append(float(answer.headers["retry-after"]))
        return answer

    api._client.send = watched
    text = transcribe(api).text
    return {"slept": slept, "told": told, "text": text}


def retries():
    """How often it tries what fails at the server's side; the server counts."""
    api = client(max_retries=2)
    call = lambda: api.audio.translations.create(
        model="whisper-1", file=FILE, extra_body={"to_language": "de"}
    )
    error = refusal(openai.InternalServerError, call)
    assert error.status_code == 502 and error.code == "translation_backend", error.body


def realtime():
    """A realtime session with the client's own types, by an API key and by an ephemeral one."""
    api = client()
    audio = {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": None}}
    session = {"type": "transcription", "audio": audio}
    made = api.realtime.client_secrets.create(
        session=session, expires_after={"anchor": "created_at", "seconds": 60}
    )
    assert made.value.startswith("ek_") and made.session.type == "transcription", made
    # The client resamples nothing: the recording has 16 kHz, the client wants 24.
    with wave.open(str(FILE)) as recording:
        samples = array.array("h", recording.readframes(recording.getnframes()))
    places = [place * 2 / 3 for place in range(len(samples) * 3 // 2 - 1)]
    louder = array.array("h", (
        int(samples[int(p)] + (p % 1) * (samples[min(int(p) + 1, len(samples) - 1)] - samples[int(p)]))
        for p in places
    ))
    texts = []
    for key in (None, made.value):
        other = client(api_key=key) if key else api
        with other.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            created = connection.recv()
            assert created.type == "session.created" and created.session.type == "transcription", created
            if key:
                assert created.session.audio.input.turn_detection is None, created
            else:
                connection.session.update(session=session)
                updated = connection.recv()
                assert type(updated).__name__ == "SessionUpdatedEvent", updated
            for begin in range(0, len(louder), 2400):
                block = base64.b64encode(louder[begin : begin + 2400].tobytes()).decode()
                connection.input_audio_buffer.append(audio=block)
            connection.input_audio_buffer.commit()
            kinds = []
            for event in connection:
                kinds.append(event.type)
                assert event.type != "error", event
                if event.type == "conversation.item.added":
                    assert event.item.role == "user" and event.item.content[0].type == "input_audio", event
                if event.type.endswith(".completed"):
                    assert event.usage.type == "duration", event
                    texts.append(event.transcript)
                    break
            assert "conversation.item.input_audio_transcription.delta" in kinds, kinds
            connection.response.create()
            assert connection.recv().error.code == "invalid_event"
    try:
        with client(api_key="wrong").realtime.connect(extra_query={"intent": "transcription"}, max_retries=0):
            raise AssertionError("a wrong key opens a session")
    except Exception as error:
        assert "401" in str(error), repr(error)
    assert texts[0] == texts[1], texts
    return texts[0]


if __name__ == "__main__":
    told = {check.__name__: check for check in (
        formats, ways_of_sending, streaming, words, translations, models, errors, request_ids, patience, retries,
        realtime,
    )}[sys.argv[1]]()
    if told is not None:
        print(json.dumps(told))
