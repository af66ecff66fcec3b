"""Clients of scripts/soak: each is a function that makes one request, in a thread that repeats it."""

import base64
import contextlib
import http.client
import json
import os
import random
import socket
import struct
import time

# Seconds for one request. It includes the queue.
LIMIT = 300
BOUNDARY = "soak-5f2c"
PATH = "/v1/audio/transcriptions"
# Bytes of 16-bit audio at 16 kHz in a tenth of a second.
TENTH = 3200


class Failed(Exception):
    """A request that should have succeeded did not, or one that should have failed did otherwise."""


class Target:
    """The server, and the audio to send."""

    def __init__(self, port, wyoming_port, audio):
        self.port, self.wyoming_port, self.audio = port, wyoming_port, audio

    def connect(self, port=None):
        connection = socket.create_connection(("127.0.0.1", port or self.port), timeout=LIMIT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def pcm(self):
        """The command as 16-bit samples: its WAV file has a head of 44 bytes."""
        return self.audio["command.wav"][44:]


def form(name, audio, **fields):
    """A form with a file, and its content type."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in {"model": "whisper-1", **fields}.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return b"".join([*parts, head, audio, f"\r\n--{BOUNDARY}--\r\n".encode()])


def head(length, path=PATH):
    """The head of a request with a form of this length."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {length}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()


def reply(connection):
    """Status and body of the reply on a connection."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def expect_text(status, body):
    if status != 200:
        raise Failed(f"status {status}: {body[:200].decode(errors='replace')}")
    if not json.loads(body)["text"].strip():
        raise Failed("an empty text")


def transcribe(target, name, **fields):
    body = form(name, target.audio[name], **fields)
    with target.connect() as connection:
        connection.sendall(head(len(body)) + body)
        return reply(connection)


def command(target, _):
    """A short command."""
    expect_text(*transcribe(target, "command.wav"))


def sentences(target, _):
    """Several short requests on one connection, which stays open between them."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=LIMIT)
    with contextlib.closing(connection):
        for _ in range(3):
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Cache-Control": "no-store"}
            connection.request("POST", PATH, form("sentence.wav", target.audio["sentence.wav"]), headers)
            response = connection.getresponse()
            expect_text(response.status, response.read())


def long_file(target, chance):
    """A file of several minutes, compressed."""
    fields = {"response_format": "verbose_json"} if chance.random() < 0.5 else {}
    expect_text(*transcribe(target, "long.ogg", **fields))


def stream(target, _):
    """A streamed text."""
    status, body = transcribe(target, "minute.ogg", stream="true")
    if status != 200 or b"transcript.text.done" not in body:
        raise Failed(f"status {status}: {body[-200:].decode(errors='replace')}")


def cancelled(target, chance):
    """A client that leaves: during its upload, before the reply, or in the middle of it."""
    body = form("minute.ogg", target.audio["minute.ogg"], stream="true")
    with target.connect() as connection:
        if chance.random() < 0.3:
            connection.sendall(head(len(body)) + body[: len(body) // 2])
        else:
            connection.sendall(head(len(body)) + body)
        connection.settimeout(chance.uniform(0.1, 3))
        with contextlib.suppress(TimeoutError):
            while connection.recv(4096):
                pass
        if chance.random() < 0.5:
            # A reset in place of an end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slow(target, chance):
    """A client on a bad line: it takes half a minute for the upload, and reads the reply byte by byte."""
    body = form("command.wav", target.audio["command.wav"])
    with target.connect() as connection:
        connection.sendall(head(len(body)))
        part = len(body) // 30 + 1
        for start in range(0, len(body), part):
            connection.sendall(body[start : start + part])
            time.sleep(chance.uniform(0.5, 1))
        answer = b""
        while byte := connection.recv(1):
            answer += byte
    lines, _, text = answer.partition(b"\r\n\r\n")
    expect_text(int(lines.split()[1]), text)


def garbage(target, chance):
    """Something that is no request, no form or no audio. The server may close the connection, or answer 4xx."""
    noise = random.Random(chance.random()).randbytes(20_000)
    wav = target.audio["sentence.wav"]
    kinds = [
        lambda: noise,
        lambda: b"GET /health HTTP/1.1\r\n",
        lambda: head(100) + noise[:100],
        lambda: head(len(body := form("noise.mp3", noise))) + body,
        lambda: head(len(body := form("cut.wav", wav[:30]))) + body,
        lambda: head(len(body := form("empty.wav", b""))) + body,
        lambda: head(len(body := form("a.wav", wav, temperature="hot"))) + body,
        lambda: head(len(body := form("a.wav", wav)), "/v1/audio/nothing") + body,
        lambda: head(10**12) + noise,
        lambda: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ]
    kind = chance.randrange(len(kinds) + 1)
    if kind == len(kinds):
        return wyoming_garbage(target, noise)
    with target.connect() as connection:
        # The server waits for the rest of what looks like a beginning.
        connection.settimeout(5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.sendall(kinds[kind]())
            status, body = reply(connection)
            if not 400 <= status < 500:
                raise Failed(f"garbage of kind {kind} got status {status}: {body[:200].decode(errors='replace')}")


def wyoming_garbage(target, noise):
    with target.connect(target.wyoming_port) as connection:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sendall(b'{"type": "audio-chunk", "payload_length": 99999999999}\n' + noise)
            connection.recv(4096)


def wyoming_event(kind, payload=b"", **data):
    block = json.dumps(data).encode()
    event = {"type": kind, "version": "1.0.0", "data_length": len(block), "payload_length": len(payload)}
    return json.dumps(event).encode() + b"\n" + block + payload


def wyoming(target, chance):
    """A voice command as Home Assistant sends it. Some satellites lose their connection."""
    form_of_audio = {"rate": 16000, "width": 2, "channels": 1}
    leaves = chance.random() < 0.2
    with target.connect(target.wyoming_port) as connection, connection.makefile("rb") as replies:
        connection.sendall(wyoming_event("transcribe", language="en"))
        connection.sendall(wyoming_event("audio-start", **form_of_audio))
        audio = target.pcm()
        for start in range(0, len(audio), TENTH):
            if leaves and start > len(audio) // 2:
                return
            connection.sendall(wyoming_event("audio-chunk", audio[start : start + TENTH], **form_of_audio))
            time.sleep(0.05)
        connection.sendall(wyoming_event("audio-stop"))
        while line := replies.readline():
            event = json.loads(line)
            data = json.loads(replies.read(event.get("data_length", 0)) or b"{}")
            if event["type"] == "transcript":
                if not data["text"].strip():
                    raise Failed("Wyoming: an empty text")
                return
            if event["type"] == "error":
                raise Failed(f"Wyoming: {data}")
        raise Failed("Wyoming: the server closed the connection")


class WebSocket:
    """As much of RFC 6455 as a session needs."""

    def __init__(self, connection, path):
        self.connection, self.stream = connection, connection.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        first = self.stream.readline()
        if b" 101 " not in first:
            raise Failed(f"realtime: {first!r}")
        while self.stream.readline().strip():
            pass

    def send(self, event, opcode=1):
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        if len(data) < 126:
            length = bytes([0x80 | len(data)])
        else:
            length = bytes([0x80 | 126]) + struct.pack(">H", len(data))
        # A mask of zeros changes nothing.
        self.connection.sendall(bytes([0x80 | opcode]) + length + bytes(4) + data)

    def event(self):
        """The next event; `None` when the server closes."""
        while True:
            start = self.stream.read(2)
            if len(start) < 2:
                return None
            length = start[1]
            if length == 126:
                (length,) = struct.unpack(">H", self.stream.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.stream.read(8))
            data, opcode = self.stream.read(length), start[0] & 15
            if opcode == 1:
                return json.loads(data)
            if opcode == 8:
                return None
            if opcode == 9:
                self.send(data, 10)


def realtime(target, chance):
    """Two turns of a realtime session. Some clients lose their connection."""
    leaves = chance.random() < 0.2
    with target.connect() as connection:
        session = WebSocket(connection, "/v1/realtime?intent=transcription")
        audio_input = {"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": None}
        session.send({"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio_input}}})
        for _ in range(2):
            audio = target.pcm()
            for start in range(0, len(audio), TENTH):
                block = base64.b64encode(audio[start : start + TENTH]).decode()
                session.send({"type": "input_audio_buffer.append", "audio": block})
                time.sleep(0.02)
            session.send({"type": "input_audio_buffer.commit"})
            if leaves:
                return
            while event := session.event():
                if event["type"] == "error":
                    raise Failed(f"realtime: {event['error']}")
                if event["type"].endswith(".failed"):
                    raise Failed(f"realtime: {event}")
                if event["type"].endswith("input_audio_transcription.completed"):
                    break
            else:
                raise Failed("realtime: the server closed the connection")


# Each client, and the longest pause after its request, in seconds.
CLIENTS = [
    (command, 1),
    (command, 4),
    (sentences, 3),
    (long_file, 10),
    (stream, 10),
    (cancelled, 3),
    (slow, 1),
    (garbage, 1),
    (wyoming, 3),
    (realtime, 3),
]
