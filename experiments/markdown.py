"""Tables of the documentation, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that ends without a line break.

    >>> print(markdown_table(["site", "dB"], [["a", "28.4"]]))
    | site | dB |
    |---|---|
    | a | 28.4 |
    """
    lines = [columns, ["---"] * len(columns)]
    head, rule = f"| {' | '.join(lines[0])} |", f"|{'|'.join(lines[1])}|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)])


def interval_text(interval: Mapping[str, float], digits: int, signed: bool = False) -> str:
    """Return an estimate with its interval.

    >>> interval_text({"estimate": 0.5, "low": -0.25, "high": 1.0}, 2, signed=True)
    '+0.50 [-0.25, +1.00]'
    """
    sign = "+" if signed else ""
    estimate, low, high = (f"{interval[key]:{sign}.{digits}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"
