"""Reads ggml files of Whisper."""

import struct
import sys

import numpy

MAGIC = 0x67676D6C
TYPES = {0: numpy.float32, 1: numpy.float16}
# In the order of the file's header.
SIZES = (
    "n_vocab",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
    "n_mels",
)


def integers(file, count):
    return struct.unpack(f"<{count}i", file.read(4 * count))


def sizes(file):
    """The model's sizes by openai-whisper's names; the first part of the file."""
    magic, *values, _ = integers(file, 12)
    if magic != MAGIC:
        sys.exit(f"{file.name} is not a ggml file")
    return dict(zip(SIZES, values))


def vocabulary(file):
    """Skips the filters, and returns the bytes of each token; the second part of the file."""
    bands, bins = integers(file, 2)
    file.seek(4 * bands * bins, 1)
    (count,) = integers(file, 1)
    return [file.read(*integers(file, 1)) for _ in range(count)]


def tensors(file):
    """Yields name and values of each tensor up to the end of the file, where the last dimension comes first."""
    while head := file.read(12):
        rank, name_length, kind = struct.unpack("<3i", head)
        shape = integers(file, rank)[::-1]
        name = file.read(name_length).decode()
        if kind not in TYPES:
            sys.exit(f"{name}: cannot convert quantised weights")
        values = numpy.fromfile(file, TYPES[kind], int(numpy.prod(shape)))
        yield name, values.astype(numpy.float32).reshape(shape)
