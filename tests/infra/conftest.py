"""The scripts under infra/ as modules: they are run by path, so no package holds them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "infra" / folder) for folder in ("check", "docker", "kuberay", "monitoring")]
