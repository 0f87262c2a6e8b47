"""The config of the augmentation; without torch, which a process that only reads configs does not need."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Strengths of the augmentation. Every choice is ours: the paper names none for its small sets.

    Raises:
        ValueError: a probability outside 0 to 1, a negative strength; the message names the field.
    """

    window: int = 0
    """Number of consecutive seconds of a clip, starting at random, that are trained on at a time; 0 is the whole clip.
    Neighbouring frames show nearly the same, so short runs put more different scenes into one batch."""
    flip_prob: float = 0.5
    """Probability that a clip is mirrored left to right."""
    zoom: float = 0.5
    """The clip is enlarged by up to 1 + zoom, or shrunk by up to 1 + zoom / 3."""
    shift: float = 0.1
    """Minimum range of the shift, as a fraction of the side; a crop may lie anywhere in the picture."""
    rotation: float = 12.0
    """Largest rotation in degrees, in either direction."""
    reverse_prob: float = 0.3
    """Probability that the order of the seconds is reversed (each second itself stays unchanged)."""
    brightness: float = 0.35
    """Largest relative change of brightness, of contrast, and of each colour channel (a third of it)."""
    saturation: float = 0.6
    """Largest relative change of saturation."""
    hue: float = 0.12
    """Largest rotation of the hue, in full circles."""
    gray_prob: float = 0.2
    """Probability that the clip becomes greyscale."""
    blur_prob: float = 0.3
    """Probability of a blur of up to 1.5 % of the side."""
    erase_prob: float = 0.4
    """Probability of each of two rectangles that hide a part of every frame; the masks lose it too."""
    pixel_noise: float = 0.06
    """Largest standard deviation of the noise on the pixels (of 1)."""
    gain_db: float = 9.0
    """Largest change of loudness, in either direction, in dB."""
    pitch: float = 0.2
    """Largest relative change of pitch and speed, inside each second."""
    equalizer_db: float = 10.0
    """Largest gain or loss, in dB, of a smooth random frequency response."""
    band_prob: float = 0.5
    """Probability of a low-pass (2 to 7 kHz), and of a high-pass (60 to 500 Hz)."""
    sound_noise_db: float = -18.0
    """Loudest added coloured noise against the clip's own level, in dB; it goes down to 40 dB below that."""
    sound_noise_prob: float = 0.6
    """Probability of that noise."""
    mel_time_mask: int = 16
    """Longest stretch of the 96 log-mel frames of a second that is silenced."""
    mel_band_mask: int = 10
    """Widest band of the 64 log-mel bins that is silenced."""
    mix_prob: float = 0.0
    """Probability that the sound of another clip, of categories not seen in this one, is added. Needs a data set that
    records the categories of its clips, so it is off by default."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_prob") and not 0 <= value <= 1:
                raise ValueError(f"augment.{field.name}: {value} is not a probability (0 to 1)")
            if field.name != "sound_noise_db" and value < 0:
                raise ValueError(f"augment.{field.name}: {value} is negative")
        if self.pitch >= 0.5 or self.brightness >= 1 or self.saturation > 1:
            raise ValueError("augment: pitch must be below 0.5, brightness below 1, saturation at most 1")
        if self.mel_time_mask > 96 or self.mel_band_mask > 64:
            raise ValueError("augment: mel_time_mask is at most 96, mel_band_mask at most 64")

    @property
    def needs_waveform(self) -> bool:
        """Whether any strength changes the sound itself, before it becomes a log-mel."""
        changes = (self.gain_db, self.pitch, self.equalizer_db, self.band_prob, self.mix_prob)
        return any(changes) or self.sound_noise_prob > 0 or self.reverse_prob > 0
