"""RealAV from a Debian package built here: cut, composed in four layouts, kept apart, killed and continued."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import process
from waiting import patience, wait_until

from sdavs_model.data.datasets import open_splits
from sdavs_model.data.realav.asset_library import AssetLibrary
from sdavs_model.data.realav.datasheet import asset_digests, require_apart
from sdavs_model.data.realav.make_assets import COLUMNS, SOURCES_FILE, make_assets, read_sources

pytestmark = pytest.mark.slow

CATEGORIES = ("cat", "dog", "car", "bus", "violin")
SPLITS = ("train", "val", "test")
COUNTS = ("--num-train=4", "--num-val=4", "--num-test-new-scenes=4", "--num-test-strict=4")


def drawn_photo(seed: int) -> bytes:
    """A cut-out: a disc of noise, transparent around it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 4), np.uint8)
    rows, columns = np.mgrid[:40, :40]
    pixels[..., 3] = 255 * ((rows - 20) ** 2 + (columns - 20) ** 2 < 300)
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn_sound(seed: int) -> bytes:
    """Half a second of a tone of its own, 8 bit and 11 kHz as old games have it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 1, 11025, 0, "NONE", ""))
        time_s = np.arange(5512) / 11025
        sound.writeframes(np.uint8(128 + 100 * np.sin(2 * np.pi * (200 + 40 * seed) * time_s)).tobytes())
    return file.getvalue()


def drawn_scenery(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return encoded(Image.fromarray(pixels).resize((64, 48)))


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One package with all assets, and `sources.csv`, the list of them."""
    folder = tmp_path_factory.mktemp("debs")
    tree, rows = folder / "tree", []
    seed = 0
    for split in SPLITS:
        wanted = [("photo", c) for c in CATEGORIES] + [("sound", c) for c in CATEGORIES]
        for kind, category in [*wanted, ("background", ""), ("noise", "water")]:
            seed += 1
            make = {"photo": drawn_photo, "background": drawn_scenery}.get(kind, drawn_sound)
            member = f"usr/share/{split}/{kind}_{category}{'.png' if make is not drawn_sound else '.wav'}"
            content = make(seed)
            (tree / member).parent.mkdir(parents=True, exist_ok=True)
            (tree / member).write_bytes(content)
            row = {"kind": kind, "category": category, "split": split, "package": "toy", "member": member}
            digest = hashlib.sha256(content).hexdigest()
            rows.append(row | {"sha256": digest, "licence": "CC0-1.0", "credit": "this test"})
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: toy\n"
    )
    build = ["dpkg-deb", "--build", "-Zxz", "--root-owner-group", str(tree), str(folder / "toy_1.0_all.deb")]
    subprocess.run(build, check=True, capture_output=True)
    with (folder / "sources.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[1:])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def command(debs: Path, out: Path) -> list[str]:
    job = [sys.executable, "jobs/prepare_data.py", "realav", "--out", str(out), "--debs", str(debs)]
    return [*job, f"--sources={debs / 'sources.csv'}", *COUNTS, "--size=48", "--num-frames=3", "--workers=1"]


def digests(out: Path) -> dict[str, str]:
    sheet = json.loads((out / "datasheet.json").read_text())
    return {subset: content["digest"] for subset, content in sheet["subsets"].items()}


@pytest.fixture(scope="module")
def made(debs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four subsets, made by the command."""
    out = tmp_path_factory.mktemp("realav")
    subprocess.run(command(debs, out), check=True, capture_output=True, timeout=patience(120))
    return out


def records(root: Path) -> list[dict]:
    paths = sorted(p for p in root.rglob("*.json") if p.parent.name != root.name and "heard" in p.read_text())
    return [json.loads(path.read_text()) for path in paths]


def test_each_subset_is_read_by_the_loader_of_the_benchmark_it_mirrors(made):
    kinds = {}
    for subset in ("s4", "ms3", "avss", "offscreen"):
        for split, clips in open_splits(made / subset, num_frames=10 if subset == "avss" else 3).items():
            kinds[subset] = clips.kind
            assert len(clips) == 4
            clip = clips.clip(1)
            assert clip.masks.any() or subset == "offscreen"
            if split == "train" and subset == "s4":
                assert clip.valid.tolist() == [True, False, False]
            if subset == "avss":
                assert clips.classes == ("background", *sorted(CATEGORIES))
                assert [len(files.frames) for files in clips.files] == [10, 5, 10, 5]
    assert kinds == {
        "s4": "avsbench-s4",
        "ms3": "avsbench-ms3",
        "avss": "avsbench-avss",
        "offscreen": "avsbench-ms3",
    }


def test_the_strict_split_shares_no_picture_recording_or_background_with_train_and_val(made):
    assets = AssetLibrary(made / "assets")
    split_of = {row["sha256"]: row["split"] for row in assets.rows}
    for subset in ("s4", "ms3", "avss", "offscreen"):
        splits = open_splits(made / subset, num_frames=10 if subset == "avss" else 3)
        used = {split: asset_digests(clips) for split, clips in splits.items()}
        assert {split_of[digest] for digest in used["train"]} == {"train"}
        assert {split_of[digest] for digest in used["val"]} == {"val"}
        assert {split_of[digest] for digest in used["test_strict"]} == {"test"}
        assert not used["train"] & used["test_strict"]
        require_apart({split: used[split] for split in ("train", "val", "test_strict")}, assets)
        with pytest.raises(ValueError, match=r"is used in both train and test_new_scenes"):
            require_apart({split: used[split] for split in ("train", "test_new_scenes")}, assets)


def test_the_scenes_of_each_subset_are_what_it_mirrors(made):
    for record in records(made / "s4" / "Single-source"):
        assert len(record["heard"]) == 1
        assert all(second["sounding"] == record["heard"] for second in record["seconds"])
    assert all(len(r["heard"]) >= 2 for r in records(made / "ms3" / "Multi-sources"))
    alike = [{"cat", "dog"}, {"car", "bus"}]
    offscreen = records(made / "offscreen" / "Multi-sources")
    assert any(not second["sounding"] for record in offscreen for second in record["seconds"])
    for record in offscreen:
        hidden = {name for second in record["seconds"] for name in second["off_screen"]}
        assert hidden
        assert not hidden & set(record["seen"])
        silent_pairs = [pair for pair in alike if pair & hidden and not pair <= hidden]
        assert all(pair & set(record["seen"]) for pair in silent_pairs if len(hidden) == 1)


def test_the_datasheet_counts_licences_and_shows_every_subset(made):
    text = (made / "DATASHEET.md").read_text()
    assert "| toy | CC0-1.0 | 36 |" in text
    for subset, digest in digests(made).items():
        assert f"| {subset} | `{digest}` |" in text
    with Image.open(made / "contact_sheet.jpg") as sheet:
        assert sheet.height == 4 * 2 * 126


def test_a_killed_run_leaves_nothing_that_a_later_one_trusts_and_the_same_command_continues(
    debs, made, tmp_path
):
    for wanted in ("assets/photos/*.webp", "ms3/Multi-sources/ms3_data/sources/*/*.json"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with process(command(debs, tmp_path), **quiet) as run:
            wait_until(lambda wanted=wanted: list(tmp_path.glob(wanted)), what=wanted, every=0.01)
            run.kill()
            run.wait()
        assert not (tmp_path / "DATASHEET.md").exists()
        with pytest.raises(ValueError, match=r"missing|no such|holds none"):
            open_splits(tmp_path / "ms3", num_frames=3)
    done = subprocess.run(
        command(debs, tmp_path), capture_output=True, text=True, check=True, timeout=patience(120)
    )
    assert "DATASHEET.md" in done.stdout
    assert digests(tmp_path) == digests(made)
    assert not list(tmp_path.rglob("*.part"))


def test_a_missing_changed_or_damaged_package_is_refused_by_name(debs, tmp_path):
    with pytest.raises(ValueError, match=r"toy_\*\.deb: missing"):
        make_assets(tmp_path / "a", tmp_path, sources=debs / "sources.csv")
    lines = (debs / "sources.csv").read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([lines[0], lines[1].replace("photo_cat", "photo_cow")]))
    with pytest.raises(ValueError, match=r"toy_1\.0_all\.deb: does not hold usr/share/train/photo_cow\.png"):
        make_assets(tmp_path / "b", debs, sources=tmp_path / "other.csv")
    digest = lines[1].split(",")[3]
    (tmp_path / "other.csv").write_text("\n".join([lines[0], lines[1].replace(digest, "0" * 64)]))
    with pytest.raises(ValueError, match=r"photo_cat\.png differs from that of"):
        make_assets(tmp_path / "c", debs, sources=tmp_path / "other.csv")
    content = (debs / "toy_1.0_all.deb").read_bytes()
    for damaged, words in (
        (content[:600], "damaged Debian package"),
        (b"no package", "not a Debian package"),
    ):
        (tmp_path / "toy_1.0_all.deb").write_bytes(damaged)
        with pytest.raises(ValueError, match=words):
            make_assets(tmp_path / "d", tmp_path, sources=debs / "sources.csv")


def test_without_apt_the_way_out_is_named(debs, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    job = [sys.executable, "jobs/prepare_data.py", "realav", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        job, capture_output=True, text=True, env=os.environ | {"PATH": str(tools)}, timeout=patience(60)
    )
    assert ran.returncode == 1
    assert "has no apt-get" in ran.stderr
    assert "--debs" in ran.stderr
    shutil.rmtree(tools)


def test_the_list_of_sources_keeps_every_file_in_one_split_and_says_whose_it_is():
    rows = read_sources()
    assert len({row["sha256"] for row in rows}) == len(rows) == len({row["path"] for row in rows})
    assert all(row[column] for row in rows for column in COLUMNS if column not in ("category",))
    assert all(row["category"] or row["kind"] == "background" for row in rows)
    strict = {
        kind: {row["category"] for row in rows if row["split"] == "test" and row["kind"] == kind}
        for kind in ("photo", "sound")
    }
    assert len(strict["photo"] & strict["sound"]) == 22
    assert SOURCES_FILE.stat().st_size < 200_000
