"""The tables of docs/results.md, made from the committed figures in experiments/results/.

    python -m experiments.results_page          # writes the tables anew

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; the words around it are a person's. No
figure is typed by hand, so none can differ from the file that a command wrote.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.artifact import write_text_atomic
from experiments.baselines.table import comparison_text
from experiments.codec_bench import codec_bench_text
from experiments.markdown import interval_text, markdown_table
from experiments.privacy_utility.table import privacy_utility_text
from experiments.private_cost import private_cost_text
from experiments.quantizer_bench import quantizer_bench_text
from experiments.segmentation.table import segmentation_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RESULTS = Path(__file__).parent / "results"
SEGMENTATIONS = sorted(file.stem for file in (Path(__file__).parent / "configs").glob("segmentation-*.yaml"))


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return the metrics of one run as two tables: what the codec keeps, what the generator makes."""
    sites = metrics["reconstruction"]
    kept = [
        ["patients", *(str(site["patients"]) for site in sites.values())],
        ["PSNR, dB", *(interval_text(site["psnr"], 1) for site in sites.values())],
        ["MS-SSIM", *(f"{site['ms_ssim']['estimate']:.3f}" for site in sites.values())],
        [
            "intensity deviation kept",
            *(f"{site['intensity_std']['estimate']:.2f}" for site in sites.values()),
        ],
        ["contrast kept", *(f"{site['texture']['contrast']:.2f}" for site in sites.values())],
        ["high frequencies kept", *(f"{site['texture']['high_frequency']:.2f}" for site in sites.values())],
    ]
    made = metrics["synthetic"]
    rows = [
        *(
            [f"{title} ratio", f"{made['texture'][name]:.2f}", f"{made['texture'][f'{name}_floor']:.2f}"]
            for title, name in (("contrast", "contrast"), ("high-frequency", "high_frequency"))
        ),
        *(
            [f"MMD², `{name}`", interval_text(distance["mmd"], 3), f"{distance['mmd_floor']:.3f}"]
            for name, distance in made["distances"].items()
        ),
        *(
            [f"Fréchet, `{name}`", f"{distance['frechet']:.2f}", f"{distance['frechet_floor']:.2f}"]
            for name, distance in made["distances"].items()
        ),
        [
            "MS-SSIM among themselves",
            f"{made['pairwise_ms_ssim']['synthetic']:.2f}",
            f"{made['pairwise_ms_ssim']['real']:.2f}",
        ],
    ]
    return "\n\n".join(
        (
            markdown_table(["reconstruction", *sites], kept),
            markdown_table([f"{made['n']} synthetic volumes", "value", "real against real"], rows),
        )
    )


TABLES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "demo": ("demo.json", metrics_text),
    "hippocampus": ("hippocampus.json", metrics_text),
    "breast_dce": ("breast_dce.json", metrics_text),
    "baselines hippocampus": ("baselines_hippocampus.json", comparison_text),
    "baselines breast_dce": ("baselines_breast_dce.json", comparison_text),
    "codec_bench": ("codec_bench.json", codec_bench_text),
    "privacy_utility": ("privacy_utility.json", privacy_utility_text),
    "private_cost": ("private_cost.json", private_cost_text),
    "quantizers": ("quantizers.json", quantizer_bench_text),
    **{name: (f"{name}.json", segmentation_text) for name in SEGMENTATIONS},
}


def with_tables(page: str, results: Path = RESULTS) -> str:
    """Return ``page`` with every table made from its file.

    Raises:
        ValueError: A measured table has no place on the page, or a place has no figures.
    """
    for name, (file, text_of) in TABLES.items():
        if not (results / file).is_file():
            if f"<!-- {name} -->" in page:
                raise ValueError(f"the page has a place for {name}, but {file} was not measured")
            continue
        content = json.loads((results / file).read_text(encoding="utf-8"))
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        table = text_of(content)
        page, found = place.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
        if found != 1:
            raise ValueError(f"{found} places for the table {name}: write <!-- {name} --> and its end once")
    return page


if __name__ == "__main__":
    write_text_atomic(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))
