"""The shapes that cross file borders, named once.

Axes are x, y, z in RAS orientation: x grows to the patient's right, y to anterior, z to superior.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Volume = Float[Tensor, "channel x y z"]
VolumeBatch = Float[Tensor, "batch channel x y z"]
MaskBatch = Bool[Tensor, "batch 1 x y z"]
LabelMap = Int[Tensor, "x y z"]
Latent = Float[Tensor, "batch code_dim u v w"]  # u, v, w: x, y, z after downsampling
CodeIndices = Int[Tensor, "batch u v w"]
PerExample = Float[Tensor, " batch"]
Labels = Int[Tensor, " batch"]  # class or site index per example, -1 where there is no condition
LatentLike = Float[Tensor, "batch *axes"]  # formulas that hold at any rank, so 2D toys share them
