"""What every verb shares: how errors, results and tables reach the person or the machine."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

out = Console()
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """Print one JSON document to standard output, for machines."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """Return a plain table; numbers are right-aligned from the second column on."""
    result = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        result.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result
