"""The demo's patients: three phantom hospitals, dealt to what training, segmentation and tests need.

Each hospital's first patients are the generator's; the next ones have labels, validate, and are tested. The
table is committed as experiments/configs/splits/demo.csv; the tiny demo writes one of its own.
"""

from pathlib import Path

from common.artifact import write_text_atomic
from experiments.phantom.exam import all_appointments
from experiments.phantom.hospital import HOSPITALS, Hospital
from experiments.phantom.writer import write_hospitals
from experiments.splits import PARTS, SPLITS, SplitRow, as_csv

SEED = 0  # the phantoms of seed 1 served to choose the denoiser's settings
SPLIT = SPLITS / "demo.csv"
_MORE = (5, 1, 12)  # patients of each hospital beside the generator's, in the order of `PARTS`
_TINY = (4, 1, 1, 2)


def demo_split(tiny: bool = False) -> list[SplitRow]:
    """Return which exam is of which patient, hospital and part."""
    rows = []
    for hospital, counts in _counted(tiny):
        parts = [part for part, count in zip(PARTS, counts, strict=True) for _ in range(count)]
        rows += [
            SplitRow(exam.name, exam.patient, hospital.name, parts[exam.index])
            for exam in all_appointments(hospital, SEED)
        ]
    return rows


def write_demo_patients(folder: Path, tiny: bool = False) -> Path:
    """Write all volumes into ``folder`` and return the table that deals them out.

    Raises:
        RunError: ``folder`` holds something else.
    """
    write_hospitals([hospital for hospital, _ in _counted(tiny)], folder, SEED)
    if not tiny:
        return SPLIT
    table = (folder / "split.csv").resolve()  # a site file's paths are meant from its own folder
    write_text_atomic(table, as_csv(demo_split(tiny)))
    return table


def _counted(tiny: bool) -> list[tuple[Hospital, tuple[int, ...]]]:
    """Return each hospital, as large as its parts together, with the patients of each part."""
    found: list[tuple[Hospital, tuple[int, ...]]] = []
    for hospital in HOSPITALS:
        counts = _TINY if tiny else (hospital.num_patients, *_MORE)
        found.append((hospital.model_copy(update={"num_patients": sum(counts)}), counts))
    return found
