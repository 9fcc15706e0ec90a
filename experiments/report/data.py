"""Everything a report shows. It is filled from a run folder; the page knows no files but pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.report.history import RunHistory
from experiments.tables import Table


@dataclass(frozen=True)
class Picture:
    """A PNG of the report.

    Attributes:
        path: The file; its bytes are copied into the page.
        title: What it shows.
        caption: What to look for.
    """

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Chapter:
    """Something that a run was good for, with its figures.

    Attributes:
        title: What it is about.
        paragraphs: What has to be known of the tables.
        tables: Of text.
        picture: Of the same figures.
    """

    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...]
    picture: Picture


@dataclass(frozen=True)
class ReportData:
    """A run, ready to be shown.

    Attributes:
        study_name: Name of the study.
        study_digest: Its SHA-256.
        study_yaml: The resolved study, as text.
        history: Rounds, curves and incidents.
        versions: Package and version.
        metrics: Nested mappings; the leaves that are numbers or intervals (``estimate``, ``low``,
            ``high``) are shown. ``NAME_floor`` beside ``NAME`` is the same for real against real.
        pictures: The first one opens the page.
        site_sizes: What each site brought, by site and kind, where that is public.
        sampler: How the synthetic volumes were drawn, in words.
        num_synthetic: How many there are.
        promise: What the study promises of differential privacy, if it does; see `server.promise`.
        notes: Limits of this run that a reader has to know, a sentence or two each.
        chapters: What its volumes were good for.
    """

    study_name: str
    study_digest: str
    study_yaml: str
    history: RunHistory
    versions: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    site_sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    num_synthetic: int = 0
    promise: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()
