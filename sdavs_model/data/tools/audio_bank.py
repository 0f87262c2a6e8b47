"""Makes a bank of audio semantics: embeds the seconds in which one class sounds alone, clusters them class by class."""

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from sdavs_model.config import ModelConfig
from sdavs_model.data.core.clip import ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.encoders.audio import build_audio_encoder
from sdavs_model.weights.audio_bank import AudioBank, BankRecord, encoder_digest
from sdavs_model.weights.read import configured_weights

# Rounds of k-means. A class has some hundred seconds and five clusters; it is settled long before.
NUM_ROUNDS = 50


def make_bank(
    clips: ClipSet,
    config: ModelConfig,
    *,
    num_prototypes: int,
    seed: int = 0,
    progress: Progress = no_progress,
) -> AudioBank:
    """Prototypes of every class that sounds alone somewhere in a split.

    The published bank has five for each class, from k-means over single-source clips. The same clips, encoder, number
    and seed give the same bank.

    Args:
        clips: a training split of any data set that says what its clips hold.
        config: names the audio encoder and its weights, and the preprocessing.
        num_prototypes: n, of each class. One that sounds alone for fewer seconds has each of these as a prototype,
            some twice.
        seed: of the clustering.
        progress: counts clips.

    Raises:
        ValueError: no class sounds alone in these clips.
    """
    encoder = build_audio_encoder(config, configured_weights(config)[1]).eval()
    preprocessor = Preprocessor(config.preprocess)
    embeddings: dict[str, list[np.ndarray]] = defaultdict(list)
    with torch.inference_mode():
        for index, files in enumerate(clips.files):
            if seconds := dict(single_sources(files)):
                log_mel = preprocessor.log_mel(clips.waveform(index), len(files.frames))
                embedded = encoder(log_mel[[*seconds]]).numpy()
                for name, embedding in zip(seconds.values(), embedded, strict=True):
                    embeddings[name].append(embedding)
            progress("listening", index + 1, len(clips))
    if not embeddings:
        raise ValueError(
            f"{clips.root}: split {clips.split!r} does not record any second in which one class sounds alone; "
            "make the bank from a data set that does"
        )
    names = sorted(embeddings)
    # Seconds that are the same, such as digital silence, would make clusters that are the same.
    distinct = {name: np.unique(np.stack(embeddings[name]), axis=0) for name in names}
    return AudioBank(
        prototypes=torch.from_numpy(
            np.stack([_cluster(distinct[name], num_prototypes, seed) for name in names])
        ),
        record=BankRecord(
            classes=tuple(names),
            num_seconds=tuple(len(embeddings[name]) for name in names),
            audio_encoder=config.audio_encoder,
            encoder_digest=encoder_digest(encoder),
            data_digest=clips.digest,
            split=clips.split,
            seed=seed,
        ),
    )


def single_sources(files: ClipFiles) -> Iterator[tuple[int, str]]:
    """The seconds of a clip in which exactly one class sounds, and its name.

    Composed data sets say it second by second, on screen or off. Of others a clip with one category counts whole.
    """
    if files.sources is not None and "seconds" in (record := json.loads(files.sources.read_text())):
        for second, heard in enumerate(record["seconds"]):
            if len(names := [*heard["sounding"], *heard["off_screen"]]) == 1:
                yield second, names[0]
    elif files.category and "+" not in files.category:
        for second in range(len(files.frames)):
            yield second, files.category


def _cluster(embeddings: np.ndarray, number: int, seed: int) -> np.ndarray:
    """The means of k-means over [M, E], in an order that does not depend on chance: [number, E] float32."""
    from scipy.cluster.vq import kmeans2

    if len(embeddings) <= number:
        return np.resize(embeddings, (number, embeddings.shape[1]))
    # In float64: sums in another order then give the same clusters on any machine.
    means, _ = kmeans2(embeddings.astype(np.float64), number, iter=NUM_ROUNDS, minit="++", rng=seed)
    return means[np.lexsort(means.T[::-1])].astype(np.float32)
