"""`python -m lingshu_model.train.inspect FILE`: what an h5ad file holds, without torch.

Exits with 1 where the file cannot be trained on as it is.
"""

import signal
import sys
from pathlib import Path
from typing import Any

import click

from lingshu_model.system.redaction import protect_streams
from lingshu_model.train.data.compressed import DataError
from lingshu_model.train.inspect.inspection import inspect
from lingshu_model.train.inspect.show import (
    as_json,
    data_options,
    fail,
    next_command,
    options_from,
    shown,
)


@click.command(context_settings={"show_default": True})
@click.argument("file", type=click.Path(path_type=Path))
@data_options
@click.option("--json", "to_json", is_flag=True, help="Print one JSON object.")
def main(file: Path, *, to_json: bool, **values: Any) -> None:
    """Show where FILE keeps its counts, what its columns mean, and what is wrong with it.

    Nothing is written and nothing trained. Exits with 1 where it cannot be trained on as it is.
    """
    # `lingshu data inspect` keeps Ctrl-C back until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        options = options_from(values)
        understanding = inspect(file, options)
    except (DataError, OSError) as error:
        fail(str(error), to_json=to_json, prefix="lingshu data inspect")
        return
    if to_json:
        next_step = next_command(file, understanding, options)
        click.echo(as_json({**understanding.to_json(), "next_step": next_step}))
    else:
        click.echo(shown(understanding))
        if not understanding.fatal:
            click.echo(f"\nto train on this:\n  {next_command(file, understanding, options)}")
    # For scripts: a file that would be refused fails here too.
    sys.exit(1 if understanding.fatal else 0)


if __name__ == "__main__":
    with protect_streams():
        main()
