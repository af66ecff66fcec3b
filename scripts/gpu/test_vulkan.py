"""The checks of scripts/gpu/test-vulkan; see its --help."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from node import Clip, Failure, Server, corpus_clips, cpu_seconds, difference, memory_kib, outcome, sample_clips
from node import wait_until, word_error_rate, words

MIB = 1024 * 1024
MODEL = "tiny.en"
# Parts of a longer sample, as first second and length, for encoder windows of several sizes. Each is one chunk: the server
# cuts longer audio into pieces whose length depends on the speed of the device, and the cuts decide a few words.
PARTS = [(3.0, 4.0), (0.0, 8.0)]
# tiny.en hears a few words of the samples, which are synthetic speech, as others, on every device.
MOST_WRONG_IN_SAMPLES = 0.25
# A word here and there: a GPU adds numbers in another order than a CPU, and cuts the encoder's window elsewhere.
MOST_DIFFERENT_FROM_CPU = 0.05
# How much of the corpus' words may be wrong beyond the CPU's.
MOST_WORSE_THAN_CPU = 0.02
# Seconds by which the middle one of the words' times may differ from the CPU's.
MOST_TIME_DIFFERENCE = 0.3
# A model whose weights are one large allocation, and the address space that its worker may have, as a share of what the
# smaller model needs. With more, the shader compiler of a device in software runs out of memory instead, and crashes.
LARGE_MODEL = {"WHISPER_MODEL": "base", "COMPUTE_TYPE": "float32"}
SHORTAGE = 0.5
# Processor seconds that a worker has spent on a request when it is killed.
BUSY_SECONDS = 0.3


class Checks:
    """Runs checks, prints a line for each, and counts."""

    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def run(self, name, check):
        begin = time.monotonic()
        result, note = outcome(check)
        self.counts[result] += 1
        print(f"{result:7} {time.monotonic() - begin:6.1f} s  {name}: {note}", flush=True)


def vulkan_devices():
    """Type and name of each Vulkan device, in their order."""
    done = subprocess.run(["vulkaninfo", "--summary"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"vulkaninfo finds no Vulkan device: {done.stderr.strip()[-300:]}")
    kinds = re.findall(r"deviceType\s*=\s*PHYSICAL_DEVICE_TYPE_(\w+)", done.stdout)
    names = re.findall(r"deviceName\s*=\s*(.+)", done.stdout)
    return list(zip(kinds, names, strict=True))


def allow_software(devices):
    """ggml uses no device in software unless this variable names it. Servers pass the variable on to their workers."""
    if all(kind == "CPU" for kind, _ in devices):
        os.environ["GGML_VK_VISIBLE_DEVICES"] = "0"


def used_device(devices):
    """The device that ggml puts first."""
    for kind, name in devices:
        if kind in ("DISCRETE_GPU", "INTEGRATED_GPU"):
            return name
    return devices[0][1]


# Texts by server and recording: several checks need them, and a device in software takes its time.
known_texts = {}


def texts_of(server, clips):
    """The texts of recordings. Each is transcribed once."""
    for clip in clips:
        key = (server.port, clip.path)
        if key not in known_texts:
            known_texts[key] = server.transcribe(clip.path).text()
    return [known_texts[server.port, clip.path] for clip in clips]


def parts_of(clip, folder):
    """Cuts parts out of a recording. What is said in each is not known."""
    parts = []
    for begin, length in PARTS:
        path = pathlib.Path(folder) / f"{clip.path.stem}-{begin:.0f}-{length:.0f}.wav"
        command = ["ffmpeg", "-v", "error", "-y", "-ss", str(begin), "-i", str(clip.path), "-t", str(length)]
        subprocess.run([*command, "-ac", "1", "-ar", "16000", str(path)], check=True)
        parts.append(Clip(path, clip.language, "", length))
    return parts


def check_texts(server, clips):
    rates = []
    for clip in clips:
        reply = server.transcribe(clip.path)
        text = reply.text()
        rate = word_error_rate(clip.text, text)
        rates.append(f"{clip.path.name} {rate:.0%} in {reply.seconds:.1f} s")
        if rate > MOST_WRONG_IN_SAMPLES:
            raise Failure(f"{rate:.0%} of the words of {clip.path.name} are wrong: {text!r}")
    return "words wrong: " + ", ".join(rates)


def check_device_is_named(server, device):
    name = device.split(" (")[0]
    places = {"the log": server.log_text(), "/health": json.dumps(server.health())}
    silent = [place for place, text in places.items() if name.lower() not in text.lower()]
    if silent:
        raise Failure(f"{' and '.join(silent)} does not name the device ({device})")
    return device


def check_memory_is_known(server):
    """Without these numbers, cold workers would start unchecked."""
    names = ["vram_free_gb", "cold_vram_ema_gb", "cold_vram_per_worker_gb"]
    numbers = {}

    def known():
        routing = server.health()["smart_routing"]
        numbers.update({name: routing[name] for name in names})
        return all(numbers.values())

    wait_until("/health does not know the device's memory", known, 30)
    return ", ".join(f"{name} {value:.2f}" for name, value in numbers.items())


def check_repetition(server, clips):
    """Whether an earlier request leaves anything on the device that a later one reads."""
    first = texts_of(server, clips)
    # Long ones after short ones and the other way round, so that every cache was filled by another length.
    orders = [list(range(len(clips))), list(reversed(range(len(clips))))]
    for order in orders:
        for index in order:
            again = server.transcribe(clips[index].path).text()
            if again != first[index]:
                name = clips[index].path.name
                raise Failure(f"{name} has another text when repeated: {difference(first[index], again)}")
    return f"{len(clips)} recordings of 2 to 8 s, each at least three times, after others of other lengths"


def timed_words(server, clip):
    reply = server.transcribe(
        clip.path, response_format="verbose_json", **{"timestamp_granularities[]": ["word", "segment"]}
    )
    reply.text()
    return reply.json()


def word_times(server, clip):
    """Words with times, after a check that they are those of the text, in order and within the audio."""
    answer = timed_words(server, clip)
    timed = answer["words"]
    heard = [word for entry in timed for word in words(entry["word"])]
    if heard != words(answer["text"]):
        raise Failure(f"the words with times are not those of the text: {difference(answer['text'], ' '.join(heard))}")
    times = [time for entry in timed for time in (entry["start"], entry["end"])]
    if times != sorted(times):
        raise Failure(f"the times of the words do not rise: {timed}")
    if times and times[-1] > answer["duration"] + 0.01:
        raise Failure(f"a word ends at {times[-1]} s, after the audio ({answer['duration']} s)")
    return timed


def check_word_times(gpu, cpu, clips):
    apart, count = [], 0
    for clip in clips:
        of_gpu, of_cpu = word_times(gpu, clip), word_times(cpu, clip)
        count += len(of_gpu)
        # Only the same words can be compared.
        if [words(entry["word"]) for entry in of_gpu] == [words(entry["word"]) for entry in of_cpu]:
            apart += [abs(one["start"] - other["start"]) for one, other in zip(of_gpu, of_cpu, strict=True)]
    note = f"{count} words, in order and within the audio"
    if not apart:
        return f"{note}; none of the texts is the CPU's, so times are not compared"
    apart.sort()
    middle = apart[len(apart) // 2]
    note += f"; {len(apart)} starts differ from the CPU's by {middle:.2f} s (median), {apart[-1]:.2f} s (most)"
    if middle > MOST_TIME_DIFFERENCE:
        raise Failure(note)
    return note


def check_killed_worker(server, clip):
    """Kills the worker while it decodes: the request is answered all the same, by another worker."""
    before = texts_of(server, [clip])[0]
    worker = server.workers()[0]
    rested = cpu_seconds(worker)
    replies = []
    request = threading.Thread(target=lambda: replies.append(server.transcribe(clip.path)))
    request.start()
    wait_until("the worker does not start to work", lambda: cpu_seconds(worker) > rested + BUSY_SECONDS, 60)
    if not request.is_alive():
        raise Failure("the request was answered before the worker could be killed: use a longer recording")
    os.kill(worker, 9)
    request.join()
    text = replies[0].text()
    if text != before:
        raise Failure(f"another text after the worker was killed: {difference(before, text)}")
    if worker in server.workers():
        raise Failure("the killed worker still runs")
    return f"answered {replies[0].status} after {replies[0].seconds:.1f} s by another worker, with the same text"


def check_memory_shortage(program, log, settings, usual_kib):
    """Starts a server whose workers lack memory for the weights, then lifts the limit."""
    limit = int(usual_kib * 1024 * SHORTAGE)
    clip = sample_clips("en-command.wav")[0].path
    with Server(program, log, {**settings, **LARGE_MODEL}, limit) as server:

        def reported():
            if not server.is_alive():
                raise Failure(f"the server ended: {server.last_lines()}")
            if server.answers("/readyz"):
                raise Failure(f"the model loads in {limit // MIB} MiB")
            health = server.answers("/health") and server.health()
            return health and health.get("hot_worker_error")

        error = wait_until("/health reports no fault of the worker", reported, 300)
        note = f"with {limit // MIB} MiB {error!r}"
        if "memory" not in error:
            raise Failure(f"memory is not named as the reason: {note}")
        if "OutOfDeviceMemory" not in server.log_text():
            note += ", though not by the device"
        if not server.answers("/livez"):
            raise Failure("the server does not answer /livez")
        status = server.transcribe(clip).status
        if status != 503:
            raise Failure(f"a request without a model is answered {status}, not 503")
        server.lift_limit()
        server.wait_ready()
        server.transcribe(clip).text()
        return f"{note}; requests get 503; ready once there is memory"


def check_cpu_agreement(gpu, cpu, clips):
    """Compares the texts of both devices with each other and, where it is known, with what was said."""
    gpu_texts, cpu_texts = texts_of(gpu, clips), texts_of(cpu, clips)
    of_gpu, of_cpu = " ".join(gpu_texts), " ".join(cpu_texts)
    apart = word_error_rate(of_cpu, of_gpu)
    equal = sum(one == other for one, other in zip(gpu_texts, cpu_texts, strict=True))
    note = f"{equal} of {len(clips)} texts equal, {apart:.1%} of {len(words(of_cpu))} words differ"
    worse = 0.0
    if all(clip.text for clip in clips):
        said = " ".join(clip.text for clip in clips)
        wrong_on_gpu, wrong_on_cpu = word_error_rate(said, of_gpu), word_error_rate(said, of_cpu)
        worse = wrong_on_gpu - wrong_on_cpu
        note += f"; wrong: {wrong_on_gpu:.1%}, on the CPU {wrong_on_cpu:.1%}"
    if apart > MOST_DIFFERENT_FROM_CPU or worse > MOST_WORSE_THAN_CPU:
        raise Failure(f"{note}; {difference(of_cpu, of_gpu)[:400]}")
    return note


def check_segments(gpu, cpu, clip):
    """Reports where both devices end segments; a different place is no fault."""
    ends = []
    for server in (gpu, cpu):
        reply = server.transcribe(clip.path, response_format="verbose_json")
        reply.text()
        ends.append([segment["end"] for segment in reply.json()["segments"]])
    for times in ends:
        if times != sorted(times):
            raise Failure(f"segments do not follow each other: {times}")
    return f"{clip.path.name} ends at {ends[0]} s, with whisper.cpp on the CPU at {ends[1]} s"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--logs", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    program, logs = arguments.program, arguments.logs
    checks = Checks()
    try:
        devices = vulkan_devices()
    except Failure as failure:
        sys.exit(f"error: {failure}")
    allow_software(devices)
    print("Vulkan devices: " + "; ".join(f"{name} ({kind})" for kind, name in devices), flush=True)
    # No cold workers, so that it is known which process decodes.
    common = {"WHISPER_MODEL": MODEL, "COLD_POOL_SIZE": "0"}
    on_gpu = {**common, "DEVICE": "vulkan"}
    samples = sample_clips("en-command.wav", "en-sentence.wav")
    long = sample_clips("en-long.ogg")[0]
    corpus = os.environ.get("STT_CORPUS")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(program, logs / "vulkan.log", on_gpu) as gpu,
        Server(program, logs / "cpu.log", {**common, "DEVICE": "cpu"}) as native,
        Server(program, logs / "whisper-cpp.log", {**common, "DEVICE": "cpu", "ENGINE": "whisper.cpp"}) as plain,
    ):
        short = [samples[0], *parts_of(long, folder)]
        checks.run("model loads", lambda: f"ready after {gpu.wait_ready():.1f} s")
        if not gpu.answers("/readyz"):
            sys.exit(f"error: nothing else can be checked; the log ends with {gpu.last_lines(10)}")
        checks.run("CPU is ready for comparison", lambda: f"{native.wait_ready():.1f} s, {plain.wait_ready():.1f} s")
        checks.run("memory of the device and need of a worker", lambda: check_memory_is_known(gpu))
        checks.run("log and /health name the device", lambda: check_device_is_named(gpu, used_device(devices)))
        checks.run("samples are transcribed", lambda: check_texts(gpu, samples))
        checks.run("a repeated request has the same text", lambda: check_repetition(gpu, short))
        checks.run("words have times", lambda: check_word_times(gpu, native, short))
        checks.run("segments", lambda: check_segments(gpu, plain, samples[1]))
        checks.run("a killed worker loses no request", lambda: check_killed_worker(gpu, short[-1]))
        usual = memory_kib(gpu.workers()[0], "VmPeak")
        checks.run("texts are those of the native engine on the CPU", lambda: check_cpu_agreement(gpu, native, short))
        checks.run("texts are those of whisper.cpp on the CPU", lambda: check_cpu_agreement(gpu, plain, short))
        if corpus:
            clips = corpus_clips(pathlib.Path(corpus), "en", arguments.clips)
            name = f"texts of {len(clips)} recordings of the corpus"
            checks.run(name, lambda: check_cpu_agreement(gpu, native, clips))
    checks.run("a worker that lacks memory", lambda: check_memory_shortage(program, logs / "memory-shortage.log", on_gpu, usual))
    counts = checks.counts
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    sys.exit(counts["failed"] != 0)


if __name__ == "__main__":
    main()
