"""The one way from a sentence to a text tower's input, by the tokenizer that travels with the model."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from vitrail.contracts import VitrailError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CleanName = Literal["none", "lower", "canonical"]


def keep(text: str) -> str:
    """As it is: the tokenizer does all that is wanted."""
    return text


def lower(text: str) -> str:
    """Without capitals."""
    return text.lower()


def canonical(text: str) -> str:
    """Without capitals and punctuation, single spaces: what SigLIP was trained on (Zhai et al. 2022, appendix C)."""
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", plain).strip()


CLEANS: dict[CleanName, Callable[[str], str]] = {"none": keep, "lower": lower, "canonical": canonical}


class TextTokenizer:
    """Sentences to token numbers.

    Args:
        files: the tokenizer by file name: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` (CLIP's).
        context_length: tokens of every sentence; longer ones are cut, the end token kept.
        vocab_size: token numbers that the model has.
        end_token: stands behind the last word.
        pad_token: fills the rest.
        clean: what is done before.

    Raises:
        VitrailError: no tokenizer, one that cannot be read, or the library for it is missing.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        context_length: int,
        vocab_size: int,
        end_token: int,
        pad_token: int,
        clean: CleanName = "none",
    ) -> None:
        self.context_length = context_length
        self.end_token = end_token
        self.pad_token = pad_token
        self.clean = CLEANS[clean]
        self.tokenizer = _read(files)
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        if size > vocab_size:
            raise VitrailError(f"the tokenizer has {size} tokens but the model knows {vocab_size}: it is another one's")

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "t l"]:
        """Token numbers ``(T, context_length)``.

        Raises:
            VitrailError: no texts.
        """
        if not texts:
            raise VitrailError("there are no texts to tokenize")
        rows = [self._row(encoding.ids) for encoding in self.tokenizer.encode_batch([self.clean(t) for t in texts])]
        return torch.tensor(rows)

    def _row(self, ids: list[int]) -> list[int]:
        # A tokenizer that was saved with its padding switched on has filled the row already.
        if self.end_token in ids:
            ids = ids[: ids.index(self.end_token)]
        ids = [*ids[: self.context_length - 1], self.end_token]
        return ids + [self.pad_token] * (self.context_length - len(ids))


def _read(files: Mapping[str, str]) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise VitrailError("texts need the tokenizers package: pip install 'vitrail[text]'") from error
    try:
        if "tokenizer.json" in files:
            tokenizer = Tokenizer.from_str(files["tokenizer.json"])
        elif {"vocab.json", "merges.txt"} <= files.keys():
            tokenizer = _byte_pairs(files["vocab.json"], files["merges.txt"])
        else:
            raise VitrailError(
                "the model came without its tokenizer: put tokenizer.json (or vocab.json and merges.txt) beside its "
                "weights, where its authors publish them"
            )
    except VitrailError:
        raise
    except Exception as error:  # The library raises nothing narrower.
        raise VitrailError(f"the tokenizer cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = rf"{re.escape(START)}|{re.escape(END)}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
"""What a word is to CLIP: a contraction, letters, one digit, or a run of signs."""


def _byte_pairs(vocabulary: str, merges: str) -> Tokenizer:
    """CLIP's tokenizer from its two files (Radford et al. 2021, section 2.4: lower-cased byte pairs)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = json.loads(vocabulary)
    lines = [line.split() for line in merges.splitlines() if line and not line.startswith("#version")]
    pairs = [(left, right) for left, right in lines]
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=pairs, end_of_word_suffix="</w>", unk_token=END))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_of])
    tokenizer.add_special_tokens([START, END])
    ends = ((END, numbers[END]), (START, numbers[START]))
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return tokenizer
