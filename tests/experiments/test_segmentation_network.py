"""Networks, pretext tasks, fine-tuning and scores."""

import dataclasses

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR

from common.errors import ConfigError, DataError
from common.volume.intensity import BACKGROUND
from experiments.segmentation.contrast import other_contrast
from experiments.segmentation.finetune import finetune
from experiments.segmentation.network import NetworkConfig, SegmentationNetwork
from experiments.segmentation.posture import other_postures, posed, posed_labels
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
    assert features.shape == (2, {"segresnet": 4, "swin_unetr": 16}[config.kind] * config.width)


def test_padding_is_background_and_is_cut_away_where_it_was_put():
    """A volume that is padded by hand gives the same output, cut by hand."""
    network = SegmentationNetwork.fresh(CONV, 1, 2, generator_of()).eval()
    small = torch.randn(1, 1, 13, 16, 9, generator=generator_of())
    large = torch.full((1, 1, 16, 16, 12), BACKGROUND)
    large[:, :, 1:14, :, 1:10] = small
    with torch.no_grad():
        assert torch.equal(network(small)[0], network(large)[0][:, :, 1:14, :, 1:10])


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
        (CONV, SegResNet(3, 8, 1, 4, blocks_down=(1, 1, 1), blocks_up=(1, 1))),
        (SWIN, SwinUNETR(1, 4, feature_size=12, window_size=4, norm_name=("group", {"num_groups": 4}))),
    ],
    ids=lambda c: getattr(c, "kind", ""),
)
def test_pretrained_weights_load_into_a_plain_monai_network_and_do_the_same(config, plain):
    volumes = blobs(2, side=32)[0]
    found = pretrain(volumes, config, PRETEXT, ScheduleConfig(steps=2), generator_of(), CPU)
    plain.load_state_dict(found.weights)
    ours = SegmentationNetwork.fresh(config, 1, 4, generator_of(5))
    ours.backbone.load_state_dict(found.weights)
    with torch.no_grad():
        # Not bit by bit: channels lie elsewhere in memory.
        assert torch.allclose(ours.eval()(volumes)[0], plain.eval()(volumes), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "head"), [(CONV, "conv_final.2."), (SWIN, "out.")], ids=["segresnet", "swin_unetr"]
)
def test_starting_from_weights_takes_all_but_the_output_layer(config, head):
    weights = SegmentationNetwork.fresh(config, 1, 1, generator_of(1)).backbone.state_dict()
    network = SegmentationNetwork.fresh(config, 1, 3, generator_of(2))
    fresh = {name: value.clone() for name, value in network.backbone.state_dict().items()}
    network.start_from(weights)
    for name, value in network.backbone.state_dict().items():
        expected = fresh if name.startswith(head) else weights
        assert torch.equal(value, expected[name]), name


def test_weights_of_another_network_are_refused():
    weights = SegmentationNetwork.fresh(NetworkConfig(width=16), 1, 1, generator_of()).backbone.state_dict()
    with pytest.raises(DataError, match="of that shape"):
        SegmentationNetwork.fresh(CONV, 1, 3, generator_of()).start_from(weights)


def test_a_width_that_a_network_cannot_have_is_named():
    with pytest.raises(ConfigError, match="swin_unetr of width 7"):
        SegmentationNetwork.fresh(NetworkConfig(kind="swin_unetr", width=7), 1, 1, generator_of())


def test_a_view_is_posed_then_turned_and_lacks_whole_cuboids_and_nothing_else():
    volumes = blobs(40)[0]
    views = make_views(volumes, PRETEXT, generator_of())
    upright = posed(volumes, other_postures(volumes.shape, generator_of()))
    assert set(views.turns.tolist()) == {0, 1, 2, 3}
    assert float((views.turns > 0).float().mean()) == pytest.approx(PRETEXT.turned_share, abs=0.1)
    for volume, whole, turns in zip(upright, views.whole, views.turns, strict=True):
        assert torch.equal(volume, whole.rot90(-int(turns), (1, 2)))
    cuboids = views.lost.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(-3).float().mean(-1)
    assert set(cuboids.unique().tolist()) == {0.0, 1.0}
    assert float(cuboids.mean()) == pytest.approx(PRETEXT.masked_share, abs=0.05)


