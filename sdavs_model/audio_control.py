"""Data sets whose sound is replaced while frames and masks stay: the controls that show whether a model listens."""

from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset

AudioControl = Literal["right", "muted", "swapped"]


class ReplacedSound(Dataset):
    """A data set with other sound; subclasses define `replace_sound`.

    Args:
        clips: items with "log_mel" and "category" (the clip's sounding categories; "" where unknown).
    """

    def __init__(self, clips: Any) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self.clips[index])
        item["log_mel"] = self.replace_sound(index, item["log_mel"])
        return item

    def replace_sound(self, index: int, log_mel: Tensor) -> Tensor:
        """The log-mel that clip `index` gets in place of its own `log_mel`; both are [T, 1, 96, 64]."""
        raise NotImplementedError


class AudioControlled(ReplacedSound):
    """A data set with its own sound, with silence, or with the sound of other clips.

    Args:
        clips: see `ReplacedSound`.
        control: "right" keeps the sound, "muted" replaces it by silence, "swapped" by the sound of the next clip
            that shares no category with this one.
        silence: [1, 96, 64], the log-mel example of silence, as `Preprocessor` makes it.

    Raises:
        ValueError: "swapped", and a clip shares a category with every other clip.
    """

    def __init__(self, clips: Any, *, control: AudioControl, silence: Tensor) -> None:
        super().__init__(clips)
        self.control = control
        self.silence = silence
        if control == "swapped":
            self.partners = swap_partners(clips.categories)

    def replace_sound(self, index: int, log_mel: Tensor) -> Tensor:
        if self.control == "muted":
            return self.silence.expand_as(log_mel).clone()
        if self.control == "swapped":
            return self.clips[self.partners[index]]["log_mel"]
        return log_mel


def swap_partners(categories: list[str], seen: list[str] | None = None) -> list[int]:
    """For each clip the next one, cyclically, that shares no sounding category with it.

    Args:
        categories: sounding categories of each clip, joined by "+"; "" where unknown.
        seen: visible categories of each clip, joined likewise. If given, the partner has a sound, and none of its
            sounding categories is visible in the clip: sound from off screen.

    Raises:
        ValueError: a clip has no such partner.
    """
    sounds = [set(c.split("+")) - {""} for c in categories]
    visible = [set(c.split("+")) for c in seen or [""] * len(sounds)]
    partners = []
    for i, own in enumerate(sounds):
        order = (j % len(sounds) for j in range(i + 1, i + len(sounds)))
        unlike = (j for j in order if not (own | visible[i]) & sounds[j])
        partner = next((j for j in unlike if seen is None or sounds[j]), None)
        if partner is None:
            also = "or what is seen in it " if seen else ""
            raise ValueError(f"swapped audio: clip {i} shares a category {also}with every other clip")
        partners.append(partner)
    return partners
