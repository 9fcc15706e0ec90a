"""How well label maps agree with an expert's: Dice, 95 % Hausdorff and mean surface distance, per class.

Measured by MONAI. A class that is missing from one of two maps only has Dice 0 and distances as long as the
volume's diagonal; missing from both it has no score.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from common.volume.labels import LabelMaps

DICE, HAUSDORFF, SURFACE = "Dice", "HD95 (mm)", "surface distance (mm)"
Scores = dict[str, Float[Tensor, "volume class"]]


def scores_of(
    predicted: LabelMaps, true: LabelMaps, num_classes: int, spacing_mm: tuple[float, float, float] | None
) -> Scores:
    """Return each measure for every volume and class; NaN where neither map has the class.

    Args:
        predicted: On the CPU.
        true: On the same voxels.
        num_classes: Background included, which is not scored.
        spacing_mm: Between voxels; None where it is not known, and no distance is measured.
    """
    # Seconds that who only reads the names of the measures does not need.
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
    from monai.networks.utils import one_hot

    maps = [one_hot(each[:, None], num_classes) for each in (predicted, true)]
    has = [each[:, 1:].flatten(2).any(dim=2) for each in maps]
    one_only, neither = has[0] ^ has[1], ~(has[0] | has[1])
    found: Scores = {DICE: compute_dice(*maps, include_background=False, ignore_empty=True)}
    diagonal = 0.0
    if spacing_mm is not None:
        distances = {"include_background": False, "spacing": list(spacing_mm)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that a map lacks: they are seen to below
            found[HAUSDORFF] = compute_hausdorff_distance(*maps, percentile=95, **distances)
            found[SURFACE] = compute_average_surface_distance(*maps, symmetric=True, **distances)
        edges = [s * (n - 1) for s, n in zip(spacing_mm, true.shape[1:], strict=True)]
        diagonal = sum((edge**2 for edge in edges), 0.0) ** 0.5
    for name, values in found.items():
        values[one_only] = 0.0 if name == DICE else diagonal
        values[neither] = torch.nan
    return found
