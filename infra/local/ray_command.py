"""The commands `ray` and `serve` of the environment: Ray's own, but they send Ray's token if there is one.

`infra/local/bootstrap.py` copies this file over `.venv/bin/ray` and `.venv/bin/serve`. Without it a `ray job submit`
fails with 401 as soon as any program has written ~/.ray/auth_token (docs/running.md).
"""

import sys
from pathlib import Path

from sdavs_platform.local.token import send_token_if_any

send_token_if_any()  # Ray reads the mode when it is imported
if Path(sys.argv[0]).name == "serve":
    from ray.serve.scripts import cli as main
else:
    from ray.scripts.scripts import main  # type: ignore[assignment]

sys.exit(main())
