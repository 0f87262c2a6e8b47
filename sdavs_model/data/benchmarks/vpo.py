"""VPO (Visual Post-production): a photograph with recordings placed on its objects, in stereo; 22 classes."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from sdavs_model.data.benchmarks.layout_files import read_rows, require_files
from sdavs_model.data.core.clip import IGNORED, SAMPLE_RATE, ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.mask_files import read_index_mask
from sdavs_model.files import as_on_disk

CLASSES = (
    "background",
    *("airplane", "baby", "bird", "bus", "car", "cat", "cell phone", "cow", "dog", "elephant", "female"),
    *("horse", "keyboard", "male", "motorcycle", "mouse", "sheep", "skateboard", "sports ball"),
    *("tennis racket", "zebra"),
)
COCO_IDS = {
    **{"motorcycle": 4, "airplane": 5, "bus": 6, "car": 3, "bird": 16, "cat": 17, "dog": 18, "horse": 19},
    **{"sheep": 20, "cow": 21, "elephant": 22, "zebra": 24, "sports ball": 37, "skateboard": 41},
    **{
        "tennis racket": 43,
        "mouse": 74,
        "keyboard": 76,
        "cell phone": 77,
        "male": 92,
        "female": 93,
        "baby": 94,
    },
}
"""What the masks hold: COCO's category ids, and three of VPO's own for people."""

SOUND_SECONDS = 3
SOUNDS = Path("vggsound_bench") / "VGGSound" / "audios"
COLUMNS = ("cateName", "img_Id", "ann_Ids", "vgg_file", "split")


class VPO(ClipSet):
    """One of VPO's three sets, one split of it; see `ClipSet`.

    A clip is one photograph and the middle of its sound: the picture is repeated for each of `num_frames`
    seconds (our choice; 1 to 3, because the official loader cuts 3 s), and the protocol scores one prediction a
    picture, the mean over the seconds, at the size of the stored mask.

    Every row of the csv is one source: a recording and its place from 0 (left) to 1 (right). `stereo` gives the
    official mixture, left = sum of (1 - place) * recording, right = sum of place * recording. The model hears
    left + right, which does not depend on the places.

    Args:
        root: the folder that holds `VPO/` and `vggsound_bench/`.
        split: "train" or "test" ("val" in the csv, as the official loader has it).
    """

    protocol = "vpo"
    per_clip = ("files", "sources")
    full_size = True
    folder: ClassVar[str]
    by_category: ClassVar[bool] = False
    """Whether pictures are in a folder named after their category."""

    classes = CLASSES

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["split"] for row in cls._rows(root)))

    @classmethod
    def table(cls, root: Path) -> Path:
        """The csv of this set; the mono experiments of its authors read it as well."""
        name = cls.folder.lower().replace("-", "_")
        return root / "VPO" / cls.folder / f"{name}_data_stereo.csv"

    def stereo(self, index: int) -> np.ndarray:
        """[2, num_frames * 16000] float32, left and right, of clip `index`."""
        sources = np.stack([self._sound(path) for path, _ in self.sources[index]])  # [num_sources, N]
        places = np.array([place for _, place in self.sources[index]], np.float32)[:, None]
        return np.stack([((1 - places) * sources).sum(0), (places * sources).sum(0)])

    def waveform(self, index: int) -> np.ndarray:
        return self.stereo(index).sum(0)

    def num_seconds_heard(self, index: int) -> tuple[int, int]:
        return self.num_frames, self.num_frames  # shorter recordings are repeated, as in the official loader

    def read_mask(self, path: Path) -> np.ndarray:
        stored = read_index_mask(path)
        classes = np.full(max(256, int(stored.max(initial=0)) + 1), -1, np.int16)
        classes[[0, IGNORED]] = 0, IGNORED
        for name, number in COCO_IDS.items():
            classes[number] = CLASSES.index(name)
        mask = classes[stored]
        if (mask < 0).any():
            unknown = np.unique(stored[mask < 0]).tolist()
            raise ValueError(
                f"{path}: unknown values {unknown}; allowed: 0, 255, {sorted(COCO_IDS.values())}"
            )
        return mask.astype(np.uint8)

    def _open(self, root: Path) -> list[ClipFiles]:
        if not 1 <= self.num_frames <= SOUND_SECONDS:
            raise ValueError(
                f"num_frames: {self.num_frames}; VPO has {SOUND_SECONDS} s of sound, allowed: 1 to 3"
            )
        self.root = root
        self.tables = (self.table(root),)
        rows = [row for row in self._rows(root) if row["split"] == self.split]
        groups: dict[tuple[Path, Path], list[dict[str, str]]] = {}
        for row in rows:
            groups.setdefault(self._pictures(root, row), []).append(row)
        self.sources = [[self._source(root, row) for row in group] for group in groups.values()]
        """Per clip, each source's recording and place."""
        return [self._find(*pictures, group) for pictures, group in groups.items()]

    @classmethod
    def _rows(cls, root: Path) -> list[dict[str, str]]:
        table = cls.table(root)
        columns = (*COLUMNS, "audio_pos", *(("multi_instance",) if cls.folder == "VPO-MSMI" else ()))
        rows = read_rows(table, dict.fromkeys(columns))
        return [row | {"split": "test" if row["split"] == "val" else row["split"]} for row in rows]

    def _pictures(self, root: Path, row: dict[str, str]) -> tuple[Path, Path]:
        """Photograph and mask of a row; MSMI's rows without several instances are in VPO-MS."""
        folder = root / "VPO" / ("VPO-MS" if _is_zero(row.get("multi_instance", "1")) else self.folder)
        inner = row["cateName"] if self.by_category else ""
        image, annotation = row["img_Id"].zfill(12), row["ann_Ids"].zfill(12)
        return folder / "data" / inner / f"{image}.jpg", folder / "mask" / inner / f"{image}_{annotation}.png"

    def _source(self, root: Path, row: dict[str, str]) -> tuple[Path, float]:
        path = as_on_disk(root / SOUNDS / f"{row['vgg_file']}.wav")
        try:
            place = float(row["audio_pos"])
        except ValueError:
            place = -1
        if not 0 <= place <= 1:
            raise ValueError(
                f"{self.tables[0]}: audio_pos {row['audio_pos']!r} of {path.name}; allowed: 0 to 1"
            )
        return path, place

    def _find(self, picture: Path, mask: Path, rows: list[dict[str, str]]) -> ClipFiles:
        sounds = [self.root / SOUNDS / f"{row['vgg_file']}.wav" for row in rows]
        files = ClipFiles(
            name=mask.stem,
            frames=(picture,) * self.num_frames,
            masks=(mask,) * self.num_frames,
            wav=sounds[0],
            more=tuple(sounds[1:]),
            category="+".join(sorted({row["cateName"] for row in rows})),
        ).as_on_disk()
        require_files(files.paths, f"a file of picture {picture.stem}")
        return files

    def _sound(self, path: Path) -> np.ndarray:
        """[num_frames * 16000] float32: the middle of a recording, repeated first if it is shorter."""
        sound = self.read_sound(path)
        length = self.num_frames * SAMPLE_RATE
        if len(sound) < length:
            sound = np.tile(sound, length // len(sound) + 1)[:length]
        start = (len(sound) - length) // 2
        return sound[start : start + length]


class VPOSS(VPO):
    """VPO-SS: one source a picture."""

    kind = "vpo-ss"
    folder = "VPO-SS"
    by_category = True


class VPOMS(VPO):
    """VPO-MS: several sources a picture, one of each category."""

    kind = "vpo-ms"
    folder = "VPO-MS"


class VPOMSMI(VPO):
    """VPO-MSMI: several sources a picture, also of one category."""

    kind = "vpo-msmi"
    folder = "VPO-MSMI"


def _is_zero(text: str) -> bool:
    return text in ("0", "0.0", "False")
