"""Each kind of data set through the code that training and evaluation share, without a cluster."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import write_avis, write_avss, write_ms3, write_s4, write_vpo
from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.preflight import check_data

from sdavs_model import build_model
from sdavs_model.data.datasets import KINDS, open_splits
from sdavs_model.data.tools.validate import validate
from sdavs_model.metrics import open_metrics
from sdavs_model.metrics.base import Mode
from sdavs_model.training_step import evaluate, training_loss

LAYOUTS: dict[str, tuple[Callable[[Path], Any], int, int]] = {
    "avsbench-s4": (write_s4, 1, 5),
    "avsbench-ms3": (write_ms3, 1, 5),
    "avsbench-avss": (write_avss, 5, 10),
    "vpo-ss": (write_vpo, 22, 3),
    "vpo-ms": (write_vpo, 22, 2),
    "vpo-msmi": (write_vpo, 22, 2),
    "avis": (write_avis, 4, 3),
}
"""What writes it, its classes, and the frames of a clip."""


@pytest.fixture(scope="module", params=KINDS)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on a tiny copy of the data set, which has no validation split."""
    write, num_classes, num_frames = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write(folder)
    sizes = {"backbone": "resnet10t", "image_size": 64, "width": 16, "num_heads": 2, "vggish_width": 0.125}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDAVS_HOME", str(folder / "state"))
        yield validated(
            {
                "data": {
                    "root": str(folder),
                    "kind": request.param,
                    "val_split": "test",
                    "test_splits": ["test"],
                },
                "model": sizes | {"num_classes": num_classes, "num_frames": num_frames},
                "training": {"batch_size": 1},
                "cluster": {"num_workers": 1},
            }
        )


NAMES = {
    **{"avsbench-s4": "Zq0_11", "avsbench-ms3": "_a1", "avsbench-avss": "a_1", "avis": "clip 1"},
    **{"vpo-ss": "dog", "vpo-ms": "dog", "vpo-msmi": "dog"},
}
"""A name of each layout that stands in its table and in names of files."""


def write_accented(kind: str, root: Path, *, on_disk: str, in_tables: str) -> None:
    """The tiny data set with an accent in one name, in a normal form of Unicode each on disk and in the tables."""
    LAYOUTS[kind][0](root)
    plain, accented = NAMES[kind], f"{NAMES[kind]}é"
    for path in sorted(root.rglob("*"), reverse=True):  # files before their folders
        if path.suffix in (".csv", ".json"):
            text = re.sub(rf"(?<![\w]){plain}(?![\w])", accented, path.read_text())
            path.write_text(unicodedata.normalize(in_tables, text))
        if plain in path.name:
            path.rename(path.with_name(unicodedata.normalize(on_disk, path.name.replace(plain, accented))))


@pytest.mark.parametrize("kind", KINDS)
def test_accents_in_names_may_be_composed_or_decomposed_on_disk_and_in_tables(kind: str, tmp_path: Path):
    forms = [("NFC", "NFC"), ("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")]
    digests, num_clips = set(), set()
    for number, (on_disk, in_tables) in enumerate(forms):
        root = tmp_path / str(number)
        write_accented(kind, root, on_disk=on_disk, in_tables=in_tables)
        splits = open_splits(root, kind)
        assert validate(root, kind).defects == ()
        digests.add((in_tables, *(clips.digest for clips in splits.values())))
        num_clips.add(sum(len(clips) for clips in splits.values()))
        if kind != "avis":  # its JSON says how files are called
            assert any("\u00e9" in str(clip) for clips in splits.values() for clip in clips.files)
    # The same for both spellings on disk; a table's own bytes count.
    assert len(digests) == 2
    assert len(num_clips) == 1


def test_a_step_is_trained_and_the_split_is_validated_by_figures_of_its_own(config: RunConfig):
    assert len(check_data(config)) == 64
    model = build_model(config.model)
    batches = Batches(config, rank=0, world_size=1)
    for batch in batches.epoch(0):
        training_loss(model, batch)["loss"].backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
    metrics = evaluate(model, batches.validation(), device="cpu", metrics=batches.metrics())
    scores = metrics.compute()
    assert metrics.headline in scores
    assert all(0 <= value <= 1 for value in scores.values())


@pytest.mark.parametrize("mode", ["official", "corrected"])
def test_what_several_workers_score_adds_up_to_what_one_scores(config: RunConfig, mode: Mode):
    clips = open_split(config, "test")
    generator = torch.Generator().manual_seed(0)
    # The same few items again and again (AVIS knows the place of each): other predictions, other scores.
    items = [clips[i] for i in range(len(clips))] * (1 if clips.source.protocol == "avis" else 3)
    # In patches: AVIS follows every region from frame to frame.
    shapes = [(len(item["masks"]), config.model.num_classes, 4, 4) for item in items]
    answers = [
        torch.randn(shape, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
        for shape in shapes
    ]
    whole, merged, *workers = (open_metrics(clips.source, mode=mode) for _ in range(2 + 3))
    for number, (answer, item) in enumerate(zip(answers, items, strict=True)):
        whole.add_clip(answer, item)
        workers[number % 3].add_clip(answer, item)
    for worker in reversed(workers):
        merged.merge(worker.state())
    assert merged.compute() == pytest.approx(whole.compute(), abs=1e-9)
