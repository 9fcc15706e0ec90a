"""Vessels: tubes beneath the skin toward the nipple, and the internal mammary vessels beside the sternum."""

import numpy as np

from experiments.phantom.anatomy import Anatomy
from experiments.phantom.field import Field3
from experiments.phantom.tube import TubePath, paint_tube


def grow_vessels(anatomy: Anatomy, generator: np.random.Generator) -> Field3:
    """Return the coverage of three to five superficial vessels, some branching, and the mammary trunk."""
    distance = np.full(anatomy.grid.shape, -100.0, dtype=np.float32)
    for index in range(int(generator.integers(3, 6))):
        # Most enter from the sternum's side and from above, as the perforating branches do.
        angle = generator.uniform(0.45, 1.25) * np.pi if index else generator.uniform(0.0, 0.4) * np.pi
        path = _superficial(anatomy, float(angle), generator)
        paint_tube(distance, anatomy.axes, anatomy.grid.voxel_mm, path)
        if generator.random() < 0.6:
            paint_tube(distance, anatomy.axes, anatomy.grid.voxel_mm, _branch(path, generator))
    paint_tube(distance, anatomy.axes, anatomy.grid.voxel_mm, _mammary_trunk(anatomy, generator))
    return anatomy.grid.coverage(distance)


def _superficial(anatomy: Anatomy, angle: float, generator: np.random.Generator) -> TubePath:
    """Return a path below the skin from the chest toward the nipple."""
    steps = 14
    height = np.linspace(0.02, generator.uniform(0.7, 0.9), steps).astype(np.float32)
    wander = np.cumsum(generator.normal(0.0, 0.10, steps))
    angles = (angle + wander - wander[0]).astype(np.float32)
    u, y, w = anatomy.shape.on_shell(angles, height, inset=generator.uniform(0.82, 0.9))
    radius = np.linspace(generator.uniform(2.2, 3.0), 1.3, steps)
    return np.stack([u, y, w, radius], axis=1).astype(np.float32)


def _branch(path: TubePath, generator: np.random.Generator) -> TubePath:
    """Return a branch that leaves ``path`` half way and dives into the breast."""
    origin = path[int(generator.integers(4, 8))]
    steps = 8
    # Straight toward the axis, with a wobble.
    inward = np.array([-origin[0], generator.uniform(0.0, 15.0), -origin[2]], dtype=np.float32)
    progress = np.linspace(0, generator.uniform(0.5, 0.8), steps, dtype=np.float32)[:, None]
    points = origin[:3] + progress * inward + np.cumsum(generator.normal(0.0, 1.6, (steps, 3)), axis=0)
    points[0] = origin[:3]
    radius = np.linspace(float(origin[3]) * 0.9, 1.1, steps)[:, None]
    return np.concatenate([points, radius], axis=1).astype(np.float32)


def _mammary_trunk(anatomy: Anatomy, generator: np.random.Generator) -> TubePath:
    """Return the internal mammary vessels: upright, behind the muscle, beside the sternum."""
    w = np.linspace(-100, 100, 12, dtype=np.float32)
    u = np.full_like(w, generator.uniform(-66, -58)) + generator.normal(0.0, 1.0, w.size).astype(np.float32)
    y = anatomy.shape.wall(u, w) - np.float32(anatomy.shape.muscle)
    return np.stack([u, y, w, np.full_like(w, 2.4)], axis=1)
