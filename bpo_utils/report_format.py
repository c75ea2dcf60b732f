"""How a number is written: its unit follows from its name, and both languages write it alike.

Values are as in the results files: shares and net wins are fractions. A typed "%" never follows a placeholder, the unit
is part of the number.
"""

import re
from dataclasses import dataclass

MINUS = "\u2212"
SPACE = "\u00a0"  # does not break: what belongs together stays on one line
KINDS = ("points", "width", "percent", "count", "p", "plain", "text")
# A text is text, a whole number a count; for others the first rule that the name matches decides, else plain.
RULES = (
    ("plain", r"[._]learning_rate$"),
    ("p", r"\.(p|p_holm|p_value)$"),
    ("width", r"(^|[._])(smallest_detectable|se|se_derived)$|^paper\.claims\..*_se$"),
    ("percent", r"\.(lc_(win_score|low|high|raw|longer)|(win|average)_score(_low|_high)?)$"),
    ("percent", r"^mini\.embodied\.(rows|curve)\..*\.(mean|ci_low|ci_high)$"),
    ("points", r"[._](net_win|difference|dwr|dwr_\w+|ci_low|ci_high|gain)$"),
    ("points", r"^mini\.cards\..*\.(ours|low|high|value|band\.\d)$"),
    ("points", r"^mini\.(iterate|align)\..*\.(mean|low|high|spread\.\d+)$"),
    ("points", r"^mini\.search\..*\.(gain_low|gain_high|minus_\w+)$"),
    ("percent", r"^mini\.search\..*\.(test|dev|blind_test|blind_dev|regret)$"),
    ("points", r"^paper\.t\d+\..*\.(vicuna|self_instruct|dolly|bpo_test)$"),
    ("points", r"^paper\.figure7\..*\.(vicuna|self_instruct|dolly|bpo_test|mean)$"),
    ("percent", r"^paper\..*\.(vic|si|dol|bpo|a|b)_(a|b|tie|win)$|^paper\.figure1\..*\.tie$"),
    ("percent", r"\.(A|B|C|invalid|refused|unchanged|longer_wins|longest_agreement|accuracy|noise)$"),
    ("percent", r"[._](share|rate|accuracy|fraction)$|\.share_\w+$|^mini\.rewriter\.(?!n_|growth)"),
)


@dataclass(frozen=True)
class Number:
    """One named value. `file` says where a run has it, `source` (in both languages) where it was published.

    `key` is the top-level key of the file, which tells the cell that wrote it.
    """

    name: str
    value: object
    kind: str
    file: str = ""
    key: str = ""
    source: dict[str, str] | None = None
    digits: int | None = None


def kind_of(name: str, value: object) -> str:
    """The unit of a name, one of KINDS."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "text"
    if isinstance(value, int):
        return "count"
    return next((kind for kind, pattern in RULES if re.search(pattern, name)), "plain")


def text(number: Number, filters: tuple[str, ...] = (), language: str = "en") -> str:
    """A number as it stands in the report. `filters`: a kind, `digits=N`. Raises ValueError for a wrong filter."""
    kind, digits = number.kind, number.digits
    for each in filters:
        if found := re.fullmatch(r"digits=(\d)", each):
            digits = int(found[1])
        elif each in KINDS:
            kind, digits = each, None if each != number.kind else digits
        else:
            raise ValueError(f"no filter {each!r}; there are ci, digits=N, {', '.join(KINDS)}")
    if isinstance(number.value, dict):
        return number.value[language]
    if number.kind == "count" and kind in ("percent", "points", "width"):
        raise ValueError(f"{number.value} is a count and no share; take another number or leave {kind} out")
    if kind == "text" or not isinstance(number.value, int | float):
        return str(number.value)
    return written(float(number.value), kind, digits)


def interval(number: Number, low: Number, high: Number, filters: tuple[str, ...] = ()) -> str:
    """`+40.0 [+34.8, +45.2]`, kept on one line; a percent sign stands once, behind."""
    middle, *ends = (text(each, filters or (number.kind,)) for each in (number, low, high))
    sign = f"{SPACE}%"
    if middle.endswith(sign):
        middle, *ends = (part.removesuffix(sign) for part in (middle, *ends))
        return f"{middle}{SPACE}[{ends[0]},{SPACE}{ends[1]}]{sign}"
    return f"{middle}{SPACE}[{ends[0]},{SPACE}{ends[1]}]"


def written(value: float, kind: str, digits: int | None = None) -> str:
    """A value in one unit: points and percent have one digit after the point, plain three significant ones."""
    if value != value:
        return "–"
    if kind == "points":
        shown = f"{100 * value:+.{1 if digits is None else digits}f}"
        return shown.replace("-", MINUS) if float(shown) else shown.strip("+-")
    if kind == "width":
        return f"{100 * value:z.{1 if digits is None else digits}f}".replace("-", MINUS)
    if kind == "percent":
        return f"{100 * value:z.{1 if digits is None else digits}f}{SPACE}%".replace("-", MINUS)
    if kind == "count":
        return f"{value:,.{digits or 0}f}".replace("-", MINUS)
    if kind == "p":
        limit = 10 ** -(digits or 3)
        return f"<{SPACE}{limit:g}" if value < limit else f"{value:.2g}" if digits is None else f"{value:.{digits}f}"
    return _plain(value, digits)


def _plain(value: float, digits: int | None) -> str:
    if digits is not None:
        return f"{value:,.{digits}f}".replace("-", MINUS)
    shown = f"{value:.3g}"
    if "e" in shown:
        if abs(value) >= 1000:
            return f"{value:,.0f}".replace("-", MINUS)
        mantissa, exponent = shown.split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa}{SPACE}×{SPACE}10{power}".replace("-", MINUS)
    return shown.replace("-", MINUS)
