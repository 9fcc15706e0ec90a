"""Networks, pretext tasks, fine-tuning and scores."""

import dataclasses

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR

from common.errors import ConfigError, DataError
from common.volume.intensity import BACKGROUND
from experiments.segmentation.finetune import augmented, finetune
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.pretext import PretextConfig, make_views, pretext_losses, turning_plane
from experiments.segmentation.pretrain import ScheduleConfig, batches, pretrain
from experiments.segmentation.scores import DICE, HAUSDORFF, SURFACE, scores_of

CPU = torch.device("cpu")
CONV, SWIN = NetworkConfig(), NetworkConfig(kind="swin_unetr", width=12)
PRETEXT = PretextConfig(block=4)


def generator_of(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(num, side=16, seed=0):
    """Return volumes with a bright ball somewhere, and where the ball is."""
    generator = generator_of(seed)
    centres = torch.randint(5, side - 5, (num, 3), generator=generator)
    axes = torch.stack(torch.meshgrid(*[torch.arange(side)] * 3, indexing="ij"))
    inside = ((axes[None] - centres[:, :, None, None, None]) ** 2).sum(dim=1) <= 9
    noise = 0.1 * torch.randn((num, 1, side, side, side), generator=generator)
    return inside[:, None].float() * 1.2 - 0.6 + noise, inside.long()


@pytest.mark.parametrize("config", [CONV, SWIN], ids=lambda c: c.kind)
@pytest.mark.parametrize("shape", [(32, 32, 32), (20, 35, 9)])
def test_a_network_segments_every_voxel_and_shows_one_feature_vector_a_volume(config, shape):
    network = SegmentationNetwork.fresh(config, 2, 3, generator_of()).eval()
    with torch.no_grad():
        output, features = network(torch.zeros(2, 2, *shape))
    assert output.shape == (2, 3, *shape)
    assert features.ndim == 2
    assert len(features) == 2


def test_padding_is_background_and_is_cut_away_where_it_was_put():
    """A volume that is padded by hand gives the same output, cut by hand."""
    network = SegmentationNetwork.fresh(CONV, 1, 2, generator_of()).eval()
    small = torch.randn(1, 1, 13, 16, 10, generator=generator_of())
    large = torch.full((1, 1, 16, 16, 16), BACKGROUND)
    large[:, :, 1:14, :, 3:13] = small
    with torch.no_grad():
        assert torch.equal(network(small)[0], network(large)[0][:, :, 1:14, :, 3:13])


@pytest.mark.parametrize("config", [CONV, SWIN], ids=lambda c: c.kind)
def test_parameters_are_a_function_of_the_generator(config):
    first, again, other = (
        SegmentationNetwork.fresh(config, 1, 2, generator_of(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (CONV, SegResNet(3, 8, 1, 1, blocks_down=(1, 1, 2, 2), blocks_up=(1, 1, 1))),
        (SWIN, SwinUNETR(1, 1, feature_size=12, window_size=4, norm_name=("group", {"num_groups": 4}))),
    ],
    ids=lambda c: getattr(c, "kind", ""),
)
def test_pretrained_weights_load_into_a_plain_monai_network_and_do_the_same(config, plain):
    volumes = blobs(2, side=32)[0]
    found = pretrain(volumes, config, PRETEXT, ScheduleConfig(steps=2), generator_of(), CPU)
    plain.load_state_dict(found.weights)
    ours = SegmentationNetwork.fresh(config, 1, 1, generator_of(5))
    ours.backbone.load_state_dict(found.weights)
    with torch.no_grad():
        assert torch.equal(ours.eval()(volumes)[0], plain.eval()(volumes))


def test_starting_from_weights_takes_all_but_the_output_layer():
    weights = SegmentationNetwork.fresh(CONV, 1, 1, generator_of(1)).backbone.state_dict()
    network = SegmentationNetwork.fresh(CONV, 1, 3, generator_of(2))
    fresh = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network.start_from(weights)
    for name, value in network.backbone.state_dict().items():
        expected = fresh if name.startswith("conv_final.2.") else weights
        assert torch.equal(value, expected[name]), name


def test_weights_of_another_network_are_refused():
    weights = SegmentationNetwork.fresh(NetworkConfig(width=16), 1, 1, generator_of()).backbone.state_dict()
    with pytest.raises(DataError, match="of that shape"):
        SegmentationNetwork.fresh(CONV, 1, 3, generator_of()).start_from(weights)


def test_a_width_that_a_network_cannot_have_is_named():
    with pytest.raises(ConfigError, match="swin_unetr of width 7"):
        SegmentationNetwork.fresh(NetworkConfig(kind="swin_unetr", width=7), 1, 1, generator_of())


def test_a_view_is_turned_and_lacks_whole_cuboids_and_nothing_else():
    volumes = blobs(12)[0]
    views = make_views(volumes, PRETEXT, generator_of())
    assert set(views.turns.tolist()) == {0, 1, 2, 3}
    for volume, whole, turns in zip(volumes, views.whole, views.turns, strict=True):
        assert torch.equal(volume, whole.rot90(-int(turns), (1, 2)))
    assert torch.equal(views.shown.where(~views.lost, BACKGROUND), views.shown)
    assert torch.equal(views.shown[~views.lost], views.whole[~views.lost])
    cuboids = views.lost.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(-3).float().mean(-1)
    assert set(cuboids.unique().tolist()) == {0.0, 1.0}
    assert float(cuboids.mean()) == pytest.approx(PRETEXT.masked_share, abs=0.05)


@pytest.mark.parametrize(
    ("shape", "plane"),
    [((8, 8, 4), (1, 2)), ((8, 12, 8), (1, 3)), ((4, 8, 8), (2, 3)), ((80, 80, 8), (1, 2))],
)
def test_volumes_are_turned_in_a_plane_that_is_square(shape, plane):
    assert turning_plane(torch.Size(shape)) == plane
    turned = torch.zeros(1, *shape).rot90(1, plane)
    assert turned.shape == (1, *shape)


def test_volumes_that_change_shape_when_turned_are_refused():
    with pytest.raises(ConfigError, match="8 x 9 x 10"):
        turning_plane(torch.Size((8, 9, 10)))


class Oracle(torch.nn.Module):
    """A network that restores everything and knows the turns."""

    def __init__(self, views):
        super().__init__()
        self.views = views

    def forward(self, shown):
        return self.views.whole, torch.nn.functional.one_hot(self.views.turns, 4).float()


def test_a_network_that_knows_everything_has_no_loss_in_any_task():
    volumes = blobs(3)[0]
    views = make_views(torch.cat([volumes, volumes]), PRETEXT, generator_of())
    heads = torch.nn.Module()
    heads.turns = lambda features: 100 * features
    heads.embedding = lambda features: torch.eye(3).repeat(2, 1)  # the two views of a volume alike
    config = PRETEXT.model_copy(update={"temperature": 0.1})  # MONAI's exponentials overflow below
    losses = pretext_losses(Oracle(views), heads, volumes, config, generator_of())
    assert float(losses.inpainting) == 0
    assert float(losses.rotation) == pytest.approx(0, abs=1e-6)
    assert float(losses.contrast) == pytest.approx(0, abs=1e-3)


def test_inpainting_counts_lost_voxels_alone_and_the_rest_adds_up_by_weight():
    volumes = torch.ones(1, 1, 8, 8, 8)

    class Zero(torch.nn.Module):
        def forward(self, shown):
            return torch.zeros_like(shown), torch.zeros(len(shown), 4)

    heads = torch.nn.Module()
    heads.turns = heads.embedding = lambda features: features
    losses = pretext_losses(Zero(), heads, volumes, PRETEXT, generator_of())
    assert float(losses.inpainting) == pytest.approx(1.0)
    assert float(losses.rotation) == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert float(losses.contrast) == 0  # nobody to be told from
    by_hand = 1.0 + PRETEXT.rotation_weight * float(losses.rotation)
    assert float(losses.total(PRETEXT)) == pytest.approx(by_hand)


def test_pretraining_learns_and_is_a_function_of_its_generator():
    volumes = torch.nn.functional.avg_pool3d(blobs(8)[0], 2)
    short, long, again = (
        pretrain(volumes, CONV, PRETEXT, ScheduleConfig(steps=steps), generator_of(), CPU)
        for steps in (2, 20, 20)
    )
    assert long.inpainting < 0.6 * short.inpainting
    assert all(torch.equal(long.weights[name], again.weights[name]) for name in long.weights)


def test_nothing_to_pretrain_on_is_refused():
    with pytest.raises(DataError, match="no volumes"):
        pretrain(torch.zeros(0, 1, 8, 8, 8), CONV, PRETEXT, ScheduleConfig(steps=1), generator_of(), CPU)


def test_every_thing_comes_once_before_any_comes_twice():
    drawn = torch.cat(list(batches(5, ScheduleConfig(steps=10, batch_size=3), generator_of())))
    for start in range(0, 30, 5):
        assert sorted(drawn[start : start + 5].tolist()) == [0, 1, 2, 3, 4]


def test_fine_tuning_finds_the_ball_and_arms_differ_by_the_weights_alone(monkeypatch):
    volumes, balls = blobs(6)
    unseen, true = blobs(4, seed=1)
    schedule = ScheduleConfig(steps=40, learning_rate=1e-2)
    network = finetune(volumes, balls, 2, CONV, schedule, generator_of(), CPU)
    with torch.no_grad():
        found = network(unseen)[0].argmax(dim=1)
    assert float(scores_of(found, true, 2, (1, 1, 1))[DICE].mean()) > 0.8
    seen = []

    def watched(batch, generator):
        seen.append(augmented(batch, generator))
        return seen[-1]

    monkeypatch.setattr("experiments.segmentation.finetune.augmented", watched)
    weights = SegmentationNetwork.fresh(CONV, 1, 1, generator_of(7)).backbone.state_dict()
    for pretrained in (None, weights):
        finetune(volumes, balls, 2, CONV, ScheduleConfig(steps=2), generator_of(), CPU, pretrained)
    assert len(seen) == 4
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:]))


