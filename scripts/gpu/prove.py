"""The measurements of scripts/gpu/prove; see its --help."""

import argparse
import ctypes
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time

from node import REPOSITORY, Failure, Server, Skipped, corpus_clips, in_parallel, outcome, sample_clips
from node import free_port, wait_until, word_error_rate

MIB = 1024 * 1024
# Requests of a burst, and of the measurement of one client.
BURST, SEQUENCE = 160, 30
BURST_DRY, SEQUENCE_DRY = 8, 4
# Idle seconds after which a worker ends in these measurements.
IDLE_SECONDS = 5
# Seconds that the driver may take to give memory back after a process has ended.
FREED_LIMIT = 30
# GPU memory, in MiB, that may be missing after the last worker has ended: other programs use the GPU too.
FREED_TOLERANCE = 64
# GPU memory, in MiB, that the check of a real shortage leaves free.
LEFT_FREE = 700
# Seconds between two samples of the state during a burst.
SAMPLING = 0.1


class Gpu:
    """The first NVIDIA GPU, asked through nvidia-smi, which is independent of the server."""

    def __init__(self):
        self.present = self.ask("name") is not None

    @staticmethod
    def ask(field, query="gpu"):
        command = ["nvidia-smi", f"--query-{query}={field}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    def number(self, field):
        """A number such as memory.used (MiB) or power.draw (W); `None`: unknown."""
        text = self.ask(field) if self.present else None
        try:
            return float(text.splitlines()[0])
        except (AttributeError, IndexError, ValueError):
            return None

    def used(self):
        return self.number("memory.used")

    def free(self):
        return self.number("memory.free")

    def describe(self):
        if not self.present:
            return None
        fields = ["name", "driver_version", "memory.total", "compute_cap", "power.limit"]
        return {field: (self.ask(field) or "").splitlines()[0] for field in fields}


class Peer:
    """faster-whisper behind scripts/bench/peers/serve.py: the same requests as to our server, one after another."""

    def __init__(self, name, python, model, device, log):
        self.name, self.python, self.model, self.log = name, python, model, log
        self.device = "cuda" if device == "cuda" else "cpu"
        self.port = free_port()
        self.process = None

    def __enter__(self):
        libraries = [str(path) for path in pathlib.Path(self.python).parent.parent.glob("lib/python*/site-packages/nvidia/*/lib")]
        paths = [*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        command = [self.python, REPOSITORY / "scripts/bench/peers/serve.py", self.name, self.model, str(self.port)]
        self.started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, command), "--device", self.device],
                env={**os.environ, "LD_LIBRARY_PATH": ":".join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    answers, get, _request = Server.answers, Server.get, Server._request
    transcribe, transcribe_bytes = Server.transcribe, Server.transcribe_bytes

    def wait_ready(self, limit=900):
        def ready():
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended: {self.log.read_text(errors='replace')[-400:]}")
            return self.answers("/")

        wait_until(f"{self.name} is not ready", ready, limit)
        return time.monotonic() - self.started


class Sampler(threading.Thread):
    """Samples the server's state and the GPU's memory until it is stopped, and keeps the extremes."""

    def __init__(self, server, gpu):
        super().__init__(daemon=True)
        self.server, self.gpu = server, gpu
        self.ended = threading.Event()
        self.most_workers, self.least_free, self.most_used, self.refusals = 0, None, None, 0

    def run(self):
        while not self.ended.wait(SAMPLING):
            try:
                state = self.server.health()["smart_routing"]
            except (OSError, ValueError, KeyError):
                continue
            self.most_workers = max(self.most_workers, state["pool_workers_active"] + state["pool_workers_loading"])
            self.refusals += not state["vram_sufficient_for_cold"]
            used, free = self.gpu.used(), self.gpu.free()
            if used is not None:
                self.most_used = max(used, self.most_used or 0)
            if free is not None:
                self.least_free = free if self.least_free is None else min(free, self.least_free)

    def stop(self):
        self.ended.set()
        self.join()
        return {
            "most_cold_workers": self.most_workers,
            "most_gpu_memory_mib": self.most_used,
            "least_free_gpu_memory_mib": self.least_free,
            "samples_with_too_little_memory": self.refusals,
        }


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, round(share * (len(values) - 1)))]


def one_client(server, clips, number):
    """Sends requests one after another."""
    replies = [server.transcribe(clips[i % len(clips)].path) for i in range(number)]
    texts = [reply.text() for reply in replies]
    seconds = [reply.seconds for reply in replies]
    said = " ".join(clips[i % len(clips)].text for i in range(number))
    return {
        "requests": number,
        "median_seconds": round(statistics.median(seconds), 4),
        "p95_seconds": round(percentile(seconds, 0.95), 4),
        "words_wrong": round(word_error_rate(said, " ".join(texts)), 4),
    }


