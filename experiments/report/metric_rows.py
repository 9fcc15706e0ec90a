"""Turns nested metrics into rows, each metric with one sentence that says how to read it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FLOOR = "_floor"
INTERVAL = {"estimate", "low", "high"}


@dataclass(frozen=True)
class Meaning:
    """How a metric is called and read.

    Attributes:
        title: Name for a reader.
        sentence: What it says and which way is good.
        unit: Written after the value.
        digits: Decimals.
    """

    title: str
    sentence: str = ""
    unit: str = ""
    digits: int = 3


MEANINGS: dict[str, Meaning] = {
    "psnr": Meaning(
        "PSNR",
        "How small the error of a reconstruction is, mean over patients. Higher is better; "
        "20 dB is a typical error of a tenth of the intensity range.",
        "dB",
        2,
    ),
    "psnr_over_global_mse": Meaning(
        "PSNR over all voxels",
        "The same from one error over all volumes, as many papers report it; never above the mean.",
        "dB",
        2,
    ),
    "ms_ssim": Meaning(
        "MS-SSIM",
        "Likeness of structure at three scales, mean over patients. 1 is identical to the original.",
    ),
    "intensity_std": Meaning(
        "Intensity spread kept",
        "Standard deviation after the codec over that before. 1 is right; far below is a washed-out volume.",
    ),
    "contrast": Meaning(
        "Contrast kept inside the object",
        "Spread of intensities, edges excluded, over that of real volumes. Below 1 is blur.",
    ),
    "high_frequency": Meaning(
        "Fine detail",
        "Share of fast-changing intensity over that of real volumes. Below 1 is blur, far above 1 is noise.",
    ),
    "without_foreground": Meaning(
        "Volumes without an object",
        "Nothing was left in them to measure; they count as no contrast.",
        digits=0,
    ),
    "mmd": Meaning(
        "MMD²",
        "Distance between synthetic and real volumes in a feature space. 0 is no difference, chance makes it "
        "fall on either side of 0, and real against real is the best a generator can hope for.",
        digits=4,
    ),
    "frechet": Meaning(
        "Fréchet distance",
        "Distance of two Gaussians fitted to at most eight components. It depends on the number of volumes: "
        "read it only against its floor.",
        digits=2,
    ),
    "pairwise_ms_ssim": Meaning(
        "Likeness within the set",
        "Mean MS-SSIM of two different volumes. Far above that of real volumes: it repeats itself.",
    ),
}

MEANINGS_OF_LABELS: dict[str, Meaning] = {
    "label_dice": Meaning(
        "Label maps kept",
        "Dice of a class before and after the codec, mean over patients. 1 is identical.",
    ),
    "volume_ml": Meaning("Volume of a class", "Mean over label maps. As of real maps is right.", "ml", 2),
    "volume_sd_ml": Meaning(
        "Spread of the volume",
        "Standard deviation over label maps. Far below that of real maps: all are alike.",
        "ml",
        2,
    ),
    "pieces": Meaning(
        "Pieces of a class", "Mean number of connected pieces; more than in real maps is debris.", "", 2
    ),
    "missing": Meaning("Maps without the class", "Share of label maps that lack it.", digits=2),
}

COUNTS = {"n": "volumes a set", "patients": "patients", "volumes": "volumes"}

PLACES: Mapping[str, str] = {
    "reconstruction": "Reconstruction: what the codec keeps",
    "synthetic": "Synthetic volumes: what the generator makes",
    "labels": "Label maps",
    "random_conv": "untrained network",
    "descriptor": "hand-made descriptor",
}


@dataclass(frozen=True)
class MetricRow:
    """One number.

    Attributes:
        metric: Its name, the key of `MEANINGS`.
        where: The site, extractor or else that it belongs to; may be empty.
        value: The number.
        low: Lower end of its interval, if it has one.
        high: Upper end.
        floor: The same number for real against real, if it has one.
    """

    metric: str
    where: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class MetricSection:
    """The metrics under one top-level key.

    Attributes:
        title: For a reader.
        counted: What the numbers rest on, such as "site a: 12 patients".
        rows: Rows of the same metric follow one another.
    """

    title: str
    counted: tuple[str, ...]
    rows: tuple[MetricRow, ...]


def metric_sections(metrics: Mapping[str, Any]) -> list[MetricSection]:
    """Return a section per top-level key whose value holds numbers; text and lists are not shown."""
    sections = []
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            rows = list(_rows(value, ()))
            order = list(dict.fromkeys(row.metric for row in rows))
            rows.sort(key=lambda row: order.index(row.metric))
            sections.append(MetricSection(place(key), tuple(_counts(value, ())), tuple(rows)))
    return [section for section in sections if section.rows]


def meaning_of(metric: str) -> Meaning:
    """Return how to read a metric; an unknown one is called by its name."""
    return (MEANINGS | MEANINGS_OF_LABELS).get(metric, Meaning(metric.replace("_", " ")))


def number(value: float | None, meaning: Meaning) -> str:
    """Return a number as text; a dash stands for one that is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{meaning.digits}f}".replace("-", "−")


def place(key: str) -> str:
    """Return a key of the nested metrics for a reader."""
    return PLACES.get(key, key.replace("_", " "))


def _rows(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[MetricRow]:
    for key, value in node.items():
        where = ", ".join(place(part) for part in path if part not in {"distances", "texture"})
        floor = _estimate(node.get(key + FLOOR))
        if key.endswith(FLOOR) or key in COUNTS:
            continue
        if _is_number(value):
            yield MetricRow(key, where, float(value), floor=floor)
        elif isinstance(value, Mapping) and value.keys() >= INTERVAL:
            yield MetricRow(key, where, value["estimate"], value["low"], value["high"], floor)
        elif isinstance(value, Mapping) and value.keys() == {"synthetic", "real"}:
            yield MetricRow(key, where, value["synthetic"], floor=value["real"])
        elif isinstance(value, Mapping):
            yield from _rows(value, (*path, key))


def _estimate(value: Any) -> float | None:
    """Return a floor's number, which may have an interval of its own."""
    if isinstance(value, Mapping):
        value = value.get("estimate")
    return float(value) if _is_number(value) else None


def _counts(node: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    own = [f"{node[key]} {name}" for key, name in COUNTS.items() if _is_number(node.get(key))]
    if own:
        where = ", ".join(place(part) for part in path)
        yield f"{where}: {', '.join(own)}" if where else ", ".join(own)
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _counts(value, (*path, key))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
