"""Which files are an exam is decided by names alone, and only where the names leave no doubt."""

from pathlib import Path

import pytest

from client.exam_folder import find_exams
from common.errors import DataError, EmptyDatasetError, VolumeShapeError

ONE, THREE = ("image",), ("pre", "early", "late")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder: Path, channels=ONE) -> dict[str, list[str]]:
    return {exam.exam: [path.name for path in exam.files] for exam in find_exams(folder, channels)}


def test_a_plain_folder_is_read_and_all_else_in_it_ignored(tmp_path) -> None:
    touch(
        tmp_path,
        "b.nii.gz",
        "a.nii",
        "C 1.NII.GZ",
        "notes.txt",
        ".a.nii.gz",
        "._b.nii.gz",
        "meta.csv",
        "x/d.nii",
    )
    assert found(tmp_path) == {"C 1": ["C 1.NII.GZ"], "a": ["a.nii"], "b": ["b.nii.gz"]}


def test_images_and_labels_meet_by_name(tmp_path) -> None:
    touch(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "labels/b.nii", "manifest.csv")
    exams = find_exams(tmp_path, ONE)
    assert [exam.exam for exam in exams] == ["a", "b"]
    assert [exam.label_file for exam in exams] == [None, tmp_path / "labels" / "b.nii"]


def test_numbered_files_are_the_channels_of_one_exam_in_order(tmp_path) -> None:
    touch(
        tmp_path,
        *(f"images/{exam}_{c:04d}.nii.gz" for exam in ("y", "x_1") for c in (2, 0, 1)),
        "labels/y.nii.gz",
    )
    exams = find_exams(tmp_path, THREE)
    assert [exam.exam for exam in exams] == ["x_1", "y"]
    assert [path.name for path in exams[1].files] == ["y_0000.nii.gz", "y_0001.nii.gz", "y_0002.nii.gz"]
    assert exams[1].label_file == tmp_path / "labels" / "y.nii.gz"


def test_one_channel_may_be_numbered_too(tmp_path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    assert set(found(tmp_path)) == {"a", "b"}


def test_numbers_that_only_count_exams_stay_in_their_names(tmp_path) -> None:
    touch(tmp_path, *(f"synthetic_{i:04d}.nii.gz" for i in range(12)), "hippocampus_003.nii.gz")
    assert len(found(tmp_path)) == 13


def test_several_channels_in_a_study_with_one_are_not_taken_for_exams(tmp_path) -> None:
    touch(tmp_path, *(f"{exam}_{c:04d}.nii.gz" for exam in "ab" for c in range(3)))
    with pytest.raises(VolumeShapeError, match="has 3 channels of exam a, the study has one: image"):
        find_exams(tmp_path, ONE)


def test_a_missing_channel_is_named(tmp_path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz", "b_0000.nii.gz", "b_0002.nii.gz")
    with pytest.raises(VolumeShapeError, match=r"exam b in .* has no b_0001\.nii\.gz, its channel early"):
        find_exams(tmp_path, THREE)


def test_a_channel_too_many_is_named(tmp_path) -> None:
    touch(tmp_path, *(f"a_{c:04d}.nii.gz" for c in range(4)))
    with pytest.raises(VolumeShapeError, match=r"a_0003\.nii\.gz is channel 3.*has 3: pre, early, late"):
        find_exams(tmp_path, THREE)


def test_a_file_without_a_channel_number_is_named(tmp_path) -> None:
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(VolumeShapeError, match=r"name it a_0000\.nii\.gz for pre"):
        find_exams(tmp_path, THREE)


def test_two_files_of_one_exam_are_refused(tmp_path) -> None:
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(DataError, match="are the same exam"):
        find_exams(tmp_path, ONE)


def test_a_label_map_without_an_exam_is_refused(tmp_path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/A.nii.gz")
    with pytest.raises(DataError, match=r"labels/A\.nii\.gz is the label map of no exam"):
        find_exams(tmp_path, ONE)


def test_images_in_two_places_are_refused(tmp_path) -> None:
    touch(tmp_path, "images/a.nii.gz", "b.nii.gz")
    with pytest.raises(DataError, match="beside its folder images/"):
        find_exams(tmp_path, ONE)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "holds no NIfTI file .*found: nothing"),
        (("1.dcm", "2.dcm", "LICENSE"), "found: 2 .dcm, 1 without ending"),
        (
            ("sub-01/anat/t1.nii.gz",),
            "sub-folders are not searched: move files such as sub-01/anat/t1.nii.gz up",
        ),
        (("images/readme.txt",), "holds no NIfTI file"),
    ],
)
def test_an_empty_folder_says_what_it_holds_instead(tmp_path, names, says) -> None:
    touch(tmp_path, *names)
    with pytest.raises(EmptyDatasetError, match=says):
        find_exams(tmp_path, ONE)


def test_a_folder_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(EmptyDatasetError, match=r"no such folder .*check `data`"):
        find_exams(tmp_path / "absent", ONE)
