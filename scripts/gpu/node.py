"""A server of this program that a script starts, asks and stops; what the scripts in this folder share."""

import concurrent.futures
import dataclasses
import difflib
import http.client
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import time
import unicodedata
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
SAMPLES = REPOSITORY / "samples"
# Seconds between two looks at a condition.
POLL = 0.05
# Seconds for a start: a first start on a GPU compiles kernels or shaders.
START_LIMIT = 900
# Seconds for one reply: a GPU in software is slow.
REPLY_LIMIT = 900


class Failure(Exception):
    """A check found something wrong; the message is for people."""


class Skipped(Exception):
    """A check that this machine or build cannot run; the message says why."""


def outcome(check):
    """Runs a check and returns its result (passed, failed or skipped) and a note. None that breaks hides the others."""
    try:
        return "passed", check()
    except Skipped as reason:
        return "skipped", str(reason)
    except Failure as failure:
        return "failed", str(failure)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict
    body: bytes
    seconds: float

    def json(self):
        return json.loads(self.body)

    def text(self):
        """The transcript of a reply in JSON."""
        if self.status != 200:
            raise Failure(f"status {self.status}: {self.body.decode(errors='replace')[:300]}")
        return self.json()["text"].strip()


def wait_until(what, condition, limit):
    """Waits until the condition holds and returns what it returned."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure(f"waited {limit:.0f} s in vain: {what}")
        time.sleep(POLL)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`uttera-stt serve` on a free port, with a log file. Use it in a `with` statement."""

    def __init__(self, program, log, settings, limit_address_space=None):
        self.program, self.log, self.port = str(program), pathlib.Path(log), free_port()
        self.limit = limit_address_space
        # A result kept from an earlier request would hide what the GPU computes.
        self.settings = {"RESULT_CACHE_SECONDS": "0", "HOST": "127.0.0.1", "PORT": str(self.port), **settings}
        self.process = None
        self.started = 0.0

    def __enter__(self):
        command = [self.program]
        for name, value in self.settings.items():
            command += ["--set", f"{name}={value}"]
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "serve"],
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._limit_address_space if self.limit else None,
            )
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _limit_address_space(self):
        resource.setrlimit(resource.RLIMIT_AS, (self.limit, resource.RLIM_INFINITY))

    def lift_limit(self):
        """From now on, workers start without the limit."""
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.process.pid, resource.RLIMIT_AS, unlimited)

    def is_alive(self):
        return self.process.poll() is None

    def get(self, path):
        return self._request("GET", path)

    def _request(self, method, path, body=None, headers=None):
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REPLY_LIMIT)
        try:
            connection.request(method, path, body, {"Connection": "close", **(headers or {})})
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        names = {name.lower(): value for name, value in reply.getheaders()}
        return Reply(reply.status, names, data, time.monotonic() - begin)

    def answers(self, path):
        """Whether a path answers 200."""
        try:
            return self.get(path).status == 200
        except OSError:
            return False

    def wait_ready(self, limit=START_LIMIT):
        """Waits until the server can transcribe and returns the seconds that it took since its start."""

        def ready():
            if not self.is_alive():
                raise Failure(f"the server ended with status {self.process.returncode}: {self.last_lines()}")
            return self.answers("/readyz")

        wait_until("the server is not ready", ready, limit)
        return time.monotonic() - self.started

    def transcribe(self, path, **fields):
        path = pathlib.Path(path)
        return self.transcribe_bytes(path.read_bytes(), path.name, **fields)

    def transcribe_bytes(self, audio, name, **fields):
        """Sends audio to OpenAI's endpoint. A list as a field is sent as several fields of that name."""
        boundary = uuid.uuid4().hex
        parts = []
        for field, values in {"model": "whisper-1", **fields}.items():
            for value in values if isinstance(values, list) else [values]:
                parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode())
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        body = b"".join([*parts, audio, f"\r\n--{boundary}--\r\n".encode()])
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Cache-Control": "no-store"}
        return self._request("POST", "/v1/audio/transcriptions", body, headers)

    def health(self):
        return self.get("/health").json()

    def workers(self):
        """Process ids of the workers, oldest first."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = []
        for file in children:
            try:
                pids += [int(pid) for pid in file.read_text().split()]
            except OSError:
                continue
        return sorted(pid for pid in pids if b"\0worker" in command_line(pid))

    def log_text(self):
        return self.log.read_text(errors="replace")

    def last_lines(self, count=3):
        return " | ".join(self.log_text().splitlines()[-count:])


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def cpu_seconds(pid):
    """Processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid, field):
    """A value of /proc/PID/status in KiB, such as VmPeak or VmRSS."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


def words(text):
    """Lower-case words without punctuation."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.findall(r"[\w']+", text)


def word_error_rate(reference, text):
    """Insertions, deletions and replacements, divided by the words of the reference."""
    one, other = words(reference), words(text)
    if not one:
        return float(bool(other))
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, heard in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != heard))
    return row[-1] / len(one)


def difference(one, other):
    """The words that two texts do not share, for people."""
    marked = difflib.ndiff(words(one), words(other))
    return " ".join(word.replace(" ", "") for word in marked if word[0] in "+-") or "none"


@dataclasses.dataclass
class Clip:
    path: pathlib.Path
    language: str
    text: str
    seconds: float = 0.0


def sample_clips(*names):
    """Recordings of this repository, with their known text."""
    rows = [line.split("\t") for line in (SAMPLES / "samples.tsv").read_text().splitlines()[1:]]
    return [Clip(SAMPLES / row[0], row[1], row[2]) for row in rows if not names or row[0] in names]


def corpus_clips(folder, language, most, longest=15.0):
    """Short recordings of a corpus (its speech.tsv), evenly spread over it."""
    rows = [line.split("\t") for line in (folder / "speech.tsv").read_text().splitlines()[1:]]
    clips = [
        Clip(folder / row[0], row[1], row[3], float(row[2]))
        for row in rows
        if row[1] == language and float(row[2]) <= longest and row[3] and (folder / row[0]).exists()
    ]
    step = max(1, len(clips) // most)
    return clips[::step][:most]


def in_parallel(number, work, items):
    """Does the work for all items with this many threads, and returns the results in order."""
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, items))
