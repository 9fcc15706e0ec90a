"""A pretrained network's weights as one file that plain MONAI loads."""

import json
from pathlib import Path

from safetensors.torch import save

from common.artifact import read_tensor_folder, write_bytes_atomic
from common.errors import DataError
from common.frozen import parse
from experiments.segmentation.jobs import PRETRAINED, WEIGHTS
from experiments.segmentation.network import KINDS, NetworkConfig, monai_arguments


def export_weights(folder: Path, path: Path) -> str:
    """Write the weights of a pretrained network and return the lines of Python that load them.

    The file's metadata hold the name of the MONAI class and the arguments of its constructor, as JSON. As it
    was pretrained, the network restores volumes and says where voxels lie: replace its output layer.

    Args:
        folder: Of one pretrained network, as an experiment left it.
        path: Where to.

    Raises:
        ArtifactError: The folder is damaged, or the file cannot be written.
        DataError: It holds something else, or ``path`` exists.
    """
    if path.exists():
        raise DataError(f"{path} exists", "choose another name")
    tensors, manifest = read_tensor_folder(folder)
    if manifest.get("kind") != PRETRAINED:
        raise DataError(f"{folder} holds no {PRETRAINED}", "name a folder below work/*/pretrained")
    config = parse(NetworkConfig, manifest["network"], where=str(folder))
    arguments = monai_arguments(config, manifest["channels"], manifest["outputs"])
    name = KINDS[config.kind].network.__name__
    facts = {"network": f"monai.networks.nets.{name}", "arguments": json.dumps(arguments)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, save(tensors[WEIGHTS], facts | {"arm": manifest["arm"]}))
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return (
        f"from monai.networks.nets import {name}\n"
        "from safetensors.torch import load_file\n\n"
        f"network = {name}({written})\n"
        f"network.load_state_dict(load_file({str(path)!r}))"
    )
