"""The trained parts of a model as a file with a card whose figures are that file's own."""

import dataclasses
from pathlib import Path

from sdavs_model.artifact import LoadedModel
from sdavs_model.data.datasets import known_kind
from sdavs_model.files import sha256_of, write_atomically
from sdavs_model.metrics.base import LABELS
from sdavs_model.trained_parts import PartsCard, load_parts, write_parts
from sdavs_platform.evaluation.registered_model import controls_of, open_for, test_splits
from sdavs_platform.evaluation.scoring import Scores, score
from sdavs_platform.storage.datasets import bundled_data, local_copy
from sdavs_platform.tables import text_table

Figures = dict[str, dict[str, Scores]]
"""By split and row."""


def export_parts(loaded: LoadedModel, out: Path, *, root: str | None, weights_folder: Path) -> str:
    """Write the parts of a model and their card; returns the figures as a table.

    Args:
        loaded: the artifact of a training on frozen pretrained encoders.
        out: the file; the card is README.md next to it.
        root: data set to score on; None for the bundled one.
        weights_folder: holds the encoders.

    Raises:
        ValueError: as `write_parts`, `load_parts` and `open_for`.
    """
    write_parts(out, loaded)
    model, card = load_parts(out, weights_folder=weights_folder)
    joined = dataclasses.replace(loaded, model=model)
    data = local_copy(root) if root else bundled_data()
    kind = known_kind(kind="auto", root=data)
    figures: Figures = {}
    for split in test_splits(data, kind):
        clips = open_for(joined, kind, data, split)
        figures[split] = {f"{audio} audio": score(model, clips, audio=audio) for audio in controls_of(clips)}
    write_atomically(out.with_name("README.md"), model_card(out, card, figures))
    return _table(figures)


def model_card(file: Path, card: PartsCard, figures: Figures) -> str:
    """The card of a file of parts, as Markdown."""
    config, lineage = card.config, card.lineage
    encoders = "\n".join(
        f"- `{record['name']}`: {record['trained_on']}. Licence: {record['licence']}."
        for record in card.encoders.values()
    )
    made = {
        key: lineage[key]
        for key in ("name", "step", "seed", "git_commit", "data_kind", "protocol")
        if key in lineage
    }
    return f"""# {file.name}

The parts of a model of the architecture `{config.architecture}`, without the two encoders that they were trained on:
{config.backbone} and {config.audio_encoder}, frozen, at {config.image_size} px. Weights in fp16,
safetensors, {file.stat().st_size / 1e6:.1f} MB, sha256 `{sha256_of(file)}`.
`sdavs_model.trained_parts.load_parts` joins them with the encoders, which `python jobs/prepare_weights.py fetch NAME`
downloads. Written by `python jobs/export_parts.py`.

## What it does

It takes a frame and a second of sound for every second of a video, and marks the pixels of what sounds.

## Data

Trained on RealAV, composed clips: cut-outs of photographs over other photographs, with recordings of what they show
(docs/realav.md). It has a few photographs and recordings a category. Encoders:

{encoders}

## Figures

Of this very file, on RealAV's test splits. "right" is the clip's own sound, "swapped" that of another clip.
*test_new_scenes*: objects and recordings of the training in new compositions. *test_strict*: objects and recordings
that it never saw or heard.

```
{_table(figures)}
```

The training: {", ".join(f"{key} {value}" for key, value in made.items())}.

## Licences

The weights are under the licence of the code (LICENSE). The photographs and recordings that it was trained on keep
their own, among them GPL-2, GPL-3+ and CC-BY-SA (`sdavs_model/data/realav/assets/ATTRIBUTION.md`); none of them is in
the file.

## Limits

It knows the categories of its training and what resembles them. It was trained on composed pictures, not on films, at
{config.image_size} px, so outlines are coarse. Of two objects of the same kind it cannot tell which one sounds. Nothing
in it was made for decisions about people.
"""


def _table(figures: Figures) -> str:
    blocks = []
    for split, rows in figures.items():
        names = [name for name in LABELS if any(name in scores for scores in rows.values())]
        table = [[f"  {row}", *(scores.get(name) for name in names)] for row, scores in rows.items()]
        blocks.append(text_table([split, *(LABELS[name] for name in names)], table))
    return "\n\n".join(blocks)
