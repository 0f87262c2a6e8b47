"""The splits of a run's data set, opened as its config says."""

from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import local_copy


def open_split(config: RunConfig, split: str, *, training: bool = False) -> TrainingClips:
    """One split of the run's data set; augmented if it is learned from. A bucket is first copied to this machine.

    Raises:
        ValueError: the folder, the split or a file is missing, or a bucket cannot be reached; names it.
    """
    assert config.data.root is not None
    return open_training_clips(
        config.data.kind,
        local_copy(config.data.root),
        split,
        Preprocessor(config.model.preprocess),
        num_frames=config.model.num_frames,
        training=training,
        augment=config.data.augment
        if training and config.data.augmented and not config.data.cache_features
        else None,
        seed=config.seed,
        sounds=SoundCache(state_folder() / "cache" / "sounds") if config.data.cache_sound else None,
    )
