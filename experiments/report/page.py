"""Renders a run as one HTML file that needs nothing else: no script, no network, no second file.

The page forbids itself to load anything (its content security policy), so that it can be mailed and
opened in a hospital. Everything that comes from outside is escaped.
"""

import base64
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from common.artifact import write_text_atomic
from common.errors import RunError
from experiments.report.charts import line_chart, strokes_of, swatch
from experiments.report.data import Chapter, Picture, ReportData
from experiments.report.history import RunHistory
from experiments.report.metric_rows import MetricSection, metric_sections
from experiments.report.tables import every_round, metric_blocks, plain_table, rounds_by_stage
from experiments.report.words import (
    METRIC_NOTES,
    STAGE_NAMES,
    bytes_in_words,
    duration,
    readable,
    summary,
    training_notes,
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_report(data: ReportData, path: Path) -> Path:
    """Write the report of a run and return its path.

    Args:
        data: What to show.
        path: Such as runs/NAME/report.html; the folder is created, an earlier report replaced.

    Raises:
        RunError: A picture is missing.
        ArtifactError: The disk is full or not writable; an earlier report stays.
    """
    page = _page(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, page)
    return path


def _page(data: ReportData) -> str:
    style = resources.files("experiments.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = (
        _facts(data),
        _curves(data.history),
        _metrics(metric_sections(data.metrics)),
        *map(_chapter, data.chapters),
        _more_pictures(data.pictures[1:]),
        _rounds(data.history),
        _sites_and_sampling(data),
        _limits(data),
        _reproduce(data),
    )
    title = escape(data.study_name)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: fedvox report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'{_header(data)}\n<main class="wide">\n' + "\n".join(filter(None, sections)) + "\n"
        "<footer>Written by fedvox from the run's event log, metrics and pictures. "
        f"Study <code>{escape(data.study_digest)}</code>.</footer>\n</main>\n</body>\n</html>\n"
    )


def _header(data: ReportData) -> str:
    history = data.history
    state = ("state", "finished") if history.finished else ("state open", "not finished")
    began = f" · began {history.started[:16].replace('T', ' ')} UTC" if history.started else ""
    picture = _figure(data.pictures[0]) if data.pictures else ""
    return (
        f'<header><div class="wide"><h1>{escape(data.study_name)}</h1>'
        f'<p class="kicker"><span class="{state[0]}">{state[1]}</span>'
        f"study <code>{escape(data.study_digest[:12])}</code>{escape(began)}</p>"
        f'<p class="summary">{escape(summary(data))}</p>{picture}</div></header>'
    )


def _facts(data: ReportData) -> str:
    rounds = data.history.rounds
    facts = [
        ("sites", str(len(data.history.sites) or len(data.site_sizes))),
        *(
            (f"{readable(stage)} rounds", str(sum(row.stage == stage for row in rounds)))
            for stage in data.history.stages
        ),
        ("training time", duration(sum(row.seconds for row in rounds))),
        ("sent and received", bytes_in_words(sum(row.bytes_up + row.bytes_down for row in rounds))),
        ("synthetic volumes", str(data.num_synthetic)),
    ]
    cards = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{"".join(cards)}</dl>'


def _curves(history: RunHistory) -> str:
    strokes = strokes_of(history.sites)
    blocks = []
    for stage in history.stages:
        of_stage = [curve for curve in history.curves if curve.stage == stage]
        charts = []
        for metric in sorted({c.metric for c in of_stage}, key=lambda name: (name != "loss", name)):
            name = readable(metric)
            label = f"{name} per round and site"
            chart = line_chart([c for c in of_stage if c.metric == metric], strokes, label)
            if chart:
                charts.append(f"<figure><figcaption>{escape(name)}</figcaption>{chart}</figure>")
        if charts:
            heading = escape(STAGE_NAMES.get(stage, stage))
            blocks.append(f'<h3>{heading}</h3><div class="charts">{"".join(charts)}</div>')
    if not blocks:
        return ""
    legend = "".join(f"<li>{swatch(stroke)}{escape(site)}</li>" for site, stroke in strokes.items())
    return (
        '<section><h2>Training at each site</h2><p class="dim">Means over the local steps of each round, '
        f'on the site\'s own volumes.</p><ul class="legend">{legend}</ul>{"".join(blocks)}</section>'
    )


def _metrics(sections: Sequence[MetricSection]) -> str:
    return "".join(
        f"<section><h2>{escape(section.title)}</h2>{_counted(section)}{metric_blocks(section)}</section>"
        for section in sections
    )


def _counted(section: MetricSection) -> str:
    return f'<p class="dim">Measured on {escape("; ".join(section.counted))}.</p>' if section.counted else ""


def _chapter(chapter: Chapter) -> str:
    words = "".join(f'<p class="dim">{escape(text)}</p>' for text in chapter.paragraphs)
    tables = "".join(
        f"<h3>{escape(table.title)}</h3>{plain_table(table.columns, table.rows)}" for table in chapter.tables
    )
    return f"<section><h2>{escape(chapter.title)}</h2>{words}{_figure(chapter.picture)}{tables}</section>"


def _more_pictures(pictures: Sequence[Picture]) -> str:
    figures = "".join(f"<h3>{escape(picture.title)}</h3>{_figure(picture)}" for picture in pictures)
    return f'<section class="more"><h2>More pictures</h2>{figures}</section>' if figures else ""


def _figure(picture: Picture) -> str:
    try:
        content = base64.b64encode(picture.path.read_bytes()).decode()
    except OSError:
        raise RunError(f"{picture.path} of the report is missing", "draw the montage again") from None
    return (
        f'<figure><div class="pan"><img src="data:image/png;base64,{content}" alt="{escape(picture.title)}">'
        f"</div><figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _rounds(history: RunHistory) -> str:
    if not history.rounds:
        return ""
    incidents = "".join(f"<li>{escape(text)}</li>" for text in history.incidents)
    return (
        f"<section><h2>Rounds, time and traffic</h2>{rounds_by_stage(history)}"
        f"<details><summary>Every round</summary>{every_round(history)}</details>"
        + (f'<h3>Incidents</h3><ul class="plain">{incidents}</ul>' if incidents else "")
        + "</section>"
    )


def _sites_and_sampling(data: ReportData) -> str:
    blocks = []
    if data.site_sizes:
        kinds = list(dict.fromkeys(kind for sizes in data.site_sizes.values() for kind in sizes))
        sites = [
            [site, *(str(own.get(kind, "–")) for kind in kinds)] for site, own in data.site_sizes.items()
        ]
        blocks.append(f"<div><h2>Sites</h2>{plain_table(('site', *kinds), sites)}</div>")
    if data.sampler:
        settings = [(readable(name), str(value)) for name, value in data.sampler.items()]
        blocks.append(f"<div><h2>Sampling</h2>{plain_table(('setting', 'value'), settings)}</div>")
    return f'<section class="pair">{"".join(blocks)}</section>' if blocks else ""


def _limits(data: ReportData) -> str:
    notes = (*data.notes, *training_notes(data.promise), *(METRIC_NOTES if data.metrics else ()))
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section><h2>What these results do not say</h2><ul class="plain">{items}</ul></section>'


def _reproduce(data: ReportData) -> str:
    versions = plain_table(("package", "version"), list(data.versions.items()))
    return (
        "<section><h2>To do it again</h2><p>With this study, these versions, the same volumes and the same "
        "machine, the run comes out the same.</p>"
        f"<details><summary>Versions</summary>{versions}</details>"
        f"<details><summary>study.yaml</summary><pre>{escape(data.study_yaml)}</pre></details></section>"
    )
