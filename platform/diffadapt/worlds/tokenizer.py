"""A tokenizer of whole words for small text encoders: one token a word, one for every word that it does not
know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<start>", "<end>"
MARKS = (PAD, UNKNOWN, START, END)
"""Their positions are their token ids; 2, the legacy id of CLIP's end mark, is not the end mark here."""


def build_tokenizer(words: Sequence[str], max_words: int) -> PreTrainedTokenizerFast:
    """Lower-cased words and single digits; everything else between them is dropped. ``max_words`` counts
    start and end."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: i for i, word in enumerate((*MARKS, *words))}
    assert len(ids) == len(words) + len(MARKS), "a word is listed twice"
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_words,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """``save_pretrained``, naming the class by the name that every version of transformers knows."""
    tokenizer.save_pretrained(str(folder))
    path = Path(folder) / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]):
    """int64 (B, max_words), padded and cut as diffusers' pipelines do."""
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
