"""Which exam is whose: the site's patient table, or one patient per exam without it.

The table is a CSV with the columns ``file`` and ``patient`` and, if wanted, ``class`` (a whole number
from 0 that the denoiser is conditioned on), ``site`` and ``part``. ``file`` is an exam's name or the
name of one of its files. Privacy and every split count patients, so the table is taken literally:
an exam that it does not name, or a row that names nothing, is refused.
"""

import csv
import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.exam_folder import ExamFiles, stem_of
from client.site_config import Selection
from common.errors import DuplicatePatientError, EmptyDatasetError, PatientTableError

REQUIRED = ("file", "patient")
OPTIONAL = ("class", "site", "part")


@dataclass(frozen=True)
class TableRow:
    """One line of the table; ``line`` is its number in the file, the header being 1."""

    line: int
    file: str
    patient: str
    class_label: int | None
    site: str | None
    part: str | None


def read_patient_table(path: Path) -> tuple[TableRow, ...]:
    """Return the rows of a patient table.

    Raises:
        PatientTableError: The file cannot be read as such a table.
        DuplicatePatientError: A patient stands in two sites or two parts.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise PatientTableError(f"{path}: {error.strerror}", "check `patients` in the site file") from None
    except UnicodeDecodeError:
        raise PatientTableError(f"{path} is not text in UTF-8", "save it as CSV (UTF-8)") from None
    reader = csv.DictReader(lines, restkey="", restval="", skipinitialspace=True)
    _check_columns(path, list(reader.fieldnames or []))
    rows = tuple(_row(path, reader.line_num, cells) for cells in reader)
    if not rows:
        raise PatientTableError(f"{path} has no row below its header", "give one row per exam")
    _refuse_repeated_patients(path, rows)
    return rows


def assign_patients(
    exams: Sequence[ExamFiles], rows: Sequence[TableRow], table: Path, select: Selection | None
) -> dict[str, TableRow]:
    """Return the row of each selected exam, by exam name.

    Rows outside the selection may name files that lie at other sites; they still count as known.

    Raises:
        PatientTableError: An exam without a row, a selected row without an exam, two rows that
            disagree about one exam, or a selection by a column that the table has not.
        EmptyDatasetError: The selection leaves no row.
    """
    names = _names(exams)
    described: dict[str, TableRow] = {}
    assigned: dict[str, TableRow] = {}
    for row in rows:
        exam = names.get(Path(row.file).name)
        selected = _is_selected(row, table, select)
        if exam is None:
            if selected:
                raise _names_nothing(row, table, names)
            continue
        other = described.setdefault(exam, row)
        if other is not row and (other.file == row.file or _facts(other) != _facts(row)):
            raise PatientTableError(
                f"{table} lines {other.line} and {row.line} both describe exam {exam}", "keep one of them"
            )
        if selected:
            assigned[exam] = row
    unknown = next((exam for exam in exams if exam.exam not in described), None)
    if unknown is not None:
        raise PatientTableError(
            f"{unknown.files[0]} is not in the patient table {table}",
            f"add a row for {unknown.exam}, or take the file out of the folder",
        )
    if not assigned:
        raise EmptyDatasetError(f"{table} has no row for {select}", _choices(rows))
    return assigned


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [column for column in REQUIRED if column not in columns]
    if missing:
        hint = "separate columns by commas" if any(";" in c or "\t" in c for c in columns) else ""
        raise PatientTableError(
            f"{path} has no column '{missing[0]}'; its header reads: {', '.join(columns) or 'nothing'}",
            hint or f"needed: {', '.join(REQUIRED)}; known: {', '.join(OPTIONAL)}",
        )
    unknown = [column for column in columns if column not in (*REQUIRED, *OPTIONAL)]
    if unknown:
        raise PatientTableError(
            f"{path} has a column '{unknown[0]}' that means nothing here",
            f"keep only {', '.join((*REQUIRED, *OPTIONAL))}",
        )
    if len(set(columns)) != len(columns):
        raise PatientTableError(f"{path} names a column twice: {', '.join(columns)}", "keep one of them")


def _row(path: Path, line: int, cells: Mapping[str, str]) -> TableRow:
    if "" in cells:
        raise PatientTableError(f"{path} line {line} has more cells than the header", "quote commas in names")
    stripped = {column: cell.strip() for column, cell in cells.items()}
    # One person, however an umlaut was typed; a file's name is what the disk says.
    stripped["patient"] = unicodedata.normalize("NFC", stripped["patient"])
    empty = [column for column in REQUIRED if not stripped[column]]
    if empty:
        raise PatientTableError(f"{path} line {line} has no {empty[0]}", "fill the cell, or remove the row")
    label = stripped.get("class", "")
    if label and not (label.isascii() and label.isdecimal()):
        raise PatientTableError(
            f"{path} line {line} has class '{label}'", "number classes from 0, or leave the cell empty"
        )
    return TableRow(
        line=line,
        file=stripped["file"],
        patient=stripped["patient"],
        class_label=int(label) if label else None,
        site=stripped.get("site") or None,
        part=stripped.get("part") or None,
    )


def _refuse_repeated_patients(path: Path, rows: Sequence[TableRow]) -> None:
    """Refuse a patient who stands in two sites or two parts: splits are by patient, always."""
    first: dict[str, TableRow] = {}
    for row in rows:
        other = first.setdefault(row.patient, row)
        if (other.site, other.part) != (row.site, row.part):
            places = " and ".join(f"{r.site or 'no site'}, {r.part or 'no part'}" for r in (other, row))
            raise DuplicatePatientError(
                f"{path} lines {other.line} and {row.line} put patient {row.patient} in two places: {places}",
                "keep all files of a patient at one site and in one part",
            )


def _names(exams: Sequence[ExamFiles]) -> dict[str, str]:
    """Return every name that ``file`` may use for an exam; the exam's own name comes first."""
    names: dict[str, str] = {}
    for exam in exams:
        for path in exam.files:
            names[path.name] = exam.exam
            names[stem_of(path)] = exam.exam
    return {**names, **{exam.exam: exam.exam for exam in exams}}


def _is_selected(row: TableRow, table: Path, select: Selection | None) -> bool:
    if select is None:
        return True
    for column, wanted, value in (("site", select.site, row.site), ("part", select.part, row.part)):
        if wanted is not None and value is None:
            raise PatientTableError(
                f"{table} line {row.line} has no {column}, and the site file selects by it",
                f"fill the column {column}, or drop select.{column}",
            )
    return select.site in (None, row.site) and (select.part is None or row.part in select.part)


def _facts(row: TableRow) -> tuple[str, int | None, str | None, str | None]:
    return row.patient, row.class_label, row.site, row.part


def _names_nothing(row: TableRow, table: Path, names: Mapping[str, str]) -> PatientTableError:
    nearest = difflib.get_close_matches(row.file, names, n=1)
    remedy = f"did you mean '{nearest[0]}'?" if nearest else "bring the file, or remove the row"
    return PatientTableError(f"{table} line {row.line}: the folder has no file '{row.file}'", remedy)


def _choices(rows: Sequence[TableRow]) -> str:
    sites = ", ".join(sorted({row.site for row in rows if row.site})) or "none"
    parts = ", ".join(sorted({row.part for row in rows if row.part})) or "none"
    return f"sites in the table: {sites}; parts: {parts}"
