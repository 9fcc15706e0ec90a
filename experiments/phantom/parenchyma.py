"""Fibroglandular tissue: lobes that fan out from the nipple, woven with fat.

A score per position adds how deep it lies in the breast's gland compartment, strands that run along rays
from the nipple, and a web of lobules; the tissue is where the score is highest, as much of the breast
as its density says. The strands are 12 to 25 mm apart, so that they survive resampling to 5 mm.
"""

import numpy as np

from experiments.phantom.anatomy import Anatomy
from experiments.phantom.field import Field3, noise_at
from experiments.phantom.hospital import Density

# Share of the breast's volume that is fibroglandular. BI-RADS names no numbers: these are ours, apart from
# one another so that a density can be told from its volume.
FIBROGLANDULAR_SHARE: dict[Density, tuple[float, float]] = {
    "a": (0.05, 0.09),
    "b": (0.12, 0.19),
    "c": (0.23, 0.32),
    "d": (0.38, 0.50),
}

SUBCUTANEOUS_MM = 9.0  # fat between skin and gland
RETROMAMMARY_MM = 9.0  # fat between gland and muscle
STRAND_MM = 21.0  # distance between strands half way to the muscle
LOBULE_MM = 15.0
LIGAMENT_MM = 40.0


def gland_share(density: Density, generator: np.random.Generator) -> float:
    """Return the fibroglandular share of one patient's breasts."""
    low, high = FIBROGLANDULAR_SHARE[density]
    return float(generator.uniform(low, high))


def grow_gland(anatomy: Anatomy, share: float, generator: np.random.Generator) -> Field3:
    """Return the coverage of fibroglandular tissue, about ``share`` of the breast's volume."""
    grid = anatomy.grid
    # Muscle is drawn over the gland, but nothing hides gland in the skin or in the fat of the chest.
    margin = np.minimum(anatomy.depth_mm - anatomy.shape.skin, anatomy.outline_mm - 3)
    reach = grid.coverage(np.minimum(anatomy.above_muscle_mm - 2, margin))
    reachable = reach > 0
    # Warped noise is the costly part, so it is evaluated in the breast only.
    rays = _rays(anatomy)[:, reachable]
    lobes = noise_at(rays, STRAND_MM, generator)
    septa = np.abs(noise_at(rays, 2 * STRAND_MM, generator))
    score = 1.2 * _compartment(anatomy) + 0.4 * grid.smooth_noise(LOBULE_MM, generator)
    score[reachable] += 0.7 * lobes + 0.8 * np.clip(septa / 0.5, 0, 1)
    threshold = np.quantile(score[reachable & anatomy.in_breast], 1 - share)
    coverage = np.clip(0.5 + (score - threshold) / 0.9, 0, 1)
    coverage = np.maximum(coverage, _ligaments(anatomy, generator))
    return np.asarray(coverage * reach, dtype=np.float32)


def _compartment(anatomy: Anatomy) -> Field3:
    """Return how central a position is: 1 in the gland's core, falling below 0 in the fat around it."""
    to_tip = _distance_to_nipple(anatomy)
    # Behind the nipple the ducts reach the skin.
    skin_fat = SUBCUTANEOUS_MM * (1 - np.exp(-((to_tip / 18.0) ** 2)))
    from_skin = (anatomy.depth_mm - skin_fat) / 16.0
    from_muscle = (anatomy.above_muscle_mm - RETROMAMMARY_MM) / 16.0
    upper_outer = (anatomy.axes[0] + anatomy.axes[2]) / 250.0
    return np.asarray(np.clip(np.minimum(from_skin, from_muscle), -2, 1) + upper_outer, dtype=np.float32)


def _rays(anatomy: Anatomy) -> Field3:
    """Return coordinates (3, x, y, z) in which rays from the nipple are parallel, and shortened."""
    tip_u, tip_y, tip_w = anatomy.shape.nipple
    u, y, w = anatomy.axes
    behind = np.clip(tip_y - y, 0, None)
    # Rays diverge less than in true perspective: lobes branch on their way to the muscle.
    spread = ((behind + 20.0) / (anatomy.shape.projection / 2 + 20.0)) ** 0.6
    across, up = (u - tip_u) / spread, (w - tip_w) / spread
    return np.stack(np.broadcast_arrays(across, behind / 2.5, up)).astype(np.float32)


def _ligaments(anatomy: Anatomy, generator: np.random.Generator) -> Field3:
    """Return the coverage of Cooper's ligaments: thin sheets through the fat, never most of a voxel."""
    sheets = np.abs(anatomy.grid.smooth_noise(LIGAMENT_MM, generator))
    within = anatomy.in_breast & (anatomy.depth_mm > 5)
    return np.asarray(0.35 * within * np.exp(-((sheets / 0.2) ** 2)), dtype=np.float32)


def _distance_to_nipple(anatomy: Anatomy) -> Field3:
    """Return the distance from the nipple in mm."""
    tip_u, tip_y, tip_w = anatomy.shape.nipple
    u, y, w = anatomy.axes
    return np.asarray(np.sqrt((u - tip_u) ** 2 + (y - tip_y) ** 2 + (w - tip_w) ** 2), dtype=np.float32)
