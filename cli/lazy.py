"""Commands whose modules are imported when they are called, and not to list them.

Torch, MONAI and Flower take seconds to import, and `fedvox --help` needs none of them. So the list of
commands holds their names and what is said of them; a test compares both with the commands themselves.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
import typer
from typer.core import TyperGroup


class Lazy(NamedTuple):
    """A command that is not imported yet.

    Attributes:
        where: ``module:name`` of a `typer.Typer`, or of a function that is a command by itself.
        help: What the list of commands says of it.
    """

    where: str
    help: str

    def load(self, name: str) -> click.Command:
        """Import it, and return it under a name."""
        module, _, attribute = self.where.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            found.suggest_commands = False  # click suggests them already
            command: click.Command = typer.main.get_group(found)
        else:
            alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
            alone.command()(found)
            command = typer.main.get_command(alone)
        command.name = name
        return command


def lazy_group(commands: Mapping[str, Lazy]) -> type[TyperGroup]:
    """Return a class of groups that hold these commands, in this order."""

    class Group(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = {name: click.Command(name, help=lazy.help) for name, lazy in commands.items()}

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            name, listed, rest = super().resolve_command(ctx, args)
            return name, listed if name is None else commands[name].load(name), rest

    return Group
