"""`tst-serve`: serve runs over HTTP until SIGTERM or Ctrl-C.

The runs are opened here once, so that a mistake in a run file is one line on stderr before any socket listens. Each
worker process then opens them for itself.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.logs import configure_logs
from service.metrics import FOLDER_VARIABLE, metrics_folder
from service.processes.listener import listen, url_of
from service.processes.supervisor import Supervisor
from service.registry import Registry
from service.settings import LogLevel, ServerSettings
from tst_data.command_line import run_app
from tst_data.configuration import validation_message
from tst_data.errors import InvalidInputError

__all__ = ["main"]

app = typer.Typer(add_completion=False, rich_markup_mode=None)

DEFAULTS = {name: field.default for name, field in ServerSettings.model_fields.items()}
DESCRIPTIONS = {name: field.description for name, field in ServerSettings.model_fields.items()}


def _option(name: str) -> Any:
    """The option of a setting, with the setting's description and its environment variable."""
    return typer.Option(help=DESCRIPTIONS[name], envvar=f"TST_SERVE_{name.upper()}")


@app.command()
def serve(
    sources: Annotated[list[Path], typer.Argument(metavar="RUN_OR_FOLDER...", help=DESCRIPTIONS["sources"])],
    host: Annotated[str, _option("host")] = DEFAULTS["host"],
    port: Annotated[int, _option("port")] = DEFAULTS["port"],
    workers: Annotated[int, _option("workers")] = DEFAULTS["workers"],
    builders: Annotated[int, _option("builders")] = DEFAULTS["builders"],
    max_requests: Annotated[int, _option("max_requests")] = DEFAULTS["max_requests"],
    grace_seconds: Annotated[int, _option("grace_seconds")] = DEFAULTS["grace_seconds"],
    keep_alive_seconds: Annotated[int, _option("keep_alive_seconds")] = DEFAULTS["keep_alive_seconds"],
    stalled_seconds: Annotated[int, _option("stalled_seconds")] = DEFAULTS["stalled_seconds"],
    scrub_per_hour: Annotated[float, _option("scrub_per_hour")] = DEFAULTS["scrub_per_hour"],
    log_level: Annotated[LogLevel, _option("log_level")] = DEFAULTS["log_level"],
    json_output: Annotated[bool, typer.Option("--json", help="Print the ready line as JSON.")] = False,
) -> None:
    """Serve the batches of runs over HTTP. SIGTERM or Ctrl-C stops the server after the requests in progress.

    Example: tst-serve runs/wiki-s4.yaml --port 8000 --workers 2
    """
    try:
        settings = ServerSettings(
            sources=tuple(sources),
            host=host,
            port=port,
            workers=workers,
            builders=builders,
            max_requests=max_requests,
            grace_seconds=grace_seconds,
            keep_alive_seconds=keep_alive_seconds,
            stalled_seconds=stalled_seconds,
            scrub_per_hour=scrub_per_hour,
            log_level=log_level,
        )
    except ValidationError as error:
        raise InvalidInputError(_as_option(validation_message(error))) from None
    _serve(settings, as_json=json_output)


def _as_option(message: str) -> str:
    """A message about a setting, about the option or environment variable that gave it."""
    return re.sub(r"^'(\w+)'", lambda name: f"--{name[1].replace('_', '-')} (or TST_SERVE_{name[1].upper()})", message)


def _serve(settings: ServerSettings, *, as_json: bool) -> None:
    registry = Registry.open(settings.sources)
    runs = [(run.name, run.description.fingerprint) for run in registry]
    registry.close()
    configure_logs(settings.log_level)
    with (
        metrics_folder() as folder,
        listen(settings.host, settings.port, stalled_seconds=settings.stalled_seconds) as listener,
    ):
        os.environ[FOLDER_VARIABLE] = str(folder)
        base = url_of(listener)
        urls = {name: f"{base}/v1/runs/{name}" for name, _ in runs}

        def announce() -> None:
            if as_json:
                served = [{"name": name, "fingerprint": mark, "url": urls[name]} for name, mark in runs]
                line = json.dumps({"ready": True, "url": base, "pid": os.getpid(), "runs": served})
            else:
                line = f"ready: {' '.join(urls.values())}"
            typer.echo(line)

        Supervisor(settings, listener, str(folder)).run(announce)


def main() -> None:
    """Entry point of `tst-serve`."""
    run_app(app)


if __name__ == "__main__":
    main()
