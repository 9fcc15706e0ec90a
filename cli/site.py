"""`fedvox site`: what a hospital does on its own machine."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import out, print_json, table
from cli.site_agent import approve, cancel, connect, drain, install_kit, start, trust, units, users
from cli.site_check import check
from client.ledger_export import ledger_rows, ledger_summary, registry_entry
from client.private.budget import Budget
from client.private.ledger import Ledger
from client.site_config import load_site_config
from common.artifact import write_text_atomic
from common.errors import ConfigError

site_app = typer.Typer(help="A hospital's own machine.", no_args_is_help=True, rich_markup_mode="rich")
ledger_app = typer.Typer(
    help="The site's privacy ledger: one for all studies and coordinators.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
site_app.add_typer(ledger_app, name="ledger")
site_app.command("install")(install_kit)
site_app.command("check")(check)
site_app.command("approve")(approve)
site_app.command("trust")(trust)
site_app.command("start")(start)
site_app.command("cancel")(cancel)
site_app.command("drain")(drain)
site_app.command("connect")(connect)
site_app.command("units")(units)
site_app.command("users")(users)

SiteFile = Annotated[Path, typer.Argument(metavar="SITE", help="The site's YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
SHOWN = 10


@ledger_app.command("create")
def create(site_file: SiteFile) -> None:
    """Create the site's ledger: once in its life, for it opens a fresh budget.

    Example: [bold]fedvox site ledger create site.yaml[/]
    """
    folder, budget, _ = _named(site_file)
    Ledger.create(folder)
    out.print(f"created {folder}: epsilon {budget.epsilon:g} at delta {budget.delta:g} may be spent")
    out.print(
        "never put an older copy of the folder back in silence: it has forgotten what was spent since, and "
        "only coordinators of runs that go on can notice"
    )


@ledger_app.command("show")
def show(site_file: SiteFile, json: Json = False) -> None:
    """Say what was spent, and on what.

    Example: [bold]fedvox site ledger show site.yaml[/]
    """
    folder, budget, _ = _named(site_file)
    ledger = Ledger(folder)
    summary, rows = ledger_summary(ledger, budget), ledger_rows(ledger)
    if json:
        print_json({"summary": summary, "orders": rows})
        return
    facts = [
        [key, f"{value:.4f}" if isinstance(value, float) and key != "delta" else str(value)]
        for key, value in summary.items()
    ]
    out.print(table(f"ledger {folder}", ["what", "value"], facts))
    columns = ["when (UTC)", "run", "stage", "round", "q", "sigma", "steps", "reply"]
    listed = [_order_line(row) for row in rows[-SHOWN:]]
    out.print(table(f"the last {len(listed)} of {len(rows)} orders", columns, listed))


@ledger_app.command("verify")
def verify(site_file: SiteFile) -> None:
    """Check the chain from its first line, every stored reply, and the heads that coordinators have seen.

    Example: [bold]fedvox site ledger verify site.yaml[/]
    """
    folder, _, _ = _named(site_file)
    num = Ledger(folder).verify()
    out.print(f"[green]whole:[/] {num} entries, every stored reply unaltered", highlight=False)


@ledger_app.command("export")
def export(
    site_file: SiteFile, to: Annotated[Path, typer.Option("--out", help="Where to write the JSON file.")]
) -> None:
    """Write the ledger in the fields of the public registry of DP deployments.

    Example: [bold]fedvox site ledger export site.yaml --out ledger.json[/]
    """
    folder, budget, name = _named(site_file)
    content = registry_entry(Ledger(folder), budget, name)
    write_text_atomic(to, json_module.dumps(content, indent=2) + "\n")
    out.print(f"wrote {to}", highlight=False)


def _order_line(row: dict[str, Any]) -> list[str]:
    """Return one order in the width of a terminal."""
    return [
        row["time"][2:16].replace("T", " "),
        row["run"][:8],
        row["stage"],
        str(row["round"]),
        f"{row['sampling_rate']:g}",
        f"{row['noise_multiplier']:g}",
        str(row["steps"]),
        "yes" if row["answered"] else "NO",
    ]


def _named(site_file: Path) -> tuple[Path, Budget, str]:
    """Return the ledger's folder, the site's cap and the site's name."""
    config = load_site_config(site_file)
    policy = config.policy
    if policy.ledger is None or policy.epsilon is None:
        raise ConfigError(
            f"{site_file} names no ledger", "set policy.epsilon, policy.delta and policy.ledger"
        )
    return policy.ledger, Budget(epsilon=policy.epsilon, delta=policy.delta), config.name