def test_a_view_s_places_are_those_of_the_volume_it_was_made_of_turned_with_it():
    """A volume whose channels say where they are, seen in a view, says the view's places."""
    axes = [(torch.arange(12) + 0.5) / 6 - 1] * 3
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    views = make_views(torch.stack([z, y, x]).expand(20, 3, 12, 12, 12), PRETEXT, generator_of())
    assert len(set(views.turns.tolist())) > 1
    inside = (views.places.abs() < 1 - 1 / 12).all(dim=1, keepdim=True).expand_as(views.places)
    assert float(inside.float().mean()) > 0.5
    assert torch.allclose(views.whole[inside], views.places[inside], atol=1e-5)


def test_a_view_has_another_contrast_and_noise_of_it_where_it_lost_something():
    volumes = blobs(40)[0]
    views = make_views(volumes, PRETEXT, generator_of())
    gains = []
    for shown, whole, lost in zip(views.shown, views.whole, views.lost, strict=True):
        kept = torch.stack([whole[~lost], torch.ones_like(whole[~lost])], dim=1)
        line = torch.linalg.lstsq(kept, shown[~lost, None]).solution
        assert torch.allclose(kept @ line, shown[~lost, None], atol=1e-4)  # a gain and a shift, no more
        gains.append(float(line[0]))
        seen = whole * line[0] + line[1]
        assert abs(float(shown[lost].mean() - seen.mean())) < 0.3 * float(seen.std())
        assert float(shown[lost].std()) == pytest.approx(float(seen.std()), rel=0.2)
        assert abs(float(torch.corrcoef(torch.stack([shown[lost], seen[lost]]))[0, 1])) < 0.2
    assert float(torch.tensor(gains).std()) == pytest.approx(0.1, rel=0.4)


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
    volumes, generator = torch.zeros(2, 1, 8, 9, 10), torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match="8 x 9 x 10"):
        make_views(volumes, PretextConfig(block=4), generator)
    upright = make_views(volumes, PretextConfig(block=4, turned_share=0), generator)  # nothing is turned
    assert upright.shown.shape == volumes.shape


class Oracle(torch.nn.Module):
    """A network that restores everything, knows all places and the turns."""

    def __init__(self, views):
        super().__init__()
        self.views = views

    def forward(self, shown):
        outputs = torch.cat([self.views.whole, self.views.places], dim=1)
        return outputs, torch.nn.functional.one_hot(self.views.turns, 4).float()


def test_a_network_that_knows_everything_has_no_loss_in_any_task():
    volumes = blobs(3)[0]
    views = make_views(torch.cat([volumes, volumes]), PRETEXT, generator_of())
    heads = torch.nn.Module()
    heads.turns = lambda features: 100 * features
    heads.embedding = lambda features: torch.eye(3).repeat(2, 1)  # the two views of a volume alike
    config = PRETEXT.model_copy(update={"temperature": 0.1})  # MONAI's exponentials overflow below
    losses = pretext_losses(Oracle(views), heads, volumes, config, generator_of())
    assert float(losses.inpainting) == 0
    assert float(losses.position) == 0
    assert float(losses.rotation) == pytest.approx(0, abs=1e-6)
    assert float(losses.contrast) == pytest.approx(0, abs=1e-3)


def test_errors_count_lost_voxels_and_places_inside_alone_and_all_adds_up_by_weight():
    volumes = torch.ones(1, 1, 8, 8, 8)

    class Zero(torch.nn.Module):
        def forward(self, shown):
            return torch.zeros_like(shown).repeat(1, 4, 1, 1, 1), torch.zeros(len(shown), 4)

    heads = torch.nn.Module()
    heads.turns = heads.embedding = lambda features: features
    losses = pretext_losses(Zero(), heads, volumes, PRETEXT, generator_of())
    views = make_views(volumes, PRETEXT, generator_of())
    assert float(losses.inpainting) == pytest.approx(float(views.whole[views.lost].abs().mean()))
    inside = (views.places.abs() <= 1).all(dim=1)
    assert not inside.all()
    by_voxel = views.places.abs().mean(dim=1)
    assert float(losses.position) == pytest.approx(float(by_voxel[inside].mean()), rel=1e-5)
    assert float(losses.rotation) == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert float(losses.contrast) == 0  # nobody to be told from
    by_hand = float(losses.inpainting) + PRETEXT.rotation_weight * float(losses.rotation)
    by_hand += PRETEXT.position_weight * float(losses.position)
    assert float(losses.total(PRETEXT)) == pytest.approx(by_hand)


