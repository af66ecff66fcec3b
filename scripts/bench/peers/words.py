"""Writes words and their timestamps by faster-whisper, for examples/measure_words.

usage: words.py MODEL CLIPS TABLE [--threads N]

TABLE gets one line for each word: clip, word, start, end. The name of a clip begins with its language.
"""

import argparse
import pathlib

from faster_whisper import WhisperModel

arguments = argparse.ArgumentParser()
arguments.add_argument("model")
arguments.add_argument("clips", type=pathlib.Path)
arguments.add_argument("table", type=pathlib.Path)
arguments.add_argument("--threads", type=int, default=2)
options = arguments.parse_args()

model = WhisperModel(options.model, device="cpu", compute_type="int8", cpu_threads=options.threads)
with options.table.open("w") as table:
    for clip in sorted(options.clips.glob("*.wav")):
        language = clip.name.split("-")[0]
        segments, _ = model.transcribe(str(clip), language=language, beam_size=1, word_timestamps=True)
        for segment in segments:
            for word in segment.words:
                table.write(f"{clip.name}\t{word.word}\t{word.start:.3f}\t{word.end:.3f}\n")
