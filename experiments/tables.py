r"""A table of an experiment, before it is Markdown, LaTeX or a page.

>>> print(latex_table(Table("", ["arm", "gain"], [["real", "+5 %"]]), "All of it."))
\begin{table}
\caption{All of it.}
\begin{tabular}{ll}
\hline
arm & gain \\
\hline
real & +5 \% \\
\hline
\end{tabular}
\end{table}
<BLANKLINE>
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "²": "\\textsuperscript{2}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        title: What it shows.
        columns: Their names.
        rows: As many cells as there are columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def latex_table(table: Table, caption: str) -> str:
    """Return a table environment that needs no package."""
    head, *body = (" & ".join(map(latex_text, row)) + r" \\" for row in (table.columns, *table.rows))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
            r"\hline",
            head,
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex_text(text: str) -> str:
    """Return text in which nothing means anything to LaTeX."""
    return text.translate(_SPECIAL)
