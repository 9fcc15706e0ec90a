"""The report's tables as HTML: metrics, rounds, and plain ones. Every cell is escaped."""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from html import escape

from experiments.report.history import RoundRow, RunHistory
from experiments.report.metric_rows import Meaning, MetricRow, MetricSection, meaning_of, number
from experiments.report.words import STAGE_NAMES, bytes_in_words, duration

_TEXT_COLUMNS = ("reports that counted (training time)", "value", "version")


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column and columns of words stand left, numbers right."""
    align = ['class="num"' if i and name not in _TEXT_COLUMNS else "" for i, name in enumerate(columns)]
    head = "".join(f'<th scope="col" {a}>{escape(c)}</th>' for a, c in zip(align, columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td {a}>{escape(cell)}</td>' for a, cell in zip(align, row, strict=True))}</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def metric_blocks(section: MetricSection) -> str:
    """Return a block per metric: its name and how to read it, beside its values by site or extractor."""
    blocks = []
    for metric, rows in itertools.groupby(section.rows, key=lambda row: row.metric):
        meaning = meaning_of(metric)
        sentence = f"<p>{escape(meaning.sentence)}</p>" if meaning.sentence else ""
        values = "".join(_metric_row(row, meaning) for row in rows)
        blocks.append(
            f'<div class="metric"><div><h3>{escape(meaning.title)}</h3>{sentence}</div>'
            f"<table><tbody>{values}</tbody></table></div>"
        )
    return f'<div class="metrics">{"".join(blocks)}</div>'


def rounds_by_stage(history: RunHistory) -> str:
    """Return what each stage cost."""
    columns = ("stage", "rounds", "time", "median round", "sent by sites", "sent to sites")
    return plain_table(
        columns, [_total(stage, [r for r in history.rounds if r.stage == stage]) for stage in history.stages]
    )


def every_round(history: RunHistory) -> str:
    """Return what each round cost and whose reports counted."""
    columns = ("stage", "round", "time", "sent by sites", "sent to sites", _TEXT_COLUMNS[0])
    return plain_table(
        columns,
        [
            (
                STAGE_NAMES.get(row.stage, row.stage),
                str(row.round_index),
                duration(row.seconds),
                bytes_in_words(row.bytes_up),
                bytes_in_words(row.bytes_down),
                ", ".join(f"{site} ({duration(seconds)})" for site, seconds in sorted(row.sites.items())),
            )
            for row in history.rounds
        ],
    )


def _metric_row(row: MetricRow, meaning: Meaning) -> str:
    """Return a row whose cells say what they are, so that it can be read without a head."""
    unit = f" {meaning.unit}" if meaning.unit else ""
    ends = f"{number(row.low, meaning)} to {number(row.high, meaning)}"
    value = number(row.value, meaning) + unit
    interval = f"95 %: {ends}{unit}" if row.low is not None else ""
    floor = f"real against real {number(row.floor, meaning)}{unit}" if row.floor is not None else ""
    return (
        f'<tr><th scope="row">{escape(row.where or "all volumes")}</th>'
        f'<td class="num value">{escape(value)}</td>'
        f'<td class="dim">{escape(interval)}</td><td class="dim">{escape(floor)}</td></tr>'
    )


def _total(stage: str, rows: Sequence[RoundRow]) -> tuple[str, ...]:
    return (
        STAGE_NAMES.get(stage, stage),
        str(len(rows)),
        duration(sum(row.seconds for row in rows)),
        duration(statistics.median(row.seconds for row in rows)),
        bytes_in_words(sum(row.bytes_up for row in rows)),
        bytes_in_words(sum(row.bytes_down for row in rows)),
    )
