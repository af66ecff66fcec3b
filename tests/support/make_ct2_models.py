#!/usr/bin/env python3
"""Makes CTranslate2 Whisper folders with other number formats, with CTranslate2's own code.

usage: make_ct2_models.py SOURCE TARGET QUANTIZATION

SOURCE is a float16 folder (model.bin and tokenizer.json). Its weights are put into a WhisperSpec,
which CTranslate2 then quantises and saves: what is tested are folders as its converters write them.
"""

import pathlib
import shutil
import struct
import sys

import numpy as np
from ctranslate2.specs import whisper_spec

TYPES = ("<f4", "i1", "<i2", "<i4", "<f2")


def read_variables(path):
    """Name to array; enough of the format for a folder that is known to be good."""
    data = path.read_bytes()
    at = 0

    def take(form):
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        length = take("H")
        value = data[at : at + length - 1].decode()
        at += length
        return value

    take("I"), text(), take("I")
    variables = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        variables[name] = np.frombuffer(data, TYPES[kind], offset=at, count=size // np.dtype(TYPES[kind]).itemsize).reshape(shape)
        at += size
    for _ in range(take("I")):
        alias, target = text(), text()
        variables[alias] = variables[target]
    return variables


def assign(spec, name, value):
    """Follows `encoder/layer_0/ffn/...` through the specification's attributes."""
    *path, leaf = name.split("/")
    for part in path:
        head, _, index = part.rpartition("_")
        # Lists are spelt `layer_0`, but some specifications have attributes of that spelling.
        spec = getattr(spec, part) if hasattr(spec, part) else getattr(spec, head)[int(index)]
    setattr(spec, leaf, np.array(value))


def main():
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    quantization = sys.argv[3]
    variables = read_variables(source / "model.bin")
    layers = {side: sum(f"{side}/layer_{i}/ffn/linear_0/weight" in variables for i in range(64)) for side in ("encoder", "decoder")}
    heads = {side: int(variables[f"{side}/num_heads"]) for side in layers}
    spec = whisper_spec.WhisperSpec(layers["encoder"], heads["encoder"], layers["decoder"], heads["decoder"])
    for name, value in variables.items():
        if value.ndim > 0:
            assign(spec, name, value.astype(np.float32))
    words = (source / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    spec.register_vocabulary(words[: spec.get_vocabulary_size()])
    spec.validate()
    spec.optimize(quantization=quantization)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    spec.save(str(partial))
    shutil.copy(source / "tokenizer.json", partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


main()
