"""Llama 2's tokenizer as its Hub folder has it, built from the SentencePiece model in $BPO_TOKENIZER_DIR."""

import json
import os
from pathlib import Path

import pytest

FILE = "llama2_tokenizer.model"


def model_file() -> Path:
    """The SentencePiece model, which its licence forbids to copy here; where it is not at hand the test is skipped."""
    folder = os.environ.get("BPO_TOKENIZER_DIR", "")
    if not folder or not (Path(folder) / FILE).is_file():
        pytest.skip(f"BPO_TOKENIZER_DIR names no folder with {FILE} (Llama 2's SentencePiece model)")
    return Path(folder) / FILE


def build(folder: Path) -> Path:
    """Write tokenizer.json and tokenizer_config.json of Llama 2 into `folder`.

    The rules are those of the published tokenizer.json: a space becomes the mark ▁, one mark in front, and pieces are
    joined in the order of their scores.
    """
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file()))
    vocabulary = {pieces.id_to_piece(n): n for n in range(len(pieces))}
    scores = [pieces.get_score(n) for n in range(len(pieces))]
    joins = []
    for piece, place in vocabulary.items():
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        found = [(a, b) for a, b in cuts if a in vocabulary and b in vocabulary]
        joins += [(scores[place], (vocabulary[a], vocabulary[b]), (a, b)) for a, b in found]
    merges = [pair for _, _, pair in sorted(joins, key=lambda join: (-join[0], join[1]))]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in ("<unk>", "<s>", "</s>")])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