def burst(server, clips, number, audio_seconds):
    """Sends all requests at once."""
    begin = time.monotonic()
    replies = in_parallel(number, lambda i: server.transcribe(clips[i % len(clips)].path), range(number))
    took = time.monotonic() - begin
    done = [reply for reply in replies if reply.status == 200]
    statuses = sorted({reply.status for reply in replies} - {200})
    seconds = [reply.seconds for reply in done] or [0.0]
    audio = sum(audio_seconds[i % len(clips)] for i in range(number))
    return {
        "requests": number,
        "answered": len(done),
        "other_statuses": statuses,
        "seconds": round(took, 2),
        "median_seconds": round(statistics.median(seconds), 3),
        "p95_seconds": round(percentile(seconds, 0.95), 3),
        "audio_seconds_per_second": round(audio / took, 1),
    }


def duration(path):
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


class Proof:
    """The steps. Each adds to the report, and a step that fails does not stop the others."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.gpu = Gpu()
        self.models = arguments.models.split(",")
        self.main_model = self.models[-2] if len(self.models) > 1 else self.models[0]
        self.dry = arguments.dry_run
        self.number = BURST_DRY if self.dry else BURST
        self.sequence = SEQUENCE_DRY if self.dry else SEQUENCE
        self.clips = self.short_clips()
        self.audio_seconds = [duration(clip.path) for clip in self.clips]
        self.long = self.long_clip()
        self.checks = []
        self.report = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "dry_run": self.dry,
            "program": subprocess.run([arguments.program, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
            "device": arguments.device,
            "gpu": self.gpu.describe(),
            "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
            "checks": self.checks,
        }

    def short_clips(self):
        corpus = os.environ.get("STT_CORPUS")
        if corpus:
            return corpus_clips(pathlib.Path(corpus), "en", self.sequence)
        return sample_clips("en-command.wav", "en-sentence.wav")

    def long_clip(self):
        return sample_clips("en-long.ogg")[0]

    def step(self, name, what, work):
        print(f"-- {name}: {what}", flush=True)
        result, note = outcome(work)
        self.checks.append({"name": name, "result": result, "note": note})
        print(f"{result:7}  {name}: {note}", flush=True)

    def server(self, name, model, **settings):
        log = self.arguments.out / f"{name}.log"
        return Server(self.arguments.program, log, {"WHISPER_MODEL": model, "DEVICE": self.arguments.device, **settings})

    def need_gpu(self):
        if not self.gpu.present:
            raise Skipped("needs an NVIDIA GPU")

    def run(self):
        for model in self.models:
            self.step(
                f"model {model}",
                "GPU memory before, loaded and after the end; time to ready; one client; a longer recording",
                lambda model=model: self.measure_model(model),
            )
        name = f"burst of {self.number}"
        self.step(name, f"all at once to {self.main_model}; cold workers by free memory", self.measure_burst)
        self.step(
            "no cold worker without memory",
            f"another process takes all GPU memory but {LEFT_FREE} MiB: no cold worker, all requests answered",
            self.refuse_in_real_shortage,
        )
        self.step("idle server frees the GPU", f"HOT_IDLE_TIMEOUT={IDLE_SECONDS}; then one more request", self.free_when_idle)
        for peer in ("faster-whisper", "faster-whisper-batched"):
            self.step(peer, f"the same requests to {self.main_model}, on the same device", lambda peer=peer: self.measure_peer(peer))

    def freed(self, before):
        """Waits until the GPU's memory is as free as before."""
        if before is None:
            return None
        wait_until(
            f"GPU memory is not freed ({self.gpu.used():.0f} MiB used, {before:.0f} before)",
            lambda: self.gpu.used() <= before + FREED_TOLERANCE,
            FREED_LIMIT,
        )
        return self.gpu.used()

    def measure_model(self, model):
        before = self.gpu.used()
        with self.server(f"model-{model}", model, COLD_POOL_SIZE="0") as server:
            ready = server.wait_ready()
            loaded = self.gpu.used()
            client = one_client(server, self.clips, self.sequence)
            begin = time.monotonic()
            text = server.transcribe(self.long.path).text()
            long_seconds = time.monotonic() - begin
            after_work = self.gpu.used()
        result = {
            "seconds_to_ready": round(ready, 2),
            "gpu_memory_mib": {"before": before, "loaded": loaded, "after_work": after_work, "after_end": self.freed(before)},
            "one_client": client,
            "long": {
                "audio_seconds": round(duration(self.long.path), 1),
                "seconds": round(long_seconds, 2),
                "words_wrong": round(word_error_rate(self.long.text, text), 4),
            },
        }
        self.report.setdefault("models", {})[model] = result
        if loaded is not None and before is not None and loaded <= before:
            raise Failure(f"the model uses no GPU memory: {before:.0f} MiB before, {loaded:.0f} MiB loaded")
        memory = f"{loaded - before:.0f} MiB of GPU memory, " if loaded is not None else ""
        return (
            f"ready after {ready:.1f} s, {memory}median {client['median_seconds']:.3f} s, "
            f"{client['words_wrong']:.1%} of the words wrong"
        )

    def cold_settings(self):
        return {"COLD_POOL_SIZE": "10", "COLD_WORKER_IDLE_TIMEOUT": str(IDLE_SECONDS), "COLD_WORKER_IDLE_STAGGER": "1"}

    def measure_burst(self):
        before = self.gpu.used()
        with self.server("burst", self.main_model, **self.cold_settings()) as server:
            server.wait_ready()
            one_client(server, self.clips, 2)
            hot = self.gpu.used()
            sampler = Sampler(server, self.gpu)
            sampler.start()
            result = burst(server, self.clips, self.number, self.audio_seconds)
            result.update(sampler.stop())
            begin = time.monotonic()
            # The pool adds the stagger for each free slot: 5 s + 10 × 1 s at most.
            wait_until("cold workers do not end", lambda: len(server.workers()) <= 1, IDLE_SECONDS + 10 + FREED_LIMIT)
            result["seconds_until_cold_workers_ended"] = round(time.monotonic() - begin, 1)
            result["gpu_memory_mib"] = {"before": before, "hot": hot, "after_cold_workers": self.freed(hot)}
            result["idle_power_watts"] = self.gpu.number("power.draw")
            result["cold_worker_gb"] = server.health()["smart_routing"]["cold_vram_per_worker_gb"]
        self.report["burst"] = result
        if result["answered"] != self.number:
            raise Failure(f"only {result['answered']} of {self.number} were answered: {result['other_statuses']}")
        return (
            f"{result['seconds']:.1f} s, {result['audio_seconds_per_second']:.0f} audio s/s, "
            f"{result['most_cold_workers']} cold workers, ended after {result['seconds_until_cold_workers_ended']} s"
        )

    def refuse_in_real_shortage(self):
        self.need_gpu()
        with self.server("refusal-in-shortage", self.main_model, **self.cold_settings()) as server:
            server.wait_ready()
            one_client(server, self.clips, 2)
            with Holder(self.gpu.free() - LEFT_FREE):
                sampler = Sampler(server, self.gpu)
                sampler.start()
                result = burst(server, self.clips, self.number, self.audio_seconds)
                result.update(sampler.stop())
            recovered = burst(server, self.clips, self.number, self.audio_seconds)
        self.report["refusal_in_shortage"] = {**result, "afterwards": recovered}
        if result["most_cold_workers"]:
            raise Failure(f"{result['most_cold_workers']} cold workers started beside {LEFT_FREE} MiB")
        if result["answered"] != self.number:
            raise Failure(f"only {result['answered']} of {self.number} were answered")
        return f"no cold worker, all {self.number} answered in {result['seconds']:.1f} s; then {recovered['seconds']:.1f} s"

    def free_when_idle(self):
        before = self.gpu.used()
        with self.server("idle", self.main_model, COLD_POOL_SIZE="0", HOT_IDLE_TIMEOUT=str(IDLE_SECONDS)) as server:
            server.wait_ready()
            server.transcribe(self.clips[0].path).text()
            begin = time.monotonic()
            wait_until("the hot worker does not end", lambda: not server.workers(), IDLE_SECONDS + FREED_LIMIT)
            took = time.monotonic() - begin
            left = self.freed(before)
            power = self.gpu.number("power.draw")
            again = server.transcribe(self.clips[0].path)
            again.text()
        self.report["idle"] = {
            "seconds_until_freed": round(took, 1),
            "gpu_memory_mib": {"before": before, "idle": left},
            "power_watts": power,
            "next_request_seconds": round(again.seconds, 2),
        }
        return f"the worker ended after {took:.1f} s; the next request took {again.seconds:.1f} s"

    def measure_peer(self, name):
        if not self.arguments.peer_python:
            raise Skipped("faster-whisper is left out")
        folders = dict(pair.split("=", 1) for pair in self.arguments.peer_model)
        model = folders.get(self.main_model, self.main_model)
        before = self.gpu.used()
        with Peer(name, self.arguments.peer_python, model, self.arguments.device, self.arguments.out / f"{name}.log") as peer:
            ready = peer.wait_ready()
            loaded = self.gpu.used()
            client = one_client(peer, self.clips, self.sequence)
            begin = time.monotonic()
            peer.transcribe(self.long.path).text()
            long_seconds = time.monotonic() - begin
            result = burst(peer, self.clips, self.number, self.audio_seconds)
        self.report.setdefault("peers", {})[name] = {
            "model": self.main_model,
            "compute_type": "float16" if self.arguments.device == "cuda" else "int8",
            "seconds_to_ready": round(ready, 2),
            "gpu_memory_mib": {"before": before, "loaded": loaded},
            "one_client": client,
            "long": {"seconds": round(long_seconds, 2)},
            "burst": result,
        }
        return f"median {client['median_seconds']:.3f} s, burst {result['seconds']:.1f} s"


