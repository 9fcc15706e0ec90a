"""The committed splits: the numbers of the study, no patient in two places, and reproducible."""

import csv
from collections import Counter, defaultdict

import pytest
from real_data import DATA, needs_real_data

from experiments.demo_patients import demo_split, write_demo_patients
from experiments.splits import PARTS, SPLITS, as_csv, breast_split, hippocampus_split, write_splits

# Patients by site; 8-bit is site a, floats below 1e4 are split over b and c, floats above are at c.
EXPECTED = {
    "hippocampus.csv": {
        "generator": {"a": 12, "b": 19, "c": 18 + 7},
        "labelled": {"a": 3, "b": 4, "c": 4 + 1},
        "validation": {"a": 1, "b": 2, "c": 2 + 1},
        "test": {"a": 6, "b": 10, "c": 9 + 3},
    },
    "breast_dce.csv": {
        "generator": {"spy1": 17, "spy2": 55},
        "labelled": {"spy1": 3, "spy2": 9},
        "validation": {"spy1": 2, "spy2": 6},
        "test": {"spy1": 11, "spy2": 29},
    },
    "demo.csv": {
        "generator": {"north": 32, "harbor": 24, "valley": 28},
        "labelled": dict.fromkeys(("north", "harbor", "valley"), 5),
        "validation": dict.fromkeys(("north", "harbor", "valley"), 1),
        "test": dict.fromkeys(("north", "harbor", "valley"), 12),
    },
}


def committed(name: str) -> list[dict[str, str]]:
    with (SPLITS / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", EXPECTED)
def test_every_part_has_its_patients(name) -> None:
    patients: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in committed(name):
        patients[row["part"], row["site"]].add(row["patient"])
    counts = {key: len(found) for key, found in patients.items()}
    assert counts == {(part, site): n for part, sites in EXPECTED[name].items() for site, n in sites.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_no_patient_is_in_two_parts_or_at_two_sites(name) -> None:
    places = defaultdict(set)
    for row in committed(name):
        places[row["patient"]].add((row["part"], row["site"]))
    assert max(len(found) for found in places.values()) == 1


@pytest.mark.parametrize(
    ("name", "files"), [("hippocampus.csv", 158), ("breast_dce.csv", 132), ("demo.csv", 156)]
)
def test_every_exam_stands_in_the_table_once(name, files) -> None:
    counts = Counter(row["file"] for row in committed(name))
    assert len(counts) == files
    assert set(counts.values()) == {1}


def test_the_demo_s_table_is_what_its_phantoms_are(tmp_path) -> None:
    assert as_csv(demo_split()) == (SPLITS / "demo.csv").read_text()
    table = write_demo_patients(tmp_path / "tiny", tiny=True)
    assert table.is_absolute()
    assert table.read_text() == as_csv(demo_split(tiny=True))
    exams = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "tiny" / "labels").iterdir()}
    assert exams == {row.file for row in demo_split(tiny=True)}


@needs_real_data
def test_the_committed_files_are_what_the_function_makes(tmp_path) -> None:
    for path in write_splits(DATA, tmp_path):
        assert path.read_bytes() == (SPLITS / path.name).read_bytes()


@needs_real_data
def test_strata_and_sites_follow_the_source_of_the_images() -> None:
    with (DATA / "hippocampus-mri" / "manifest.csv").open(newline="") as file:
        source = {row["case"]: row for row in csv.DictReader(file)}
    parts: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in committed("hippocampus.csv"):
        found = source[row["file"]]
        assert found["pair"] == row["patient"]
        if found["dtype"] == "uint8":
            stratum, sites = "8-bit", {"a"}
        elif float(found["imax"]) < 1e4:
            stratum, sites = "below", {"b", "c"}
        else:
            stratum, sites = "above", {"c"}
        assert row["site"] in sites
        parts[stratum][row["part"]].add(row["patient"])
    counts = {stratum: [len(found[part]) for part in PARTS] for stratum, found in parts.items()}
    assert counts == {"8-bit": [12, 3, 1, 6], "below": [37, 8, 4, 19], "above": [7, 1, 1, 3]}


@needs_real_data
def test_patients_without_a_plausible_mask_only_serve_the_generator() -> None:
    with (DATA / "breast-dce-mri" / "meta.csv").open(newline="") as file:
        meta = {row["pid"]: row for row in csv.DictReader(file)}
    subtypes: dict[str, set[str]] = defaultdict(set)
    for row in committed("breast_dce.csv"):
        found = meta[row["file"]]
        assert row["site"] == found["cohort"]
        assert found["weak_ok"] == "1" or row["part"] == "generator"
        subtypes[row["class"]].add(found["subtype"])
    assert subtypes == {"0": {"HER2pos"}, "1": {"HRposHER2neg"}, "2": {"TripleNeg"}}


@needs_real_data
def test_another_seed_is_another_split_of_the_same_sizes() -> None:
    for make, folder in ((hippocampus_split, "hippocampus-mri"), (breast_split, "breast-dce-mri")):
        first, other = make(DATA / folder), make(DATA / folder, seed=1)
        assert as_csv(first) != as_csv(other)
        first_sizes, other_sizes = (
            Counter((part, site) for _, part, site in {(r.patient, r.part, r.site) for r in rows})
            for rows in (first, other)
        )
        assert first_sizes == other_sizes


def test_a_release_of_the_data_with_other_patients_is_refused(tmp_path) -> None:
    (tmp_path / "manifest.csv").write_text("case,pair,dtype,imax\nx,1,uint8,255\n")
    with pytest.raises(ValueError, match="1 patients cannot be dealt as"):
        hippocampus_split(tmp_path)
