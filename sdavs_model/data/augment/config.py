"""The strengths of the augmentation, without what carries it out: a config is read in processes that need no torch."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Strengths of the augmentation. Every choice is ours: the paper names none for its small sets.

    Raises:
        ValueError: a probability outside 0 to 1, a negative strength; the message names the field.
    """

    window: int = 0
    """Seconds of a clip that are trained on at a time, a random run of them; 0 is the whole clip. Neighbouring
    frames show nearly the same, so short runs put more different scenes into one batch."""
    flip_prob: float = 0.5
    """Chance that a clip is mirrored left to right."""
    zoom: float = 0.5
    """The clip is enlarged by up to 1 + zoom, or shrunk by up to 1 + zoom / 3."""
    shift: float = 0.1
    """How far the clip is moved, at least, as a part of the side; a crop may lie anywhere in the picture."""
    rotation: float = 12.0
    """Largest turn in degrees, either way."""
    reverse_prob: float = 0.3
    """Chance that the seconds run backwards (each second itself stays as it is)."""
    brightness: float = 0.35
    """Largest relative change of brightness, of contrast, and of each colour channel (a third of it)."""
    saturation: float = 0.6
    """Largest relative change of saturation."""
    hue: float = 0.12
    """Largest turn of the hues, in full circles."""
    gray_prob: float = 0.2
    """Chance of losing all colour."""
    blur_prob: float = 0.3
    """Chance of a blur of up to 1.5 % of the side."""
    erase_prob: float = 0.4
    """Chance of each of two rectangles that hide a part of every frame; the masks lose it too."""
    pixel_noise: float = 0.06
    """Largest standard deviation of the noise on the pixels (of 1)."""
    gain_db: float = 9.0
    """Largest change of loudness, either way, in dB."""
    pitch: float = 0.2
    """Largest relative change of pitch and speed, inside each second."""
    equalizer_db: float = 10.0
    """Largest gain or loss, in dB, of a smooth random frequency response."""
    band_prob: float = 0.5
    """Chance of a low-pass (2 to 7 kHz), and of a high-pass (60 to 500 Hz)."""
    sound_noise_db: float = -18.0
    """Loudest added coloured noise against the clip's own level, in dB; it goes down to 40 dB below that."""
    sound_noise_prob: float = 0.6
    """Chance of that noise."""
    mel_time_mask: int = 16
    """Longest stretch of the 96 log-mel frames of a second that is silenced."""
    mel_band_mask: int = 10
    """Widest band of the 64 log-mel bins that is silenced."""
    mix_prob: float = 0.0
    """Chance that the sound of another clip, of categories not seen in this one, is added. Needs a data set
    that says which categories its clips hold, so it is off unless asked for."""

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
