"""Validate every YAML file under jobs/configs: an unknown or misspelt key fails `make check`.

.venv/bin/python infra/local/check_configs.py
"""

import sys
from pathlib import Path

from sdavs_platform.config.cli import load_config
from sdavs_platform.tuning.space import normalized
from sdavs_platform.tuning.study import parse_study
from sdavs_platform.tuning.sweep import load_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"


def check_sweep(path: Path) -> None:
    """Its own keys, its space or study, and the keys that it sets for all trials.

    Raises:
        ValueError: one line per mistake.
    """
    sweep = load_sweep(path, {})
    config = load_config([CONFIGS / "demo.yaml", sweep.base])
    normalized(sweep.space, config)
    if sweep.study is not None:
        parse_study(sweep.study, config, sweep.models)


def main() -> int:
    wrong = 0
    files = sorted(CONFIGS.glob("*.yaml")) + sorted(CONFIGS.glob("sweeps/*.yaml"))
    for path in files:
        try:
            if path.parent == CONFIGS:
                load_config([path])
            else:
                check_sweep(path)
        except ValueError as error:
            wrong += 1
            print(f"{path.relative_to(CONFIGS.parents[1])}: {error}", file=sys.stderr)
    print(f"configs: {len(files) - wrong} of {len(files)} valid")
    return 1 if wrong or not files else 0


if __name__ == "__main__":
    sys.exit(main())
