"""Converts a ggml file of a multilingual Whisper into a folder that openvino-genai's WhisperPipeline loads.

usage: ggml_to_openvino.py GGML.bin FOLDER

The weights become int8, with a scale and an offset for each row.
"""

import re
import sys
import tempfile

import ggml
import openvino
import tokenizers
import torch
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForSpeechSeq2Seq, OVWeightQuantizationConfig
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS_MULTI
from transformers.models.whisper.tokenization_whisper import LANGUAGES

# Names of openai-whisper, which ggml uses too, as patterns, and those of transformers.
NAMES = {
    r"\.blocks\.": ".layers.",
    r"\.cross_attn": ".encoder_attn",
    r"\.attn": ".self_attn",
    r"attn_ln\.": "attn_layer_norm.",
    r"\.query\.": ".q_proj.",
    r"\.key\.": ".k_proj.",
    r"\.value\.": ".v_proj.",
    r"\.out\.": ".out_proj.",
    r"\.mlp\.0\.": ".fc1.",
    r"\.mlp\.2\.": ".fc2.",
    r"\.mlp_ln\.": ".final_layer_norm.",
    r"\.ln(_post)?\.": ".layer_norm.",
    r"\.positional_embedding$": ".embed_positions.weight",
    r"\.token_embedding\.": ".embed_tokens.",
}


def renamed(name):
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return "model." + name


def filled_model(sizes, found):
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=sizes["n_vocab"],
            num_mel_bins=sizes["n_mels"],
            d_model=sizes["n_text_state"],
            encoder_layers=sizes["n_audio_layer"],
            encoder_attention_heads=sizes["n_audio_head"],
            encoder_ffn_dim=4 * sizes["n_audio_state"],
            decoder_layers=sizes["n_text_layer"],
            decoder_attention_heads=sizes["n_text_head"],
            decoder_ffn_dim=4 * sizes["n_text_state"],
            max_source_positions=sizes["n_audio_ctx"],
            max_target_positions=sizes["n_text_ctx"],
        )
    )
    wanted = model.state_dict()
    found["proj_out.weight"] = found["model.decoder.embed_tokens.weight"]
    # ggml stores biases of convolutions as columns.
    model.load_state_dict({name: found[name].reshape(value.shape) for name, value in wanted.items()})
    return model.eval()


def special_tokens(sizes, first):
    """The numbers of the tokens that follow those of text."""
    languages = [f"<|{language}|>" for language in LANGUAGES][: sizes["n_vocab"] - 51766]
    names = ["endoftext", "startoftranscript"], ["translate", "transcribe", "startoflm", "startofprev", "nospeech"]
    before, after = ([f"<|{name}|>" for name in part] for part in names)
    return {name: first + index for index, name in enumerate([*before, *languages, *after, "<|notimestamps|>"])}


def tokenizer(vocabulary, special):
    """Only for numbers to text: the file has no merges, which a transcription without a prompt does not need."""
    # One visible character for each byte, as in GPT-2: those that print stand for themselves.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        characters.setdefault(byte, chr(256 + len(characters) - len(visible)))
    text = {"".join(characters[byte] for byte in token): index for index, token in enumerate(vocabulary)}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=text, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in special])
    assert all(model.token_to_id(name) == index for name, index in special.items())
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def generation(vocabulary, special):
    end = special["<|endoftext|>"]
    return GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=special["<|startoftranscript|>"],
        begin_suppress_tokens=[vocabulary.index(b" "), end],
        suppress_tokens=NON_SPEECH_TOKENS_MULTI,
        is_multilingual=True,
        lang_to_id={name: index for name, index in special.items() if name.strip("<|>") in LANGUAGES},
        task_to_id={task: special[f"<|{task}|>"] for task in ("transcribe", "translate")},
        prev_sot_token_id=special["<|startofprev|>"],
        no_timestamps_token_id=special["<|notimestamps|>"],
        max_initial_timestamp_index=50,
        max_length=448,
    )


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        sizes = ggml.sizes(file)
        vocabulary = ggml.vocabulary(file)
        found = {renamed(name): torch.from_numpy(values) for name, values in ggml.tensors(file)}
    special = special_tokens(sizes, len(vocabulary))
    with tempfile.TemporaryDirectory() as folder:
        model = filled_model(sizes, found)
        model.generation_config = generation(vocabulary, special)
        model.save_pretrained(folder)
        exported = OVModelForSpeechSeq2Seq.from_pretrained(
            folder, export=True, compile=False, quantization_config=OVWeightQuantizationConfig(bits=8)
        )
        exported.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=sizes["n_mels"]).save_pretrained(target)
    converted = convert_tokenizer(tokenizer(vocabulary, special), with_detokenizer=True)
    for model, name in zip(converted, ("tokenizer", "detokenizer")):
        openvino.save_model(model, f"{target}/openvino_{name}.xml")


if __name__ == "__main__":
    main()
