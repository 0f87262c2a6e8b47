"""RealAV: four subsets that mirror the benchmarks, from the photographs and recordings of seven Debian packages.

    python jobs/prepare_data.py realav --out data/realav                   apt-get downloads 310 MB, installs nothing
    python jobs/prepare_data.py realav --out data/realav --debs packages   from .deb files that you already have

Writes OUT/s4, OUT/ms3, OUT/avss and OUT/offscreen, each a separate data root in the layout of the benchmark it
mirrors (offscreen: MS3's), with the splits train, val, test_new_scenes and test_strict; OUT/DATASHEET.md with counts,
licences and digests; OUT/contact_sheet.jpg; and the assets in OUT/assets. docs/realav.md describes the data set.
"""

import argparse
import shlex
import sys
from pathlib import Path

from _flags import add_workers
from _job import print_result
from prepare.demo import add_clip_flags

SUBSETS = ("s4", "ms3", "avss", "offscreen")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `prepare_data.py realav`."""
    where = parser.add_argument_group("where and how")
    where.add_argument(
        "--out", type=Path, default=Path(".sdavs/realav"), help="folder to write to (default: %(default)s)"
    )
    where.add_argument(
        "--debs",
        type=Path,
        help="folder with the .deb files (default: OUT/packages, filled by apt-get download)",
    )
    where.add_argument(
        "--sources",
        type=Path,
        help="another list of assets, in the columns of sdavs_model/data/realav/sources.csv",
    )
    where.add_argument(
        "--subsets",
        nargs="+",
        choices=SUBSETS,
        default=SUBSETS,
        help=f"which of them (default: {' '.join(SUBSETS)})",
    )
    add_workers(where, "processes that make assets and compose clips")
    add_clip_flags(
        parser,
        without=("num_test_strict_wide",),
        num_train=1000,
        num_val=100,
        num_test_new_scenes=100,
        num_test_strict=100,
        size=224,
    )


def run(flags: argparse.Namespace) -> None:
    """Download, make assets, compose, describe."""
    from sdavs_platform.console import progress

    from sdavs_model.data.realav.asset_library import AssetLibrary
    from sdavs_model.data.realav.build import OPTIONAL_SPLITS, SPLITS, RealAVConfig, prepare
    from sdavs_model.data.realav.make_assets import SOURCES_FILE, download_packages, make_assets

    # sources.csv has no assets for optional splits.
    counts = {
        f"num_{split}": 0 if split in OPTIONAL_SPLITS else getattr(flags, f"num_{split}") for split in SPLITS
    }
    configs = {
        subset: RealAVConfig(
            **counts, size=flags.size, num_frames=flags.num_frames, seed=flags.seed, subset=subset
        )
        for subset in flags.subsets
    }
    sources, packages, assets = (
        flags.sources or SOURCES_FILE,
        flags.debs or flags.out / "packages",
        flags.out / "assets",
    )
    with progress() as show:
        if flags.debs is None and not (assets / "manifest.csv").is_file():
            download_packages(packages, progress=show)
        make_assets(assets, packages, sources=sources, num_workers=flags.workers, progress=show)
        for subset, config in configs.items():
            prepare(
                flags.out / subset,
                config,
                assets_folder=assets,
                num_workers=flags.workers,
                progress=show,
            )
        # Only now: they need torch, which composing does without.
        from sdavs_model.data.datasets import open_splits
        from sdavs_model.data.realav.datasheet import write_datasheet

        splits = {
            subset: open_splits(flags.out / subset, num_frames=None if subset == "avss" else flags.num_frames)
            for subset in configs
        }
        command = shlex.join(["python", "jobs/prepare_data.py", *sys.argv[1:]])
        sheet = write_datasheet(
            flags.out,
            splits,
            AssetLibrary(assets),
            command=command,
            num_workers=flags.workers,
            progress=show,
        )
    for subset, content in sheet["subsets"].items():
        clips = ", ".join(f"{split} {numbers['clips']}" for split, numbers in content["splits"].items())
        print_result(f"{flags.out / subset}: {content['kind']}, {clips}")
    print_result(f"{flags.out / 'DATASHEET.md'}")
