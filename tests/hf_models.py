"""Micro models of transformers, as the folders that people have, made without a network."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TEXTS = ["a photo of a cat", "A somewhat longer photo of a very small Dog, at night!", "it's 3 o'clock", ""]
WORDS = ["a photo of a cat.", "two dogs and a church at night", "x x x x it's a sunflower, or a hat", "The quick fox"]
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.25, 0.27]

CLIP_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "vocab_size": 49408,
    "eos_token_id": 49407,
    "projection_dim": 16,
}
CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 16,
}


def stirred(model: Any) -> Any:
    """Gives a fresh model weights of useful size: its biases are zero and its positions almost."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's own vocabulary and merges, from the copy that comes with open_clip."""
    own = open_clip.SimpleTokenizer()
    source = Path(open_clip.tokenizer.default_bpe())
    merges = gzip.decompress(source.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in own.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 24, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_siglip_tokenizer(folder: Path) -> int:
    """A sentencepiece model trained on a few words; gives the size of its vocabulary."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in WORDS] * 20),
        model_writer=made,
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=3,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(made.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    return 128


def write_gemma_tokenizer(folder: Path) -> int:
    """A tokenizer of single letters, built as Gemma's; gives the size of its vocabulary."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!'"]
    vocabulary = {token: number for number, token in enumerate([*specials, *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Replace("▁", " ")
    made.post_processor = processors.TemplateProcessing("$A <eos>", "$A <eos> $B <eos>", [("<eos>", 1)])
    made.add_special_tokens(specials)
    made.save(str(folder / "tokenizer.json"))
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": False,
        "add_eos_token": True,
        "padding_side": "right",
        **tokens,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def write_clip(folder: Path, **text: Any) -> Any:
    """A `CLIPModel` of random weights with all its files, as transformers writes it; gives the model."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config={**CLIP_TEXT, **text}, vision_config=CLIP_VISION, projection_dim=16)
    model = stirred(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    write_clip_tokenizer(folder)
    write_preprocessor(folder, size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    return model


def write_siglip(folder: Path, *, second: bool = False) -> Any:
    """A `SiglipModel`, with SigLIP's tokenizer or the one of SigLIP2; gives the model."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    size = write_gemma_tokenizer(folder) if second else write_siglip_tokenizer(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**tower, "vocab_size": size, "max_position_embeddings": 64},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
    )
    model = stirred(transformers.SiglipModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-9.0)
    model.save_pretrained(folder)
    write_preprocessor(folder, size={"height": 32, "width": 32})
    return model


def write_preprocessor(folder: Path, **values: Any) -> None:
    """`preprocessor_config.json` with these values beside the usual ones."""
    usual = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
    settings = {**usual, "image_mean": MEAN, "image_std": STD, **values}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
