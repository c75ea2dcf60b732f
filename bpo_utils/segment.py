"""Where words end. White space says it in English, not in Chinese: there each character counts as a word of its own.

Characters instead of words is what BLEU's own tokenization for Chinese does, and it needs no dictionary. So a length of
Chinese text is in characters; a growth (after / before) means the same in both.
"""

import re
from functools import cache
from typing import Any

# Han (with extensions), kana, and the marks between them; Korean has spaces
CJK = "\u3001-\u3003\u3005-\u3011\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff5e\U00020000-\U0003134f"
_CJK = re.compile(f"[{CJK}]")
_PIECE = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")


def words(text: str) -> list[str]:
    """The words of a text: split at white space, as upstream counts them, and each Chinese or Japanese character alone.

    Texts without such characters give `text.split()`.
    """
    return _PIECE.findall(text) if _CJK.search(text) else text.split()


def has_han(text: str) -> bool:
    """Whether a text has a Chinese character."""
    return bool(_HAN.search(text))


def bleu_tokens(text: str) -> list[str]:
    """The tokens that BLEU counts: sacrebleu's `zh` for a text with Chinese characters, else `13a` (mteval-v13a)."""
    return _sacrebleu("zh" if has_han(text) else "13a")(text).split()


@cache
def _sacrebleu(name: str) -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    return {"zh": TokenizerZh, "13a": Tokenizer13a}[name]()
