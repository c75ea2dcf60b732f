"""Which language a text is in, by py3langid (character n-grams, no network), among the languages people often write.

Without that limit short English prompts come out as Latin or as Nigerian Pidgin: 10 of 580 real ones, 2 with it.
"""

from functools import cache
from typing import Any

COMMON = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja"),
    *("ko", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh"),
)
SURE = 0.9  # a prompt of a few words is often unclear; below this nobody should act on the answer


def language(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, probability) of the most probable language in COMMON; ("", 0.0) for a text without letters."""
    if not any(letter.isalpha() for letter in text):
        return "", 0.0
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def surely_other(text: str, wanted: list[str]) -> str:
    """The language of a text that is surely in none of `wanted`, with its probability; empty for all others.

    Raises ValueError for a wanted language that is not in COMMON.
    """
    if unknown := sorted(set(wanted) - set(COMMON)):
        raise ValueError(f"languages {unknown} are not told apart here; there are {', '.join(COMMON)}")
    code, probability = language(text)
    return f"{code} {probability:.2f}" if probability >= SURE and code not in wanted else ""


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages(list(COMMON))
    return found
