"""Converts a ggml file of Whisper into a checkpoint that openai-whisper loads.

usage: ggml_to_torch.py GGML.bin CHECKPOINT.pt
"""

import struct
import sys

import numpy
import torch
from whisper.model import ModelDimensions, Whisper

MAGIC = 0x67676D6C
TYPES = {0: numpy.float32, 1: numpy.float16}


def integers(file, count):
    return struct.unpack(f"<{count}i", file.read(4 * count))


def skip_filters_and_vocabulary(file):
    bands, bins = integers(file, 2)
    file.seek(4 * bands * bins, 1)
    (tokens,) = integers(file, 1)
    for _ in range(tokens):
        (length,) = integers(file, 1)
        file.seek(length, 1)


def tensors(file):
    """Yields name and values of each tensor up to the end of the file, where the last dimension comes first."""
    while head := file.read(12):
        rank, name_length, kind = struct.unpack("<3i", head)
        shape = integers(file, rank)[::-1]
        name = file.read(name_length).decode()
        if kind not in TYPES:
            sys.exit(f"{name}: cannot convert quantised weights into a checkpoint")
        values = numpy.fromfile(file, TYPES[kind], int(numpy.prod(shape)))
        yield name, torch.from_numpy(values.astype(numpy.float32).reshape(shape))


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        magic, vocabulary, *sizes = integers(file, 12)
        if magic != MAGIC:
            sys.exit(f"{source} is not a ggml file")
        audio_context, audio_state, audio_head, audio_layer, *rest = sizes
        text_context, text_state, text_head, text_layer, bands, _ = rest
        dimensions = ModelDimensions(
            n_mels=bands,
            n_audio_ctx=audio_context,
            n_audio_state=audio_state,
            n_audio_head=audio_head,
            n_audio_layer=audio_layer,
            n_vocab=vocabulary,
            n_text_ctx=text_context,
            n_text_state=text_state,
            n_text_head=text_head,
            n_text_layer=text_layer,
        )
        skip_filters_and_vocabulary(file)
        found = dict(tensors(file))
    # ggml stores biases of convolutions as columns.
    wanted = Whisper(dimensions).state_dict()
    state = {name: found[name].reshape(value.shape) for name, value in wanted.items()}
    torch.save({"dims": vars(dimensions), "model_state_dict": state}, target)


if __name__ == "__main__":
    main()
