"""RealAV's full set of assets: cut out of Debian packages into a folder like the bundled one, with its manifest."""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from sdavs_model.data.core.workers import Progress, in_processes, no_progress
from sdavs_model.data.realav.asset_encoding import make_asset
from sdavs_model.data.realav.debian_packages import download_package, find_package, read_package
from sdavs_model.files import remove_parts, replacing, sha256_of, write_atomically

SOURCES_FILE = Path(__file__).parent / "sources.csv"
"""Every photograph and recording: kind, category, split, where it comes from, its sha256, licence and author."""

PACKAGES = {
    "gcompris-qt-data": "3.1-2",
    "lincity-ng-data": "2.9~git20150314-5",
    "openttd-opensfx": "1.0.3-2",
    "scratch": "1.4.0.6~dfsg1-6.1",
    "simutrans-pak64": "121.0-1",
    "sonic-pi-samples": "3.2.2~repack-8",
    "tuxpaint-stamps-default": "2022.06.04-1",
}
"""Debian 12's packages and versions, all in its section main."""

MANIFEST = "manifest.csv"
COLUMNS = ("path", "kind", "category", "split", "sha256", "package", "member", "licence", "credit")
FOLDERS = {"photo": "photos", "sound": "sounds", "background": "backgrounds", "noise": "noises"}
ASSET_VERSION = 1
"""Goes up with every change of what is stored for a source file."""

CUT_OUT_SIDE = 256
BACKGROUND_SIDE = 320
EFFORT = 1
"""WebP's: four times as fast as the bundle's, files that stay on this machine may be larger."""


def read_sources(path: Path = SOURCES_FILE) -> list[dict[str, str]]:
    """The rows of a list of sources, each with the `path` that its asset will have."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers: Counter[str] = Counter()
    for row in rows:
        stem = f"{FOLDERS[row['kind']]}/{row['category'] or row['kind']}"
        numbers[stem] += 1
        suffix = "webp" if row["kind"] in ("photo", "background") else "flac"
        row["path"] = f"{stem}_{numbers[stem]:03d}.{suffix}"
    return rows


def download_packages(folder: Path, *, progress: Progress = no_progress) -> None:
    """All packages as `.deb` files in a folder, those that are there already excepted.

    Raises:
        ValueError: as `download_package`.
    """
    for number, (name, version) in enumerate(PACKAGES.items()):
        progress("downloading packages", number, len(PACKAGES))
        download_package(folder, name, version)
    progress("downloading packages", len(PACKAGES), len(PACKAGES))


def make_assets(
    out: Path,
    packages: Path,
    *,
    sources: Path = SOURCES_FILE,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> bool:
    """Make every asset of a list, and at last the manifest, without which the folder is no set of assets.

    An interrupted run is continued: an asset appears under its name when it is whole.

    Args:
        out: the folder to write to.
        packages: the folder of the `.deb` files.
        sources: the list, as `SOURCES_FILE`.
        num_workers: processes that make assets.
        progress: counts assets.

    Returns:
        True if anything was made, False if the set was complete.

    Raises:
        ValueError: a package or one of its files is missing, damaged, or not the one in the list; names it.
    """
    rows = read_sources(sources)
    made_of = {"sources": sha256_of(sources), "version": ASSET_VERSION}
    stamp = out / "made_of.json"
    if stamp.is_file() and json.loads(stamp.read_text()) != made_of:
        (out / MANIFEST).unlink(missing_ok=True)
        for row in rows:
            (out / row["path"]).unlink(missing_ok=True)
    elif (out / MANIFEST).is_file():
        return False
    out.mkdir(parents=True, exist_ok=True)
    remove_parts(out)
    write_atomically(stamp, json.dumps(made_of))

    by_package: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_package[row["package"]].append(row)
    missing = {
        name: left
        for name, taken in by_package.items()
        if (left := [row for row in taken if not (out / row["path"]).is_file()])
    }
    files = {name: find_package(packages, name) for name in missing}
    done = len(rows) - sum(len(left) for left in missing.values())
    for name, left in missing.items():
        progress(f"cutting assets out of {name}", done, len(rows))
        for _ in in_processes(_make, list(_calls(out, files[name], left)), num_workers):
            done += 1
            progress(f"cutting assets out of {name}", done, len(rows))
    for row in rows:
        row["sha256"] = sha256_of(out / row["path"])
    with replacing(out / MANIFEST) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return True


def _calls(out: Path, package: Path, rows: list[dict[str, str]]) -> Iterator[tuple[Path, str, bytes]]:
    contents = read_package(package, [row["member"] for row in rows])
    for row in rows:
        content = contents[row["member"]]
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise ValueError(
                f"{package}: its {row['member']} differs from that of {PACKAGES.get(row['package'])}"
            )
        yield out / row["path"], row["kind"], content


def _make(path: Path, kind: str, content: bytes) -> None:
    asset = make_asset(
        kind, content, cut_out_side=CUT_OUT_SIDE, background_side=BACKGROUND_SIDE, effort=EFFORT
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, asset)
