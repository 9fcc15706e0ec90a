"""`fedvox site check`: whether data, machine and network are ready, before anything is approved."""

from pathlib import Path
from typing import Annotated

import typer

from cli.console import out, print_json, table
from client.checkup import checkup
from client.installation import AUTHORITY_FILE, Installation
from client.site_config import load_site_config
from common.study import load_study
from deploy.network_check import check_network

_STYLES = {"o": "green", "W": "yellow", "E": "red"}


def check(
    site_file: Annotated[Path, typer.Argument(metavar="SITE", help="The site's YAML file.")],
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="The study; that of the kit by default.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Look at the way to the coordinator instead of the data.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Read and check every volume, device and disk; or, layer by layer, the way to the coordinator.

    Example: [bold]fedvox site check site/site.yaml[/]

    Example: [bold]fedvox site check site/site.yaml --network[/]
    """
    if network:
        _network(Installation(site_file.parent), json)
        return
    study = Installation(site_file.parent).study if study_file is None else load_study(study_file)
    facts = checkup(load_site_config(site_file), study)
    if json:
        print_json(facts)
        return
    rows = [[name, str(value)] for name, value in facts.items()]
    out.print(table(f"{site_file}: ready for study {study.name}", ["what", "value"], rows))


def _network(installed: Installation, json: bool) -> None:
    findings = list(check_network(installed.address, installed.folder / AUTHORITY_FILE))
    if json:
        print_json({finding.layer: {"code": finding.code, "text": finding.text} for finding in findings})
    else:
        rows = [
            [finding.layer, f"[{_STYLES[finding.code[0]]}]{finding.code}[/]", finding.text]
            for finding in findings
        ]
        out.print(table(f"the way to {installed.address}", ["layer", "code", "what was found"], rows))
    if any(finding.is_broken for finding in findings):
        raise typer.Exit(1)
