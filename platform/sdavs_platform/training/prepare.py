"""What a training checks before it leases anything."""

from sdavs_model.data.core.clip_set import total_digest
from sdavs_model.weights.store import resolve_weights
from sdavs_platform.config.paths import absolute, state_folder, weights_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import bundled_data
from sdavs_platform.storage.splits import open_split
from sdavs_platform.tracking.client import tracking_uri


def resolved(config: RunConfig) -> RunConfig:
    """The config with every address filled in, valid in any process: what the run records.

    Raises:
        ValueError: pretrained weights that the config names are not here.
    """
    model = resolve_weights(config.model, folder=weights_folder(), prefix="model.")
    data = config.data.model_copy(update={"root": config.data.root or str(bundled_data())})
    return config.model_copy(
        update={
            "data": data,
            "model": model,
            "tracking": config.tracking.model_copy(update={"uri": tracking_uri(config.tracking.uri)}),
            "storage": config.storage.model_copy(
                update={"uri": absolute(config.storage.uri or state_folder() / "results")}
            ),
        }
    )


def check_data(config: RunConfig) -> str:
    """Open every split once, before anything is leased; returns the digest of all of them.

    Raises:
        ValueError: a folder, split or file is missing or does not fit the model; names it.
    """
    digests: dict[str, str] = {}
    for split in dict.fromkeys((config.data.train_split, config.data.val_split, *config.data.test_splits)):
        clips = open_split(config, split, training=split == config.data.train_split).source
        if config.model.num_classes != clips.num_classes:
            raise ValueError(
                f"model.num_classes: {config.model.num_classes} does not fit {clips.root} ({clips.kind}); "
                f"allowed: {clips.num_classes}"
            )
        if split == config.data.train_split and len(clips) < config.training.batch_size:
            raise ValueError(
                f"training.batch_size: {config.training.batch_size} clips, but split {split!r} has "
                f"only {len(clips)}"
            )
        digests[split] = clips.digest
    return total_digest(digests)