def test_without_contrast_a_volume_has_one_view():
    seen = []

    class Counts(torch.nn.Module):
        def forward(self, shown):
            seen.append(len(shown))
            return torch.zeros_like(shown).repeat(1, 4, 1, 1, 1), torch.zeros(len(shown), 4)

    heads = torch.nn.Module()
    heads.turns = heads.embedding = lambda features: features
    for weight in (0.1, 0.0):
        config = PRETEXT.model_copy(update={"contrast_weight": weight})
        losses = pretext_losses(Counts(), heads, torch.ones(3, 1, 8, 8, 8), config, generator_of())
        assert (float(losses.contrast) > 0) == (weight > 0)
    assert seen == [6, 3]


def test_pretraining_learns_and_is_a_function_of_its_generator():
    volumes = torch.nn.functional.avg_pool3d(blobs(8)[0], 2)
    short, long, again = (
        pretrain(volumes, CONV, PRETEXT, ScheduleConfig(steps=steps), generator_of(), CPU)
        for steps in (2, 60, 60)
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
        seen.append(other_contrast(batch, generator))
        return seen[-1]

    monkeypatch.setattr("experiments.segmentation.finetune.other_contrast", watched)
    weights = SegmentationNetwork.fresh(CONV, 1, 1, generator_of(7)).backbone.state_dict()
    for pretrained in (None, weights):
        finetune(volumes, balls, 2, CONV, ScheduleConfig(steps=2), generator_of(), CPU, pretrained)
    assert len(seen) == 4
    assert torch.equal(torch.stack(seen[:2]), torch.stack(seen[2:]))


def centre_of(mass):
    """Return the mean place of a map's mass along each axis, in voxels."""
    axes = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in mass.shape], indexing="ij"))
    return (axes * mass).sum(dim=(1, 2, 3)) / mass.sum()


def test_a_posture_moves_volume_and_label_map_together_and_little():
    volumes, balls = blobs(30)
    places = other_postures(volumes.shape, generator_of())
    assert places.shape == (30, 16, 16, 16, 3)
    moved, labels = posed(volumes, places), posed_labels(balls, places)
    assert labels.dtype == balls.dtype
    assert labels.unique().tolist() == [0, 1]
    assert float(volumes[:, 0][balls > 0].mean()) > 0.5
    assert float(moved[:, 0][labels > 0].mean()) > 0.4  # the ball is bright where its label went
    far = torch.stack(
        [centre_of(after) - centre_of(before) for before, after in zip(balls, labels, strict=True)]
    )
    assert 0.5 < float(far.norm(dim=1).mean()) < 4
    sizes = labels.flatten(1).sum(1) / balls.flatten(1).sum(1)
    assert float(sizes.std()) > 0.1
    assert 0.5 < float(sizes.min()) < float(sizes.max()) < 2


def test_voxels_that_a_posture_brings_in_from_outside_are_background():
    volumes = torch.ones(20, 1, 8, 8, 8)
    places = other_postures(volumes.shape, generator_of())
    moved = posed(volumes, places)
    outside = (places.abs() > 1 + 1 / 8).any(dim=-1)  # more than a voxel away
    assert outside.any()
    assert torch.equal(moved[:, 0][outside], torch.full((int(outside.sum()),), BACKGROUND))
    assert float(moved.max()) == pytest.approx(1)
    assert not posed_labels(volumes[:, 0].long(), places)[outside].any()


def test_places_are_those_of_the_volume_itself():
    """A volume whose voxels say where they are, read at its places, says the places."""
    axes = [(torch.arange(12) + 0.5) / 6 - 1] * 3
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    places = other_postures(torch.Size((2, 1, 12, 12, 12)), generator_of())
    inside = (places.abs() < 1 - 1 / 12).all(dim=-1)
    for index, axis in enumerate((z, y, x)):
        moved = posed(axis.expand(2, 1, 12, 12, 12), places)[:, 0]
        assert torch.allclose(moved[inside], places[..., index][inside], atol=1e-5)


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


def test_where_the_spacing_is_not_known_no_distance_is_measured():
    found = scores_of(box(2, 6), box(4, 8), 2, None)
    assert list(found) == [DICE]
    assert torch.equal(found[DICE], scores_of(box(2, 6), box(4, 8), 2, (1.0, 1.0, 1.0))[DICE])


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
