"""`fedvox synth`: synthetic volumes from a trained run."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress

from cli.console import err, out, print_json
from experiments.synthetic_set import make_synthetic_set
from server.released_model import load_released_model
from server.run_folder import RunFolder


def synth(
    run: Annotated[Path, typer.Option("--run", help="Folder of a finished run.")],
    num: Annotated[int, typer.Option("--num", min=1, help="Number of volumes.")] = 64,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the volumes; RUN/synthetic by default.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the set.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Volumes at a time.")] = 8,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Make synthetic volumes: NIfTI files, a manifest that says how they were made, and a montage.

    An interrupted call goes on where it stopped.

    Example: [bold]fedvox synth --run runs/demo --num 64 --out synthetic --seed 7[/]
    """
    opened = RunFolder.open(run)
    model = load_released_model(opened, torch.device(device))
    target = folder or opened.synthetic
    with Progress(console=err, disable=json) as progress:
        task = progress.add_task("synthesis", total=num)
        manifest = make_synthetic_set(
            model,
            target,
            num,
            seed,
            batch_size=batch_size,
            after_batch=lambda done: progress.update(task, completed=done),
        )
    if json:
        print_json(manifest)
    else:
        out.print(f"{num} volumes, manifest.json and montage.png in {target}", highlight=False)
