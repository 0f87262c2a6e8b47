"""Validate every YAML file under jobs/configs: an unknown or misspelt key fails `make check`.

.venv/bin/python infra/local/check_configs.py
"""

import sys
from pathlib import Path

from sdavs_platform.cli import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"


def main() -> int:
    wrong = 0
    files = sorted(CONFIGS.glob("*.yaml"))
    for path in files:
        try:
            load_config([path])
        except ValueError as error:
            wrong += 1
            print(f"{path.relative_to(CONFIGS.parents[1])}: {error}", file=sys.stderr)
    print(f"configs: {len(files) - wrong} of {len(files)} valid")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
