"""The comparison of one study as Markdown: what docs/results.md shows."""

from collections.abc import Mapping
from typing import Any

from experiments.markdown import interval_text, markdown_table

Results = Mapping[str, Any]
EXTRACTORS = ("random_conv", "descriptor")


def comparison_text(results: Results) -> str:
    """Return all tables of one study's comparison, each with the sentence that says what it is.

    Args:
        results: What `compare` returned.
    """
    steps, patients = results["steps"], results["test_patients"]
    minutes = sum(results["seconds"].values()) / 60
    facts = (
        f"`{results['command']}` trained for {minutes:.0f} minutes in all. "
        f"Training seed {results['training_seed']} only. Every model made {steps['codec']} codec and "
        f"{steps['diffusion']} denoiser steps in a row (`pooled-3x` three times as many), of the same batch "
        f"size. Test patients: {', '.join(f'{site} {num}' for site, num in patients.items())}."
    )
    blocks = [
        (facts, None),
        ("Reconstruction, mean over test patients [95 % interval over patients].", _reconstruction(results)),
        (
            "PSNR of the federated codec minus another's, paired by patient; a local model is judged on the "
            "other sites' patients.",
            _psnr_differences(results),
        ),
        (
            "Synthetic volumes against the test patients of all sites, "
            f"n = {results['generation']['federated']['n']} of each; beside them, as many real training "
            "patients (in the column MS-SSIM, the test patients themselves). "
            "`federated-snapped`: the same sampled latents, snapped to the codebook before decoding.",
            _generation(results),
        ),
        (
            "MMD² of the federated generator minus another's, to the test patients of all sites: negative "
            "means that the federated one is nearer.",
            _mmd_differences(results),
        ),
    ]
    return "\n\n".join(part for pair in blocks for part in pair if part is not None)


def _reconstruction(results: Results) -> str:
    sites = list(results["test_patients"])
    columns = ["model", *(f"{site}: PSNR, dB" for site in sites), "MS-SSIM", "intensity deviation kept"]
    rows = []
    for arm, metrics in results["reconstruction"].items():
        others = (
            " / ".join(f"{metrics[name][site]['estimate']:.{digits}f}" for site in sites)
            for name, digits in (("ms_ssim", 3), ("intensity_std", 2))
        )
        rows.append([_name(arm), *(interval_text(metrics["psnr"][site], 1) for site in sites), *others])
    return markdown_table(columns, rows)


def _psnr_differences(results: Results) -> str:
    sites = list(results["test_patients"])
    rows = [
        [_name(arm), *(interval_text(by_site[s], 2, signed=True) if s in by_site else "-" for s in sites)]
        for arm, by_site in results["psnr_federated_minus"].items()
    ]
    return markdown_table(["federated minus", *(f"on patients of {site}, dB" for site in sites)], rows)


def _generation(results: Results) -> str:
    columns = [
        "model",
        *(f"MMD², `{name}`" for name in EXTRACTORS),
        *(f"Fréchet, `{name}`" for name in EXTRACTORS),
        "MS-SSIM among themselves",
        "contrast ratio",
        "high-frequency ratio",
    ]
    rows = []
    for arm, measured in results["generation"].items():
        distances, texture = measured["distances"], measured["texture"]
        rows.append(
            [
                _name(arm),
                *(interval_text(distances[name]["mmd"], 3) for name in EXTRACTORS),
                *(f"{distances[name]['frechet']:.2f}" for name in EXTRACTORS),
                f"{measured['pairwise_ms_ssim']['synthetic']:.2f}",
                f"{texture['contrast']:.2f}",
                f"{texture['high_frequency']:.2f}",
            ]
        )
    floor = results["generation"]["federated"]
    rows.append(
        [
            "real training patients",
            *(f"{floor['distances'][name]['mmd_floor']:.3f}" for name in EXTRACTORS),
            *(f"{floor['distances'][name]['frechet_floor']:.2f}" for name in EXTRACTORS),
            f"{floor['pairwise_ms_ssim']['real']:.2f}",
            f"{floor['texture']['contrast_floor']:.2f}",
            f"{floor['texture']['high_frequency_floor']:.2f}",
        ]
    )
    return markdown_table(columns, rows)


def _mmd_differences(results: Results) -> str:
    return markdown_table(
        ["federated minus", *(f"`{name}`" for name in EXTRACTORS)],
        [
            [_name(arm), *(interval_text(by_extractor[name], 3, signed=True) for name in EXTRACTORS)]
            for arm, by_extractor in results["mmd_federated_minus"].items()
        ],
    )


def _name(arm: str) -> str:
    return f"`{arm}`"
