"""The patient table is taken literally: nothing is guessed, every refusal names line and remedy."""

from pathlib import Path

import pytest

from client.exam_folder import ExamFiles
from client.patient_table import assign_patients, read_patient_table
from client.site_config import Selection
from common.errors import DuplicatePatientError, EmptyDatasetError, PatientTableError

FULL = """file,patient,site,part,class
a,p1,north,generator,0
b,p1,north,generator,2
c,p2,north,test,
d,p3,south,generator,1
"""


def exams(*names: str, channels: int = 1) -> list[ExamFiles]:
    suffixes = [".nii.gz"] if channels == 1 else [f"_{c:04d}.nii.gz" for c in range(channels)]
    return [ExamFiles(name, tuple(Path(f"data/{name}{s}") for s in suffixes), None) for name in names]


def table(folder: Path, text: str | bytes) -> Path:
    path = folder / "patients.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assign(path: Path, found: list[ExamFiles], select: Selection | None = None):
    rows = assign_patients(found, read_patient_table(path), path, select)
    return {exam: row.patient for exam, row in rows.items()}


def test_two_exams_of_one_patient_count_once(tmp_path) -> None:
    path = table(tmp_path, FULL)
    assert assign(path, exams("a", "b", "c", "d")) == {"a": "p1", "b": "p1", "c": "p2", "d": "p3"}
    rows = read_patient_table(path)
    assert [row.class_label for row in rows] == [0, 2, None, 1]
    assert [row.line for row in rows] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (Selection(site="north"), {"a", "b", "c"}),
        (Selection(part="generator"), {"a", "b", "d"}),
        (Selection(site="north", part=("generator", "test")), {"a", "b", "c"}),
        (Selection(site="south", part=("generator",)), {"d"}),
        (Selection(), {"a", "b", "c", "d"}),
    ],
)
def test_a_selection_takes_the_rows_it_names(tmp_path, select, expected) -> None:
    assert set(assign(table(tmp_path, FULL), exams("a", "b", "c", "d"), select)) == expected


def test_rows_of_other_sites_need_no_files_here(tmp_path) -> None:
    path = table(tmp_path, FULL)
    assert set(assign(path, exams("a", "b", "c"), Selection(site="north"))) == {"a", "b", "c"}
    with pytest.raises(PatientTableError, match="line 5: the folder has no file 'd'"):
        assign(path, exams("a", "b", "c"))


@pytest.mark.parametrize("file", ["x 1", "x 1.nii.gz", "x 1_0000.nii.gz", "x 1_0002", "images/x 1.nii.gz"])
def test_a_row_may_name_the_exam_or_one_of_its_files(tmp_path, file) -> None:
    found = exams("x 1", channels=3) if "_" in file or file == "x 1" else exams("x 1")
    assert assign(table(tmp_path, f"file,patient\n{file},p\n"), found) == {"x 1": "p"}


def test_all_channels_of_an_exam_may_be_listed_if_they_agree(tmp_path) -> None:
    text = "file,patient\nx_0000.nii.gz,p\nx_0001.nii.gz,p\n"
    assert assign(table(tmp_path, text), exams("x", channels=2)) == {"x": "p"}
    with pytest.raises(PatientTableError, match="lines 2 and 3 both describe exam x"):
        assign(table(tmp_path, text.replace("0001.nii.gz,p", "0001.nii.gz,q")), exams("x", channels=2))


def test_spreadsheet_habits_are_read(tmp_path) -> None:
    text = '\ufefffile, patient\r\n"a, left" , p1 \r\nb,p2\r\n'.encode()
    assert assign(table(tmp_path, text), exams("a, left", "b")) == {"a, left": "p1", "b": "p2"}


def test_an_exam_that_the_table_does_not_name_is_refused(tmp_path) -> None:
    path = table(tmp_path, FULL)
    with pytest.raises(
        PatientTableError, match=r"data/e\.nii\.gz is not in the patient table .*add a row for e"
    ):
        assign(path, exams("a", "b", "c", "d", "e"))
    # ... whatever is selected: an exam without a row is an exam without a patient.
    with pytest.raises(PatientTableError, match=r"e\.nii\.gz is not in"):
        assign(path, exams("a", "b", "c", "d", "e"), Selection(site="south"))


def test_a_mistyped_file_gets_the_nearest_name(tmp_path) -> None:
    with pytest.raises(
        PatientTableError, match=r"line 2: .*'hippocampus_03' \(did you mean 'hippocampus_003'"
    ):
        assign(table(tmp_path, "file,patient\nhippocampus_03,p\n"), exams("hippocampus_003"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'file'; its header reads: nothing"),
        ("file,patient\n", "no row below its header"),
        ("file,person\na,p\n", "no column 'patient'; its header reads: file, person"),
        ("file;patient\na;p\n", r"no column 'file'.*separate columns by commas"),
        ("file,patient,age\na,p,50\n", "column 'age' that means nothing here"),
        ("file,patient,patient\na,p,q\n", "names a column twice"),
        ("file,patient\na\n", "line 2 has no patient"),
        ("file,patient\n,p\n", "line 2 has no file"),
        ("file,patient\na,p,north\n", "line 2 has more cells than the header"),
        ("file,patient,class\na,p,benign\n", r"class 'benign' \(number classes from 0"),
        ("file,patient,class\na,p,-1\n", "class '-1'"),
        ("file,patient\na,p\na,q\n", "lines 2 and 3 both describe exam a"),
        ("file,patient\na,p\na,p\n", "lines 2 and 3 both describe exam a"),
        ("file,patient\nä,p\n".encode("latin-1"), "not text in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, says) -> None:
    with pytest.raises(PatientTableError, match=says):
        assign(table(tmp_path, text), exams("a"))


def test_a_missing_table_is_refused(tmp_path) -> None:
    with pytest.raises(PatientTableError, match="No such file"):
        read_patient_table(tmp_path / "patients.csv")


@pytest.mark.parametrize(
    "text",
    [
        "file,patient,site\na,p,north\nb,p,south\n",
        "file,patient,part\na,p,generator\nb,p,test\n",
        "file,patient,part\na,p,generator\nb,p,\n",
    ],
    ids=["two sites", "two parts", "one part and none"],
)
def test_a_patient_in_two_places_is_refused(tmp_path, text) -> None:
    with pytest.raises(DuplicatePatientError, match="lines 2 and 3 put patient p in two places"):
        read_patient_table(table(tmp_path, text))


def test_a_selection_that_finds_nothing_says_what_there_is(tmp_path) -> None:
    with pytest.raises(EmptyDatasetError, match=r"no row for site 'east'.*sites in the table: north, south"):
        assign(table(tmp_path, FULL), exams("a", "b", "c", "d"), Selection(site="east"))


def test_a_selection_by_an_absent_column_is_refused(tmp_path) -> None:
    with pytest.raises(PatientTableError, match="line 2 has no part, and the site file selects by it"):
        assign(table(tmp_path, "file,patient\na,p\n"), exams("a"), Selection(part="test"))


def test_one_person_however_an_umlaut_was_typed(tmp_path) -> None:
    path = table(tmp_path, "file,patient\na,M\u00fcller\nb,Mu\u0308ller\n")
    assert len(set(assign(path, exams("a", "b")).values())) == 1


def test_a_file_is_found_by_the_form_of_its_name_on_the_disk(tmp_path) -> None:
    path = table(tmp_path, "file,patient\nMu\u0308ller,p1\n")
    assert assign(path, exams("Mu\u0308ller")) == {"Mu\u0308ller": "p1"}
