"""Tiny image-text models with a tokenizer, in the folders that Transformers writes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

WORDS = ("<pad>", "</s>", "a", "photo", "of", "cat", "dog", "woman", "drawing", "<unk>", "<s>", "</e>")
"""Token numbers of the tiny vocabulary, in order: 1 ends SigLIP's sentences, the last one CLIP's."""


def tokenizer_json(kind: str) -> str:
    """A tokenizer of whole words in the ``tokenizers`` library's own format."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "clip":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </e>", special_tokens=[("<s>", numbers["<s>"]), ("</e>", numbers["</e>"])]
        )
    else:
        # Padding that was left switched on must not end up in the sentence.
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.enable_padding(length=20, pad_id=1, pad_token="</s>")
    return tokenizer.to_str()


def image_text_model(kind: str) -> nn.Module:
    """Transformers' CLIP or SigLIP, tiny, with every parameter perturbed."""
    import transformers

    from tests.models.peers import perturb

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 16,
    }
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 8,
        "pad_token_id": 1,
        "bos_token_id": 10,
        "eos_token_id": 11,
    }
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
        return perturb(transformers.CLIPModel(config))
    return perturb(transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text)))


def image_text_folder(kind: str, folder: Path) -> nn.Module:
    """The model, saved with its tokenizer."""
    model = image_text_model(kind)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(kind), encoding="utf-8")
    return model
