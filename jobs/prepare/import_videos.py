"""Import raw videos with masks into AVSBench's MS3 layout.

    python jobs/prepare_data.py import --videos raw --masks masks --out data/own
    python jobs/prepare_data.py import --videos raw --masks masks --table splits.csv --out data/own --size 224

MASKS/<video's name>/ holds one png for each second of the video, in the order of the numbers in their names; black is
background. The picture of a second is the one shown in its middle, and the sound is that second at 16 kHz mono. Videos
are decoded by the endpoint's own decoder, so that training and serving get the same input. A wav next to a video, with
the same name, replaces the video's own sound, which may then be missing. Long videos become several clips. Run again
for another split or after changes: unchanged videos are kept.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _flags import add_workers
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py import`."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "--videos",
        type=Path,
        required=True,
        help="folder of mp4, webm, mkv, mov, avi or ts files, each with sound or a wav",
    )
    what.add_argument("--masks", type=Path, required=True, help="folder with a folder of pngs for each video")
    splits = what.add_mutually_exclusive_group()
    splits.add_argument("--split", default="train", help="split of all of them (default: %(default)s)")
    splits.add_argument("--table", type=Path, help="csv with the columns video_id and split")
    how = parser.add_argument_group("where and how")
    how.add_argument("--out", type=Path, required=True, help="folder to write to")
    how.add_argument("--num-frames", type=int, default=5, help="seconds of a clip (default: %(default)s)")
    how.add_argument(
        "--size", type=int, help="squash pictures and masks to this side in pixels (default: as they are)"
    )
    add_workers(how, "videos decoded at once")


def run(flags: argparse.Namespace) -> None:
    """Import what is new."""
    from sdavs_platform.console import progress

    from sdavs_model.data.benchmarks.layout_files import read_rows
    from sdavs_model.data.tools.import_video import Import, find_videos, import_videos

    if flags.table is not None:
        rows = read_rows(flags.table, {"video_id": 0, "split": 1})
        splits = {row["video_id"]: row["split"] for row in rows}
    else:
        splits = dict.fromkeys(find_videos(flags.videos), flags.split)
    job = Import(
        videos=flags.videos,
        masks=flags.masks,
        decode=decode,
        splits=splits,
        num_frames=flags.num_frames,
        size=flags.size,
    )
    with progress() as show:
        result = import_videos(flags.out, job, num_workers=flags.workers, progress=show)
    print_result(
        f"{flags.out}: {result['clips']} clips; {result['videos']} videos imported, {result['unchanged']} unchanged, "
        f"{result['seconds_left_out']} s left out at their ends"
    )


def decode(path: Path, wav: Path | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Picture and sound of every second, exactly as the endpoint takes them from an upload.

    Raises:
        ValueError: not such a video or wav, damaged, cut short or without sound; names the file.
    """
    from sdavs_platform.config.serve import ServeConfig
    from sdavs_serve.decoding.media import decode_video
    from sdavs_serve.errors import MediaError

    day = 24 * 3600  # own files need no protection from their length
    limits = ServeConfig(max_seconds=day, max_frames=day, max_pixels=1 << 30)
    sound = None if wav is None else wav.read_bytes()
    try:
        for sample in decode_video(path.read_bytes(), fps=1, limits=limits, sound=sound):
            yield sample.picture, sample.second
    except MediaError as error:
        raise ValueError(f"{wav if error.field == 'audio' else path}: {error.detail}") from error
