"""An enhancing mass: lobulated, sometimes with spicules, sometimes with a rim."""

from dataclasses import dataclass

import numpy as np

from experiments.phantom.anatomy import Anatomy
from experiments.phantom.field import Field3
from experiments.phantom.tissue import Kinetics
from experiments.phantom.tube import TubePath, paint_tube


@dataclass(frozen=True)
class Lesion:
    """One mass on a grid.

    Attributes:
        coverage: Share of each voxel that is mass.
        uptake: Factor on the mass' enhancement; below 1 in a core that hardly takes up agent.
        kinetics: Shape of its curve.
    """

    coverage: Field3
    uptake: Field3
    kinetics: Kinetics


def grow_lesion(anatomy: Anatomy, gland: Field3, generator: np.random.Generator) -> Lesion:
    """Return a mass of 6 to 13 mm radius in or beside the gland."""
    centre = _place(anatomy, gland, generator)
    radii = generator.uniform(6.0, 13.0) * generator.uniform(0.85, 1.15, 3)
    offsets = [axis - middle for axis, middle in zip(anatomy.axes, centre, strict=True)]
    scaled = np.sqrt(sum((o / r) ** 2 for o, r in zip(offsets, radii, strict=True)))
    radius = float(radii.mean())
    inside = (1 - scaled) * radius + 0.12 * radius * anatomy.grid.smooth_noise(radius, generator)
    distance = inside.astype(np.float32)
    kinetics = list(Kinetics)[int(generator.choice(3, p=[0.5, 0.25, 0.25]))]
    if kinetics is not Kinetics.PERSISTENT:
        for _ in range(int(generator.integers(0, 6))):
            paint_tube(distance, anatomy.axes, anatomy.grid.voxel_mm, _spicule(centre, radius, generator))
    rim = generator.random() < 0.35 and radius > 9.0
    core = np.clip(1 - scaled / 0.75, 0, 1) if rim else np.zeros_like(scaled)
    return Lesion(anatomy.grid.coverage(distance), (1 - 0.9 * core).astype(np.float32), kinetics)


def _place(anatomy: Anatomy, gland: Field3, generator: np.random.Generator) -> np.ndarray:
    """Return (u, y, w) of the centre: a voxel of the gland's edge, clear of skin and muscle."""
    clear = anatomy.in_breast & (anatomy.depth_mm > 14) & (anatomy.above_muscle_mm > 14)
    edge = np.flatnonzero(clear & (gland > 0.1) & (gland < 0.9))
    candidates = edge if edge.size else np.flatnonzero(clear)
    index = np.unravel_index(int(generator.choice(candidates)), anatomy.grid.shape)
    return np.array([axis.ravel()[i] for axis, i in zip(anatomy.axes, index, strict=True)], dtype=np.float32)


def _spicule(centre: np.ndarray, radius: float, generator: np.random.Generator) -> TubePath:
    """Return a short tapering tube from the centre outward."""
    direction = generator.standard_normal(3)
    direction /= np.linalg.norm(direction)
    end = centre + direction * radius * generator.uniform(1.4, 1.9)
    return np.array([[*centre, 2.4], [*end, 0.9]], dtype=np.float32)
