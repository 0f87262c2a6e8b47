"""Where a checkout keeps its state: data, results, MLflow database, model cache."""

import os
from pathlib import Path

from sdavs_model.files import as_on_disk

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder that holds `platform/`, `sdavs_model/`, `serve/` and `jobs/`."""

_RAY_UPLOADS = "working_dir_files"


def state_folder() -> Path:
    """The folder that outlives a run.

    `SDAVS_HOME` if set; else `.sdavs` in the checkout; else `~/.sdavs`. The last holds for an installed wheel
    and for `ray job submit --working-dir .`, where the code runs from a copy that Ray deletes at will.
    """
    if home := os.environ.get("SDAVS_HOME"):
        return as_on_disk(Path(home).expanduser().resolve())
    if (CHECKOUT / "pyproject.toml").is_file() and _RAY_UPLOADS not in CHECKOUT.parts:
        return CHECKOUT / ".sdavs"
    return Path.home() / ".sdavs"


def weights_folder() -> Path:
    """Where `jobs/prepare_weights.py` keeps pretrained weights."""
    return state_folder() / "weights"


def find_checkout_pip() -> list[str] | None:
    """The pip that `make` keeps next to uv, as the environment that it makes has none; None in an installed wheel."""
    pip = CHECKOUT / ".tools" / "uv" / "bin" / "pip"
    return [str(pip)] if pip.is_file() else None


def absolute(path: str | Path) -> str:
    """A path that stays valid in Ray Train's workers, which run in another folder; URIs are left alone."""
    if "://" in str(path):
        return str(path)
    return str(as_on_disk(Path(path).expanduser().resolve()))
