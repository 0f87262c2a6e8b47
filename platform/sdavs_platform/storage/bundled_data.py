"""The data set that comes with the code: composed once, then found in the state folder."""

import os
from collections.abc import Callable
from pathlib import Path

from sdavs_platform.config.paths import state_folder


def bundled_data(*, say: Callable[[str], None] = print) -> Path:
    """Its folder; composed on first use, which takes a minute or so on two cores.

    Raises:
        ValueError: the folder holds something else.
    """
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    def progress(stage: str, done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            say(f"composing the bundled data set: {done} of {total} clips")

    folder = state_folder() / "data"
    prepare(folder, RealAVConfig(), num_workers=len(os.sched_getaffinity(0)), progress=progress)
    return folder
