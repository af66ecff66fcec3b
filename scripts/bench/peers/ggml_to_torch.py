"""Converts a ggml file of Whisper into a checkpoint that openai-whisper loads.

usage: ggml_to_torch.py GGML.bin CHECKPOINT.pt
"""

import sys

import ggml
import torch
from whisper.model import ModelDimensions, Whisper


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        dimensions = ModelDimensions(**ggml.sizes(file))
        ggml.vocabulary(file)
        found = {name: torch.from_numpy(values) for name, values in ggml.tensors(file)}
    # ggml stores biases of convolutions as columns.
    wanted = Whisper(dimensions).state_dict()
    state = {name: found[name].reshape(value.shape) for name, value in wanted.items()}
    torch.save({"dims": vars(dimensions), "model_state_dict": state}, target)


if __name__ == "__main__":
    main()