class Holder:
    """A process that holds GPU memory, in MiB, through the driver's own functions."""

    def __init__(self, mib):
        self.mib = int(mib)

    def __enter__(self):
        command = [sys.executable, __file__, "--hold", str(self.mib)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "holding":
            raise Failure(f"cannot hold {self.mib} MiB of GPU memory")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def hold(mib):
    """Allocates GPU memory in steps, says so, and holds it until standard input closes."""
    driver = ctypes.CDLL("libcuda.so.1")
    context, address = ctypes.c_void_p(), ctypes.c_uint64()
    if driver.cuInit(0) or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or driver.cuCtxSetCurrent(context):
        sys.exit("the driver does not start")
    step = 64
    for _ in range(max(1, mib // step)):
        if driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(step * MIB)):
            break
    print("holding", flush=True)
    sys.stdin.read()


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def shown(value):
    return "–" if value is None else f"{value:,.0f}" if isinstance(value, float) and value >= 100 else str(value)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(shown(cell) for cell in line) + " |" for line in lines)


def markdown(report):
    gpu = report["gpu"]
    parts = [
        "# uttera-stt on a GPU",
        f"{report['time']}, {report['program']}, device {report['device']}, "
        + (f"{gpu['name']} with {gpu['memory.total']} MiB, driver {gpu['driver_version']}" if gpu else "no NVIDIA GPU")
        + f"; {report['machine']['processor']}, {report['machine']['cores']} cores.",
    ]
    if report["dry_run"]:
        parts.append("This is a dry run with small numbers: its figures say nothing about a GPU.")
    parts += ["## Checks", table(["check", "result", "note"], [[c["name"], c["result"], c["note"]] for c in report["checks"]])]
    if models := report.get("models"):
        rows = [
            [
                name,
                m["seconds_to_ready"],
                m["gpu_memory_mib"]["before"],
                m["gpu_memory_mib"]["loaded"],
                m["gpu_memory_mib"]["after_work"],
                m["gpu_memory_mib"]["after_end"],
                m["one_client"]["median_seconds"],
                m["one_client"]["p95_seconds"],
                f"{m['one_client']['words_wrong']:.1%}",
                round(m["long"]["audio_seconds"] / m["long"]["seconds"], 1),
            ]
            for name, m in models.items()
        ]
        head = ["model", "ready, s", "MiB before", "loaded", "after work", "after the end", "median, s", "p95, s", "words wrong", "long, × real time"]
        parts += ["## Models", table(head, rows)]
    rows = []
    if own := report.get("burst"):
        rows.append(["uttera-stt", own["answered"], own["seconds"], own["median_seconds"], own["p95_seconds"], own["audio_seconds_per_second"], own["most_cold_workers"]])
    for name, peer in report.get("peers", {}).items():
        b = peer["burst"]
        rows.append([f"{name} ({peer['compute_type']})", b["answered"], b["seconds"], b["median_seconds"], b["p95_seconds"], b["audio_seconds_per_second"], None])
    if rows:
        head = ["program", "answered", "seconds", "median, s", "p95, s", "audio s/s", "cold workers"]
        parts += [f"## Burst of {(own or b)['requests']} short recordings", table(head, rows)]
    rows = [
        [name, peer["model"], peer["seconds_to_ready"], peer["gpu_memory_mib"]["loaded"], peer["one_client"]["median_seconds"], f"{peer['one_client']['words_wrong']:.1%}"]
        for name, peer in report.get("peers", {}).items()
    ]
    if rows:
        parts += ["## faster-whisper, one client", table(["program", "model", "ready, s", "MiB loaded", "median, s", "words wrong"], rows)]
    return "\n\n".join(parts) + "\n"


def main():
    if sys.argv[1:2] == ["--hold"]:
        hold(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-model", action="append", default=[])
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    proof = Proof(arguments)
    proof.run()
    (arguments.out / "report.json").write_text(json.dumps(proof.report, indent=2, ensure_ascii=False) + "\n")
    (arguments.out / "report.md").write_text(markdown(proof.report))
    print(f"wrote {arguments.out / 'report.json'} and {arguments.out / 'report.md'}")
    sys.exit(any(check["result"] == "failed" for check in proof.checks))


if __name__ == "__main__":
    main()
