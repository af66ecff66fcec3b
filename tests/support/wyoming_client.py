"""Talks to a server with the protocol's own package and prints what came back as JSON.

wyoming_client.py URI info
wyoming_client.py URI transcribe FILE [LANGUAGE]
wyoming_client.py - discover NAME
"""

import asyncio
import json
import sys
import threading
import wave

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe, Info


async def info(client):
    await client.write_event(Describe().event())
    event = await client.read_event()
    assert Info.is_type(event.type), event
    read = Info.from_event(event)
    others = [read.tts, read.handle, read.intent, read.wake, read.mic, read.snd]
    assert others == [[]] * 6 and read.satellite is None, read
    return [program.to_dict() for program in read.asr]


async def transcribe(client, path, language=None):
    with wave.open(path, "rb") as file:
        rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
        await client.write_event(Transcribe(language=language, transcript_names=["kitchen"]).event())
        await client.write_event(AudioStart(rate=rate, width=width, channels=channels).event())
        for chunk in wav_to_chunks(file, samples_per_chunk=1024):
            await client.write_event(chunk.event())
    await client.write_event(AudioStop().event())
    streamed, result = "", None
    while True:
        event = await client.read_event()
        if event is None or TranscriptStop.is_type(event.type):
            break
        if TranscriptChunk.is_type(event.type):
            streamed += TranscriptChunk.from_event(event).text
        elif Transcript.is_type(event.type):
            result = Transcript.from_event(event)
        elif Error.is_type(event.type):
            return {"error": Error.from_event(event).text}
        else:
            assert TranscriptStart.is_type(event.type), event
    return {"text": result.text, "language": result.language, "streamed": streamed}


def discover(name):
    """Waits until the server is announced, and until it is not any more."""
    from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

    wanted, seen, left = f"{name}._wyoming._tcp.local.", [], threading.Event()

    class Listener(ServiceListener):
        def add_service(self, zc, type_, name):
            if name == wanted:
                info = zc.get_service_info(type_, name, timeout=30_000)
                seen.append({"addresses": info.parsed_addresses(), "port": info.port, "text": info.text.hex()})
                print(json.dumps(seen[0]), flush=True)

        def update_service(self, zc, type_, name):
            pass

        def remove_service(self, zc, type_, name):
            if name == wanted:
                left.set()

    with Zeroconf() as zc:
        ServiceBrowser(zc, "_wyoming._tcp.local.", Listener())
        left.wait()


async def main():
    uri, check, *arguments = sys.argv[1:]
    async with AsyncClient.from_uri(uri) as client:
        print(json.dumps(await {"info": info, "transcribe": transcribe}[check](client, *arguments)))


if sys.argv[2] == "discover":
    discover(sys.argv[3])
else:
    asyncio.run(main())
