"""The batch server: serves the batches of runs over HTTP.

Nothing else imports this package. It imports `tst_data`, and never `trainer_client` or torch: a server node needs a CPU
and the shards. The command is `tst-serve` (`service.cli`); the ASGI application is `create_app(settings)` in
`service.api.app`.

    request -> processes/  one socket, worker processes  -> api/  parameters, admission, response -> registry  the runs
               page/       the page at `/`                  metrics, logs  what was served
               scrub       reads all data again, slowly, to find decay

The server keeps no state between two requests, so a worker or a server can be killed and replaced at any time. All run
files are checked before a socket listens, so a server that says it is ready can serve every run. (If it is later
asked for damaged data, it reports that and serves the rest.)
"""

from __future__ import annotations

from service.settings import ServerSettings

__all__ = ["ServerSettings"]
