"""From a trained model to a folder of synthetic NIfTI volumes that says how it was made.

Volume i depends only on the model, the sampler and the seed (S, i): a larger set begins with the
smaller one, and an interrupted one goes on where it stopped. ``manifest.json`` is written last; a
folder without it is not finished. In a study with labels the images are in ``images/``, each with its label
map in ``labels/``: a data folder as a site has it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.artifact import sha256_of_file, write_text_atomic
from common.diffusion.config import SamplerConfig
from common.diffusion.sampling import sample_latents
from common.errors import RunError
from common.federation.seeds import derive_seed
from common.shapes import Volume, VolumeBatch
from common.volume.labels import from_channels, stored
from common.volume.nifti import write_label_map, write_volume
from common.volume.spec import VolumeSpec
from server.promise import promise
from server.released_model import ReleasedModel, balanced_label
from server.run_folder import versions

MANIFEST = "manifest.json"
PARTIAL = "manifest.partial.json"
SEEDS = 1 << 32  # that PyTorch's CPU generator tells apart


def synthesize(
    model: ReleasedModel,
    folder: Path,
    num: int,
    seed: int,
    sampler: SamplerConfig | None = None,
    batch_size: int = 8,
    after_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Write ``num`` synthetic volumes and a manifest into ``folder``.

    Args:
        model: What to sample.
        folder: A new folder, or one that an interrupted call with the same arguments left.
        num: Number of volumes.
        seed: Seed of the set.
        sampler: How to sample; the study's sampler if absent.
        batch_size: Volumes at a time; memory only.
        after_batch: Called with the number of volumes done.

    Returns:
        The manifest.

    Raises:
        RunError: ``folder`` holds something else.
        ArtifactError: The disk is full; what was written so far is complete and will be used.
    """
    sampler = sampler or model.study.diffusion.model.sampler
    recipe = _recipe(model, sampler, num, seed)
    done = _open_folder(folder, recipe)
    remaining = [index for index in range(num) if index not in done]
    for start in range(0, len(remaining), batch_size):
        indices = remaining[start : start + batch_size]
        for index, volume in zip(indices, _sample(model, sampler, indices, seed, batch_size), strict=True):
            done[index] = [
                {"file": path.relative_to(folder).as_posix(), "sha256": sha256_of_file(path)}
                for path in _write(folder, volume_name(index), volume, model.study.volume)
            ]
        write_text_atomic(
            folder / PARTIAL, json.dumps({**recipe, "done": {str(k): v for k, v in done.items()}})
        )
        if after_batch is not None:
            after_batch(len(done))
    manifest = {
        **recipe,
        "versions": versions(),
        "volumes": [
            {
                "index": index,
                "seed": volume_seed(seed, index),
                "label": balanced_label(model.study, index),
                "files": done[index],
            }
            for index in range(num)
        ],
    }
    write_text_atomic(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (folder / PARTIAL).unlink(missing_ok=True)
    return manifest


def volume_name(index: int) -> str:
    """Return the file stem of volume ``index``."""
    return f"synthetic-{index:05d}"


def volume_seed(seed: int, index: int) -> int:
    """Return the seed of one volume's noise: no two volumes of a set share it.

    PyTorch's CPU generator uses 32 bits of a seed. Hashed indices would agree in them by chance, in a
    set of 64,000 volumes with even odds, and agreeing volumes are copies; counted on from the set's own
    place they cannot.
    """
    return (derive_seed("synthesis", seed) + index) % SEEDS


def _write(folder: Path, name: str, volume: Volume, spec: VolumeSpec) -> list[Path]:
    """Write one volume, and its label map into a folder beside the images if the study has labels."""
    if not spec.labels:
        return write_volume(folder / name, volume, spec)
    images, labels = folder / "images", folder / "labels"
    for place in (images, labels):
        place.mkdir(exist_ok=True)
    label_map = stored(from_channels(volume[None, spec.num_channels :])[0], spec.labels)
    written = write_volume(images / name, volume[: spec.num_channels], spec)
    return [*written, write_label_map(labels / name, label_map, spec)]


def _recipe(model: ReleasedModel, sampler: SamplerConfig, num: int, seed: int) -> dict[str, Any]:
    """Return everything that decides the voxels, and what a reader must know about them."""
    volume = model.study.volume
    nominal = [axis for axis, spacing in zip("xyz", volume.spacing_mm, strict=True) if spacing == "keep"]
    return {
        "kind": "fedvox synthetic volumes",
        "study": model.study.name,
        "config_sha256": model.study.digest,
        "model_sha256": model.digest,
        "diffusion_rounds": model.rounds,
        "num": num,
        "seed": seed,
        "sampler": sampler.model_dump(mode="json"),
        "objective": model.study.diffusion.model.objective,
        "condition": model.study.diffusion.model.condition.kind,
        "channels": list(volume.channels),
        "labels": {one.name: one.values[0] for one in volume.labels},
        "shape": list(volume.shape),
        "spacing_mm": list(volume.written_spacing_mm),
        "nominal_spacing_axes": nominal,
        "intensity_range": list(volume.output_range),
        "sites": model.participation.facts(),
        "differential_privacy": promise(model.study, model.books),
    }


def _open_folder(folder: Path, recipe: dict[str, Any]) -> dict[int, list[dict[str, str]]]:
    """Return what an earlier call with the same recipe finished, after checking its files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, PARTIAL):
        path = folder / name
        if not path.is_file():
            continue
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if {key: earlier.get(key) for key in recipe} != recipe:
            raise RunError(f"{folder} holds another set of volumes", "choose another --out")
        finished = earlier.get("volumes", ())
        files = earlier.get("done", {str(volume["index"]): volume["files"] for volume in finished})
        return {int(index): entry for index, entry in files.items() if _intact(folder, entry)}
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):  # not a write that was cut short
        raise RunError(f"{folder} is not empty and holds no manifest", "choose another --out")
    write_text_atomic(folder / PARTIAL, json.dumps({**recipe, "done": {}}))
    return {}


def _intact(folder: Path, entry: Sequence[dict[str, str]]) -> bool:
    paths = [(folder / item["file"], item["sha256"]) for item in entry]
    return all(path.is_file() and sha256_of_file(path) == digest for path, digest in paths)


def _sample(
    model: ReleasedModel, sampler: SamplerConfig, indices: Sequence[int], seed: int, batch_size: int
) -> VolumeBatch:
    """Return the volumes of ``indices``, with label channels if there are some, float32 on the CPU."""
    device = next(model.codec.parameters()).device
    labels = [label for index in indices if (label := balanced_label(model.study, index)) is not None]
    config = model.study.diffusion.model.model_copy(update={"sampler": sampler})
    decoded = []
    with torch.inference_mode():
        for latent in sample_latents(
            model.denoiser,
            config,
            (model.study.codec.model.code_dim, *model.study.latent_shape),
            labels=labels or None,
            seeds=[volume_seed(seed, index) for index in indices],
            batch_size=batch_size,
            device=device,
        ):
            volume = model.codec.decode(model.scale.denormalize(latent), snap=sampler.snap_to_codebook)
            decoded.append(volume.float().cpu())  # what is outside [-1, 1] is cut off when it is written
    return torch.cat(decoded)
