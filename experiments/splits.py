"""The committed splits: which patient is at which site and in which part, once and for all.

    python -m experiments.splits PATH_TO_DATA      # writes experiments/configs/splits/*.csv

The demo's split is of phantoms, whose names come from their own seed: experiments/demo_patients.py.
Patients of one stratum (a source of the images) are ordered by the SHA-256 of seed and patient, which
no version of a random generator can change, and dealt to the parts in fixed numbers. All files of a
patient stay together. Sites follow one rule in every part, so a site has its own generator, labelled,
validation and test patients.
"""

import argparse
import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.artifact import write_text_atomic

SEED = 20260
SPLITS = Path(__file__).parent / "configs" / "splits"

PARTS = ("generator", "labelled", "validation", "test")
HIPPOCAMPUS_COUNTS = {
    "8-bit": (12, 3, 1, 6),
    "float below 1e4": (37, 8, 4, 19),
    "float above 1e4": (7, 1, 1, 3),
}
BREAST_COUNTS = {"spy1": (17, 3, 2, 11), "spy2": (55, 9, 6, 29)}
FLOAT_BORDER = 1e4
SUBTYPES = ("HER2pos", "HRposHER2neg", "TripleNeg")  # class 0, 1, 2


@dataclass(frozen=True)
class SplitRow:
    """One exam of a split; the fields are the columns of the CSV, ``class_label`` being ``class``."""

    file: str
    patient: str
    site: str
    part: str
    class_label: int | None = None


def hippocampus_split(data: Path, seed: int = SEED) -> list[SplitRow]:
    """Return the split of ``data``/manifest.csv: three sites by source of the images.

    A patient is a ``pair``: the two sides of one person. Site a has the 8-bit images; of the floats
    below 1e4 every part gives the larger half to b and the rest to c, where the floats above are too.
    """
    rows = _read(data / "manifest.csv")
    strata: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        strata[_source(row)].add(row["pair"])
    places: dict[str, tuple[str, str]] = {}
    for stratum, counts in HIPPOCAMPUS_COUNTS.items():
        for part, patients in _deal(strata[stratum], counts, seed).items():
            half = (len(patients) + 1) // 2
            for index, patient in enumerate(patients):
                match stratum:
                    case "8-bit":
                        site = "a"
                    case "float below 1e4":
                        site = "b" if index < half else "c"
                    case _:
                        site = "c"
                places[patient] = (site, part)
    return [SplitRow(row["case"], row["pair"], *places[row["pair"]]) for row in rows]


def breast_split(data: Path, seed: int = SEED) -> list[SplitRow]:
    """Return the split of ``data``/meta.csv: two sites by cohort, three contrast phases an exam.

    Patients whose weak tumour mask is implausible (``weak_ok`` 0) can serve no segmentation, so they
    all go to the generator. The class is the tumour's subtype.
    """
    rows = _read(data / "meta.csv")
    places: dict[str, tuple[str, str]] = {}
    for cohort, counts in BREAST_COUNTS.items():
        ours = [row for row in rows if row["cohort"] == cohort]
        first = [row["pid"] for row in ours if row["weak_ok"] != "1"]
        others = [row["pid"] for row in ours if row["weak_ok"] == "1"]
        parts = _deal(others, (counts[0] - len(first), *counts[1:]), seed)
        places |= dict.fromkeys(first, (cohort, "generator"))
        places |= {patient: (cohort, part) for part, patients in parts.items() for patient in patients}
    return [
        SplitRow(row["pid"], row["pid"], *places[row["pid"]], SUBTYPES.index(row["subtype"])) for row in rows
    ]


def as_csv(rows: Sequence[SplitRow]) -> str:
    """Return the rows, sorted by file, as a patient table."""
    classes = any(row.class_label is not None for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "patient", "site", "part", *(["class"] if classes else [])])
    for row in sorted(rows, key=lambda row: row.file):
        cells = [row.file, row.patient, row.site, row.part, *([row.class_label] if classes else [])]
        writer.writerow(cells)
    return text.getvalue()


def write_splits(data: Path, folder: Path = SPLITS) -> list[Path]:
    """Write both splits of the data in ``data`` and return the files."""
    splits = {
        "hippocampus.csv": hippocampus_split(data / "hippocampus-mri"),
        "breast_dce.csv": breast_split(data / "breast-dce-mri"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_text_atomic(folder / name, as_csv(rows))
    return [folder / name for name in splits]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _source(row: Mapping[str, str]) -> str:
    if row["dtype"] == "uint8":
        return "8-bit"
    return "float below 1e4" if float(row["imax"]) < FLOAT_BORDER else "float above 1e4"


def _deal(patients: Iterable[str], counts: Sequence[int], seed: int) -> dict[str, list[str]]:
    """Return the patients of each part, in seeded order; every patient is dealt.

    Raises:
        ValueError: The counts do not add up to the patients.
    """
    ordered = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest())
    if sum(counts) != len(ordered):
        raise ValueError(f"{len(ordered)} patients cannot be dealt as {counts}: another release of the data?")
    dealt: dict[str, list[str]] = {}
    for part, count in zip(PARTS, counts, strict=True):
        dealt[part], ordered = ordered[:count], ordered[count:]
    return dealt


def main() -> None:
    """Write the splits of the data folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write the committed splits from the real data.")
    parser.add_argument("data", type=Path, help="folder with hippocampus-mri/ and breast-dce-mri/")
    for path in write_splits(parser.parse_args().data):
        print(path)


if __name__ == "__main__":
    main()
