"""The montage shows the right side on the right side, in one grey window, with the right proportions."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from common.errors import ArtifactError, VolumeShapeError
from common.volume.labels import LabelClass, to_channels
from common.volume.spec import VolumeSpec
from experiments.montage import montage, slice_image, stack_plane

CUBE = VolumeSpec(shape=(20, 24, 16), spacing_mm=(1, 1, 1))
LABELLED = CUBE.model_copy(
    update={"labels": (LabelClass(name="gland", values=(3,)), LabelClass(name="lesion", values=(7,)))}
)
BLUE, PINK = (76, 201, 240), (255, 93, 143)  # outlines of the first class and of the second
BELOW_NAMES = 60  # pixels: the names of classes stand above
STACK = VolumeSpec(shape=(20, 20, 4), spacing_mm=(1, 1, "keep"), channels=("pre", "post"))
BACKGROUND = (11, 14, 20)


def pixels(path):
    return np.round(imread(path)[..., :3] * 255).astype(int)


def grey_areas(path, value):
    """Number of pixels that have exactly the grey of an intensity (0 black to 255 white)."""
    return int((pixels(path) == value).all(axis=2).sum())


@pytest.mark.parametrize(
    ("plane", "corner"), [("axial", (9, 9, 5)), ("coronal", (9, 5, 9)), ("sagittal", (5, 9, 9))]
)
def test_right_anterior_and_superior_are_top_left(plane, corner):
    """RAS grows to right, anterior, superior: the corner where both seen axes are largest."""
    volume = np.zeros((10, 10, 10), np.float32)
    volume[corner] = 1
    index = 5
    image = slice_image(volume, plane, index)
    assert image[0, 0] == 1
    assert image.sum() == 1


@pytest.mark.parametrize(("plane", "size"), [("axial", (5, 4)), ("coronal", (6, 4)), ("sagittal", (6, 5))])
def test_a_slice_is_as_high_as_its_upward_axis(plane, size):
    assert slice_image(np.zeros((4, 5, 6), np.float32), plane, 2).shape == size


def test_intensities_have_the_same_grey_whatever_stands_beside_them(tmp_path):
    grey, black, white = (torch.full((1, 1, 20, 24, 16), v) for v in (0.0, -1.0, 1.0))
    alone = montage({"grey": grey}, tmp_path / "alone.png", CUBE)
    mixed = montage({"grey": grey, "black": black, "white": white}, tmp_path / "mixed.png", CUBE)
    assert grey_areas(alone, 128) == pytest.approx(grey_areas(mixed, 128), rel=0.02)
    assert grey_areas(alone, 128) > 10_000
    assert grey_areas(mixed, 255) > 10_000
    assert grey_areas(alone, 255) < 100


def bounds(path, value):
    """Width and height of the area of one grey."""
    rows, columns = np.nonzero((pixels(path) == value).all(axis=2))
    return np.ptp(columns) + 1, np.ptp(rows) + 1


def test_proportions_are_in_millimetres(tmp_path):
    """A stack whose voxels are 1 x 3 mm: 20 x 60 mm."""
    spec = VolumeSpec(shape=(20, 20, 1), spacing_mm=(1, 3, "keep"))
    path = montage({"one": torch.full((1, 1, 20, 20, 1), 0.5)}, tmp_path / "one.png", spec)
    width, height = bounds(path, 192)
    assert height / width == pytest.approx(3, rel=0.03)


def test_a_stack_is_shown_slice_by_slice_for_every_channel(tmp_path):
    """Each of 2 channels x 4 slices has its own grey: all eight must be seen."""
    values = torch.linspace(-0.6, 0.8, 8)
    volume = values.reshape(1, 2, 1, 1, 4).expand(1, 2, 20, 20, 4)
    path = montage({"real": volume}, tmp_path / "stack.png", STACK)
    greys = [int(np.floor((v + 1) / 2 * 256)) for v in values.tolist()]
    assert all(grey_areas(path, grey) > 5000 for grey in greys)


def places(path, colour, within=40):
    """Rows and columns of the pixels of one colour, lines being drawn with soft edges."""
    shown = pixels(path)[BELOW_NAMES:]
    return np.nonzero(np.abs(shown - np.array(colour)).max(axis=2) <= within)


@pytest.mark.parametrize("first", [9, 14])  # the second reaches the volume's edge
def test_a_class_is_outlined_where_its_voxels_are(tmp_path, first):
    """The same box once bright and once as a class: the outline runs round the bright pixels."""
    box = torch.zeros(1, 20, 24, 16, dtype=torch.long)
    box[:, first - 6 : first + 6, first - 6 : first + 10, 5:11] = 1
    bright = montage({"a": box[:, None].float()}, tmp_path / "bright.png", CUBE)
    grey = torch.full((1, 1, 20, 24, 16), -0.5)
    for number, colour in ((1, BLUE), (2, PINK)):
        labelled = torch.cat([grey, to_channels(box * number, 3)], dim=1)
        outlined = montage({"a": labelled}, tmp_path / "outlined.png", LABELLED)
        for found, wanted in zip(places(outlined, colour), places(bright, (255, 255, 255), 0), strict=True):
            assert found.min() == pytest.approx(wanted.min(), abs=4)
            assert found.max() == pytest.approx(wanted.max(), abs=4)
        assert len(places(outlined, PINK if number == 1 else BLUE)[0]) == 0


def test_without_label_maps_nothing_is_outlined_and_no_class_is_named(tmp_path):
    images = torch.full((2, 1, 20, 24, 16), -0.5)
    plain = montage({"a": images}, tmp_path / "plain.png", CUBE).read_bytes()
    assert montage({"a": images}, tmp_path / "images.png", LABELLED).read_bytes() == plain
    nobody = to_channels(torch.zeros(2, 20, 24, 16, dtype=torch.long), 3)
    empty = montage({"a": torch.cat([images, nobody], dim=1)}, tmp_path / "empty.png", LABELLED)
    assert len(places(empty, BLUE)[0]) == 0
    assert empty.read_bytes() != plain  # the classes are named, so that one that is missing is missed


def test_few_or_kept_slices_make_a_stack():
    assert stack_plane(CUBE) is None
    assert stack_plane(STACK) == "axial"
    assert stack_plane(VolumeSpec(shape=(20, 8, 20), spacing_mm=(1, 1, 1))) == "coronal"
    assert stack_plane(VolumeSpec(shape=(30, 8, 20), spacing_mm=("keep", 1, 1))) == "sagittal"


def test_rows_of_different_length_and_many_volumes_are_drawn(tmp_path):
    rows = {"real": torch.full((2, 1, 20, 24, 16), 0.25), "synthetic": torch.full((70, 1, 20, 24, 16), 0.5)}
    path = montage(rows, tmp_path / "many.png", CUBE)
    height, width, _ = pixels(path).shape
    assert width == 1600
    assert height < 3000  # twelve lines at most


def test_the_same_volumes_give_the_same_bytes(tmp_path):
    volumes = torch.rand(3, 1, 20, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first = montage({"a": volumes}, tmp_path / "1.png", CUBE).read_bytes()
    assert montage({"a": volumes}, tmp_path / "new" / "2.png", CUBE).read_bytes() == first


def test_the_ground_is_not_black(tmp_path):
    """Padding is black: it must be told from what lies between the slices."""
    path = montage({"a": torch.full((1, 1, 20, 24, 16), -1.0)}, tmp_path / "a.png", CUBE)
    assert tuple(pixels(path)[2, 2]) == BACKGROUND


@pytest.mark.parametrize(
    "volumes", [torch.zeros(0, 1, 20, 24, 16), torch.zeros(1, 2, 20, 24, 16), torch.zeros(20, 24, 16)]
)
def test_volumes_of_another_kind_are_refused(tmp_path, volumes):
    with pytest.raises(VolumeShapeError, match="synthetic: volumes of shape"):
        montage({"synthetic": volumes}, tmp_path / "a.png", CUBE)
    assert not (tmp_path / "a.png").exists()


def test_a_montage_of_nothing_is_refused(tmp_path):
    with pytest.raises(VolumeShapeError, match="at least one row"):
        montage({}, tmp_path / "a.png", CUBE)


def test_a_failed_write_leaves_the_earlier_picture(tmp_path, monkeypatch):
    path = montage({"a": torch.zeros(1, 1, 20, 24, 16)}, tmp_path / "a.png", CUBE)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        montage({"a": torch.ones(1, 1, 20, 24, 16)}, path, CUBE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
