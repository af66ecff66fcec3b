"""Runs a peer behind a minimal server with the OpenAI audio API: one queue, one request at a time.

usage: serve.py PEER MODEL PORT [--threads N] [--device cpu|cuda] [--wyoming-port PORT]

Every connection has its own thread, so that connections can stay open; a single thread does all work, in the order of
arrival. Only faster-whisper can use a GPU (cuda).
"""

import argparse
import asyncio
import concurrent.futures
import email.parser
import email.policy
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import time

import numpy

SAMPLE_RATE = 16_000
# whisper.cpp's encoder: a frame is 20 ms, and 1500 of them are its window of 30 s.
FRAME_SAMPLES = 320
WINDOW_FRAMES = 1500


def load_faster_whisper(path, threads, device):
    from faster_whisper import WhisperModel

    compute_type = "int8" if device == "cpu" else "float16"
    return WhisperModel(path, device=device, compute_type=compute_type, cpu_threads=threads)


def faster_whisper(path, threads, device="cpu"):
    model = load_faster_whisper(path, threads, device)

    def transcribe(audio, language):
        segments, _ = model.transcribe(audio, language=language, beam_size=1)
        return "".join(segment.text for segment in segments)

    return transcribe


def faster_whisper_batched(path, threads, device="cpu"):
    """Cuts the audio at pauses and decodes eight pieces together."""
    from faster_whisper import BatchedInferencePipeline

    model = BatchedInferencePipeline(load_faster_whisper(path, threads, device))

    def transcribe(audio, language):
        segments, _ = model.transcribe(audio, language=language, beam_size=1, batch_size=8)
        return "".join(segment.text for segment in segments)

    return transcribe


def openai_whisper(path, threads):
    import torch
    import whisper

    torch.set_num_threads(threads)
    model = whisper.load_model(path, device="cpu")

    def transcribe(audio, language):
        return model.transcribe(audio, language=language, fp16=False)["text"]

    return transcribe


def whisper_cpp(path, threads, audio_context=lambda audio: 0):
    from pywhispercpp.model import Model

    model = Model(
        path, n_threads=threads, print_progress=False, print_realtime=False, redirect_whispercpp_logs_to=None
    )

    def transcribe(audio, language):
        segments = model.transcribe(audio, language=language or "", audio_ctx=audio_context(audio))
        return " ".join(segment.text for segment in segments)

    return transcribe


def whisper_cpp_audio_ctx(path, threads):
    """Trims the encoder's window to the clip's length plus a margin, to at least a third."""

    def audio_context(audio):
        frames = -(-len(audio) // FRAME_SAMPLES) + 256
        return min(max(-(-frames // 64) * 64, 512), WINDOW_FRAMES)

    return whisper_cpp(path, threads, audio_context)


def openvino(path, threads):
    # Otherwise the library sends statistics of its use.
    os.environ["CI"] = "true"
    import openvino_genai

    # Beside int8 weights, f32 was faster than the default, bf16, on a processor with AVX-512 and without AMX.
    pipeline = openvino_genai.WhisperPipeline(
        path, "CPU", INFERENCE_NUM_THREADS=threads, INFERENCE_PRECISION_HINT="f32"
    )

    def transcribe(audio, language):
        # Without timestamps it would cut a long recording at every 30 s, in the middle of words.
        options = {"language": f"<|{language}|>"} if language else {}
        return pipeline.generate(audio, task="transcribe", return_timestamps=True, **options).texts[0]

    return transcribe


def wyoming_faster_whisper(path, threads, wyoming_port):
    """The Wyoming server of that name, which serves this port itself; other requests go through it as well."""
    import wyoming.asr
    import wyoming.audio
    import wyoming.client

    folder = tempfile.mkdtemp()
    uri = f"tcp://127.0.0.1:{wyoming_port}"
    command = [sys.executable, "-m", "wyoming_faster_whisper", "--model", path, "--uri", uri]
    command += ["--data-dir", folder, "--download-dir", folder, "--local-files-only", "--stt-library", "faster-whisper"]
    command += ["--device", "cpu", "--compute-type", "int8", "--beam-size", "1", "--cpu-threads", str(threads)]
    process = subprocess.Popen(command)
    while True:
        try:
            socket.create_connection(("127.0.0.1", wyoming_port)).close()
            break
        except ConnectionRefusedError:
            if process.poll() is not None:
                raise RuntimeError("wyoming-faster-whisper ended")
            time.sleep(0.05)

    async def say(samples, language):
        form = {"rate": SAMPLE_RATE, "width": 2, "channels": 1}
        async with wyoming.client.AsyncTcpClient("127.0.0.1", wyoming_port) as client:
            await client.write_event(wyoming.asr.Transcribe(language=language).event())
            await client.write_event(wyoming.audio.AudioStart(**form).event())
            await client.write_event(wyoming.audio.AudioChunk(audio=samples, **form).event())
            await client.write_event(wyoming.audio.AudioStop().event())
            while event := await client.read_event():
                if wyoming.asr.Transcript.is_type(event.type):
                    return wyoming.asr.Transcript.from_event(event).text
        raise RuntimeError("wyoming-faster-whisper closed the connection")

    def transcribe(audio, language):
        samples = (audio.clip(-1, 1) * 32767).astype("<i2").tobytes()
        return asyncio.run(say(samples, language))

    return transcribe


PEERS = {
    "faster-whisper": faster_whisper,
    "faster-whisper-batched": faster_whisper_batched,
    "openai-whisper": openai_whisper,
    "whisper.cpp": whisper_cpp,
    "whisper.cpp-audio-ctx": whisper_cpp_audio_ctx,
    "openvino": openvino,
    "wyoming-faster-whisper": wyoming_faster_whisper,
}


def decode(file):
    """Any audio as 16 kHz mono samples."""
    command = ["ffmpeg", "-v", "error", "-i", "-", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    done = subprocess.run(command, input=file, capture_output=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr.decode(errors="replace").strip())
    # A copy, because torch requires writable memory.
    return numpy.frombuffer(done.stdout, numpy.float32).copy()


def form_fields(content_type, body):
    """The fields of a form (multipart/form-data) by name, as bytes."""
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    name = lambda part: part.get_param("name", header="content-disposition")
    return {name(part): part.get_payload(decode=True) for part in message.iter_parts()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; with Nagle's algorithm the second would wait for the acknowledgement of the first.
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(200, {"status": "ok"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        work = self.server.queue.submit(self.transcript, self.headers["Content-Type"], body)
        try:
            self.answer(200, {"text": work.result()})
        except Exception as error:  # a library may raise anything; the client gets the message
            self.answer(500, {"error": str(error)})

    def transcript(self, content_type, body):
        fields = form_fields(content_type, body)
        language = fields.get("language", b"").decode() or None
        return self.server.transcribe(decode(fields["file"]), language)

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Many clients connect at the same time.
    request_queue_size = 1024
    daemon_threads = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--wyoming-port", type=int)
    arguments = parser.parse_args()
    options = {} if arguments.device == "cpu" else {"device": arguments.device}
    if arguments.wyoming_port:
        options["wyoming_port"] = arguments.wyoming_port
    queue = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    # Load the model on the thread that uses it: libraries bind their own threads to the calling one.
    transcribe = queue.submit(PEERS[arguments.peer], arguments.model, arguments.threads, **options).result()
    server = Server(("127.0.0.1", arguments.port), Handler)
    server.queue, server.transcribe = queue, transcribe
    server.serve_forever()


if __name__ == "__main__":
    main()
