"""Empty MLflow databases: copies of one that is made once, since MLflow's migrations take seconds for each new one."""

import fcntl
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

FOLDER = "SDAVS_TEST_SHARED_FOLDER"
"""The variable that names a folder that all processes of pytest share."""


def offer_shared_folder(folder: Path) -> None:
    """Let this process and those that it starts share that folder, unless they share one already."""
    os.environ.setdefault(FOLDER, str(folder))


def mlflow_database(folder: Path) -> str:
    """The address of a new, empty MLflow database in that folder; a server with its state there finds it, too.

    Outside pytest, in drills, MLflow itself makes it.
    """
    target = folder / "mlflow.db"
    assert not target.exists()
    if FOLDER not in os.environ:
        return f"sqlite:///{target}"
    made = Path(os.environ[FOLDER], "mlflow.db")
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made)
    shutil.copyfile(made, target)
    return f"sqlite:///{target}"


def _make(path: Path) -> None:
    from sdavs_platform.tracking.client import mlflow_client

    draft = path.with_name("draft.db")
    mlflow_client(f"sqlite:///{draft}").search_experiments()
    with closing(sqlite3.connect(draft)) as connection, connection:
        # Whoever opens a copy makes the default experiment, with its own place for artifacts.
        connection.execute("DELETE FROM experiments")
    draft.rename(path)
