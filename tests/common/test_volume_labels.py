"""Label maps as numbers of classes and as channels, and what a codec is punished for in them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.codec.config import CodecConfig
from common.codec.losses import LOGITS, label_error
from common.codec.training import reconstruction_terms
from common.errors import ConfigError
from common.frozen import parse
from common.volume.labels import LabelClass, from_channels, numbered, stored, to_channels
from common.volume.spec import VolumeSpec

CLASSES = (LabelClass(name="gland", values=(3,)), LabelClass(name="lesion", values=(8, 9)))
SPEC = {"shape": [4, 4, 4], "spacing_mm": [1, 1, 1], "channels": ["pre", "late"]}


@given(seed=st.integers(0, 2**32 - 1), num=st.integers(2, 5))
def test_a_map_comes_back_from_its_channels(seed, num):
    maps = torch.randint(num, (2, 3, 4, 5), generator=torch.Generator().manual_seed(seed))
    channels = to_channels(maps, num)
    assert channels.shape == (2, num, 3, 4, 5)
    assert set(channels.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(channels.sum(dim=1), torch.full((2, 3, 4, 5), 2.0 - num))
    assert torch.equal(from_channels(channels), maps)


@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_written_is_read_as_the_same_classes(seed):
    maps = torch.randint(3, (3, 4, 5), generator=torch.Generator().manual_seed(seed))
    files = stored(maps, CLASSES)
    assert set(files.unique().tolist()) <= {0, 3, 8}
    assert torch.equal(numbered(files, CLASSES), maps)


def test_several_values_are_one_class_and_others_are_background():
    assert numbered(torch.tensor([0, 1, 3, 8, 9, 10]), CLASSES).tolist() == [0, 0, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        ([{"name": "x", "values": [0]}], "background"),
        ([{"name": "x", "values": [1, 1]}], "two classes"),
        ([{"name": "x", "values": [1]}, {"name": "y", "values": [1]}], "two classes"),
        ([{"name": "x", "values": [1]}, {"name": "x", "values": [2]}], "one name"),
        ([{"name": "x", "values": []}], "values"),
        ([{"name": "x", "values": [-1]}], "values"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(labels, word):
    with pytest.raises(ConfigError, match=word):
        parse(VolumeSpec, SPEC | {"labels": labels}, "volume")


def test_a_codec_takes_images_then_one_channel_per_class_and_background():
    plain = parse(VolumeSpec, SPEC, "volume")
    labelled = parse(VolumeSpec, SPEC | {"labels": [one.model_dump() for one in CLASSES]}, "volume")
    assert (plain.num_channels, plain.num_label_channels, plain.num_codec_channels) == (2, 0, 2)
    assert (labelled.num_channels, labelled.num_label_channels, labelled.num_codec_channels) == (2, 3, 5)


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_error_of_a_perfect_map_and_of_an_undecided_one_have_closed_forms(num):
    maps = torch.randint(num, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    channels = to_channels(maps, num)
    perfect = math.log(1 + (num - 1) * math.exp(-2 * LOGITS))
    assert label_error(channels, channels).tolist() == pytest.approx([perfect] * 2, rel=1e-4)
    assert label_error(torch.zeros_like(channels), channels).tolist() == pytest.approx([math.log(num)] * 2)


def test_images_and_labels_have_terms_of_their_own():
    generator = torch.Generator().manual_seed(0)
    config = CodecConfig(perceptual_weight=1.0, label_weight=0.5)
    images, rebuilt = torch.rand((2, 3, 2, 4, 4, 4), generator=generator).unbind()
    labels = to_channels(torch.randint(3, (3, 4, 4, 4), generator=generator), 3)
    guessed = torch.randn(labels.shape, generator=generator)
    terms = reconstruction_terms(
        config, torch.cat([rebuilt, guessed], dim=1), torch.cat([images, labels], dim=1), num_labels=3
    )
    alone = reconstruction_terms(config, rebuilt, images)
    assert terms.keys() == alone.keys() | {"labels"}
    assert all(torch.equal(terms[name], alone[name]) for name in alone)
    assert torch.allclose(terms["labels"], 0.5 * label_error(guessed, labels))
    silent = config.model_copy(update={"label_weight": 0.0})
    assert "labels" not in reconstruction_terms(
        silent, torch.cat([rebuilt, guessed], dim=1), torch.cat([images, labels], dim=1), num_labels=3
    )
