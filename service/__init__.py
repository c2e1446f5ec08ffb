"""The batch server: hands a run's batches out over HTTP. Knows `tst_data`, and no model or trainer.

The command is `tst-serve` (`service.cli`), the ASGI application `service.api.app.create_app(settings)`.
"""

from __future__ import annotations

from service.settings import ServerSettings

__all__ = ["ServerSettings"]
