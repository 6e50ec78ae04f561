"""`penguindome settings`: the settings in force, and where each comes from."""

from __future__ import annotations

import click

from penguindome.errors import UsageError
from penguindome.settings import sample
from penguindome_server.settings import server_settings_schema
from penguindome_tools.context import Context, pass_context
from penguindome_tools.output import json_option, print_table


@click.command()
@click.argument("name", required=False)
@click.option("--origin", "with_origin", is_flag=True, help="Say by which file and line each value was set.")
@click.option("--sample", "as_sample", is_flag=True, help="Print a server.yml with every setting explained.")
@json_option
@pass_context
def command(context: Context, *, name: str | None, with_origin: bool, as_sample: bool, as_json: bool) -> None:
    """Show the server's settings, or those whose name begins with NAME.

    \b
    Examples:
      penguindome settings --origin
      penguindome settings enrolment
      penguindome settings --sample > server.yml
    """
    schema = server_settings_schema(context.paths)
    if as_sample:
        click.echo(sample(schema), nl=False)
        return
    settings = context.settings
    rows = [
        {"setting": each, "value": settings.shown(each), "origin": str(settings.origin(each))}
        for each in settings
        if name is None or each == name or each.startswith(name + ".")
    ]
    if not rows:
        raise UsageError(f"no setting is called {name!r}", hint="see: penguindome settings")
    print_table(rows, ["setting", "value", *(["origin"] if with_origin else [])], as_json=as_json)