def test_a_class_that_nobody_named_is_refused():
    volumes, balls = blobs(1)
    with pytest.raises(DataError, match="holds 2, with 2 classes"):
        finetune(volumes, 2 * balls, 2, CONV, ScheduleConfig(steps=1), generator_of(), CPU)


def box(low, high, side=12, value=1):
    found = torch.zeros(1, side, side, side, dtype=torch.long)
    found[:, low:high, 2:6, 2:6] = value
    return found


def test_scores_by_hand():
    """Two boxes of 4 x 4 x 4, one moved by 2 voxels of 1.5 mm: half of each is shared."""
    found = scores_of(box(2, 6), box(4, 8), 2, (1.5, 1.0, 1.0))
    assert float(found[DICE]) == pytest.approx(0.5)
    assert float(found[HAUSDORFF]) == pytest.approx(3.0)
    same = scores_of(box(2, 6), box(2, 6), 2, (1.5, 1.0, 1.0))
    assert [float(same[name]) for name in (DICE, HAUSDORFF, SURFACE)] == [1.0, 0.0, 0.0]


def test_a_class_that_one_map_lacks_is_as_far_away_as_can_be_and_one_that_both_lack_is_not_scored():
    found = scores_of(box(2, 6), torch.zeros_like(box(2, 6)), 3, (1.0, 1.0, 2.0))
    diagonal = (11**2 + 11**2 + 22**2) ** 0.5
    assert float(found[DICE][0, 0]) == 0
    for name in (HAUSDORFF, SURFACE):
        assert float(found[name][0, 0]) == pytest.approx(diagonal)
    assert all(bool(values[0, 1].isnan()) for values in found.values())


def test_configurations_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        CONV.width = 16
    assert dataclasses.is_dataclass(make_views(blobs(1)[0], PRETEXT, generator_of()))
