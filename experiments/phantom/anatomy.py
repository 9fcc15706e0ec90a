"""The outline: a breast on a curved chest wall, with ribs and lung behind.

Positions are (u, y, w) in millimetres: u is lateral (away from the sternum), y anterior, w superior. The
pectoral muscle's front is a paraboloid; the breast is a half super-ellipsoid on it whose axis bends down
with ptosis and whose upper outer quadrant reaches toward the axilla; a smooth union with the fat of the
chest makes the fold beneath it.
"""

from dataclasses import dataclass

import numpy as np

from experiments.phantom.field import Field3, Grid
from experiments.phantom.hospital import Population

WALL_CREST_MM = -25.0  # u where the chest wall is furthest forward, toward the sternum
WALL_RADIUS_Z_MM = 350.0
NIPPLE_MM = 6.0
FOLD_MM = 14.0  # width of the smooth union between breast and chest


@dataclass(frozen=True)
class BreastShape:
    """One breast in numbers, all in mm unless said.

    Attributes:
        radius_u: Half width of the base from side to side.
        radius_w: Half height of the base.
        projection: From muscle to nipple.
        ptosis: Drop of the nipple.
        lateral: How far the nipple points outward.
        profile: Exponent along the axis: 2 is an ellipsoid, more is blunter.
        axillary_tail: Relative extension of the base up and outward.
        wall_y: Position of the muscle's front at its crest.
        wall_radius: Radius of the chest wall from side to side.
        chest_fat: Thickness of the fat on the chest beside the breast, skin included.
        skin: Thickness of the skin.
        muscle: Thickness of the pectoral muscle.
        lump: Height of irregularities of the outline.
    """

    radius_u: float
    radius_w: float
    projection: float
    ptosis: float
    lateral: float
    profile: float
    axillary_tail: float
    wall_y: float
    wall_radius: float
    chest_fat: float
    skin: float
    muscle: float
    lump: float

    def wall(self, u: Field3, w: Field3) -> Field3:
        """Return y of the muscle's front."""
        return self.wall_y - (u - WALL_CREST_MM) ** 2 / (2 * self.wall_radius) - w**2 / (2 * WALL_RADIUS_Z_MM)

    def on_shell(self, angle: Field3, height: Field3, inset: float) -> tuple[Field3, Field3, Field3]:
        """Return (u, y, w) at polar ``angle`` and relative ``height`` above the muscle.

        Args:
            angle: Radians around the axis; 0 is lateral, pi/2 superior.
            height: 0 at the muscle, 1 at the nipple.
            inset: Share of the outline's radius: 1 lies on the skin.
        """
        rho = inset * np.sqrt(np.clip(1 - height**self.profile, 0, 1))
        u = self.lateral * height + self.radius_u * rho * np.cos(angle)
        w = -self.ptosis * height**2 + self.radius_w * rho * np.sin(angle)
        return u, self.wall(u, w) + height * self.projection, w

    @property
    def nipple(self) -> tuple[float, float, float]:
        """(u, y, w) of the nipple."""
        u, y, w = self.on_shell(np.zeros(1, np.float32), np.ones(1, np.float32), inset=1.0)
        return float(u[0]), float(y[0]), float(w[0])


@dataclass(frozen=True)
class Anatomy:
    """The outline on a grid.

    Attributes:
        grid: Where it is sampled.
        shape: The breast it was made from.
        axes: (u, y, w) of each voxel, shaped to broadcast; the sign of u depends on the side.
        depth_mm: Distance below the skin's surface, negative in air.
        above_muscle_mm: Distance in front of the pectoral muscle, negative behind its front.
        outline_mm: Distance inside the breast's own outline, negative in the fat of the chest beside it.
    """

    grid: Grid
    shape: BreastShape
    axes: tuple[Field3, Field3, Field3]
    depth_mm: Field3
    above_muscle_mm: Field3
    outline_mm: Field3

    @property
    def in_breast(self) -> np.ndarray:
        """Voxels of the breast proper: before the muscle, within the outline, below the skin."""
        return (self.above_muscle_mm > 0) & (self.outline_mm > 0) & (self.depth_mm > self.shape.skin)


def draw_shape(population: Population, generator: np.random.Generator) -> BreastShape:
    """Return the breast shape of one patient."""
    size = 1 + population.size_spread * float(np.clip(generator.standard_normal(), -2, 2))
    longer = 1 + population.size_spread * float(np.clip(generator.standard_normal(), -2, 2))
    radius = population.radius_mm * size
    projection = population.projection_mm * size * longer
    return BreastShape(
        radius_u=radius * generator.uniform(0.95, 1.05),
        radius_w=radius * generator.uniform(1.0, 1.12),
        projection=projection,
        ptosis=population.ptosis_mm * generator.uniform(0.4, 1.6),
        lateral=generator.uniform(2.0, 10.0),
        profile=generator.uniform(1.9, 2.8),
        axillary_tail=generator.uniform(0.05, 0.25),
        # The scan is centred on the breast with its fat, not on the muscle.
        wall_y=-0.5 * projection + 2.0 + generator.normal(0.0, 2.0),
        wall_radius=generator.uniform(130.0, 190.0),
        chest_fat=generator.uniform(10.0, 17.0),
        skin=generator.uniform(2.2, 3.4),
        muscle=generator.uniform(9.0, 15.0),
        lump=generator.uniform(1.0, 2.5),
    )


def build_anatomy(shape: BreastShape, grid: Grid, side: int, generator: np.random.Generator) -> Anatomy:
    """Return ``shape`` on ``grid``; ``side`` is +1 for a right breast and -1 for a left one."""
    x, y, w = grid.axes
    u = np.float32(side) * x
    above = y - shape.wall(u, w)
    height = above / np.float32(shape.projection)
    du = u - np.float32(shape.lateral) * height
    dw = w + np.float32(shape.ptosis) * height * np.abs(height)
    angle = np.arctan2(dw, du)
    reach = 1 + shape.axillary_tail * np.clip(np.cos(angle - np.pi / 4), 0, None) ** 2
    rho_squared = (du / shape.radius_u) ** 2 + (dw / shape.radius_w) ** 2
    level = 1 - rho_squared / reach**2 - np.abs(height) ** shape.profile
    breast = grid.distance_mm(level.astype(np.float32))
    chest = shape.chest_fat - above
    depth = _smooth_union(breast, chest) + shape.lump * grid.smooth_noise(60.0, generator)
    depth = np.maximum(depth, _nipple(shape, u, y, w))
    return Anatomy(grid, shape, (u, y, w), depth.astype(np.float32), above.astype(np.float32), breast)


def _smooth_union(a: Field3, b: Field3) -> Field3:
    """Return a distance to the union of two bodies whose crease is filled over ``FOLD_MM``.

    The quadratic polynomial smooth minimum (I. Quilez, "smooth minimum"), with its sign turned.
    """
    blend = np.clip(0.5 + (a - b) / (2 * FOLD_MM), 0, 1)
    return np.asarray(b + (a - b) * blend + FOLD_MM * blend * (1 - blend), dtype=np.float32)


def _nipple(shape: BreastShape, u: Field3, y: Field3, w: Field3) -> Field3:
    """Return the depth inside the ball around the tip."""
    tip_u, tip_y, tip_w = shape.nipple
    away = np.sqrt((u - tip_u) ** 2 + (y - tip_y) ** 2 + (w - tip_w) ** 2)
    return np.asarray(NIPPLE_MM - away, dtype=np.float32)
