"""Short phrases for an instrument of a General MIDI sound font, rendered with the `fluidsynth` program."""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

TICKS = 480
"""Of a quarter note, at MIDI's default tempo of 120 quarters a minute."""
SAMPLE_RATE = 44100

# Chords as they lie on a guitar in standard tuning, low string first.
E_MINOR = (40, 47, 52, 55, 59, 64)
C_MAJOR = (48, 52, 55, 60, 64)
G_MAJOR = (43, 47, 50, 55, 59, 67)
D_MAJOR = (50, 57, 62, 66)
A_MINOR = (45, 52, 57, 60, 64)

Note = tuple[int, int, int]
"""Start and length in ticks, MIDI pitch."""


def strummed(chords: Sequence[Sequence[int]]) -> list[Note]:
    """Each chord down, down, up: the strings 15 ticks (16 ms) after each other."""
    notes = []
    for bar, chord in enumerate(chords):
        for beat, length, upwards in ((0, 960, False), (960, 240, False), (1200, 720, True)):
            strings = list(reversed(chord)) if upwards else list(chord)
            start = bar * 4 * TICKS + beat
            notes += [(start + 15 * index, length - 15 * index, pitch) for index, pitch in enumerate(strings)]
    return notes


def picked(chords: Sequence[Sequence[int]]) -> list[Note]:
    """Each chord string after string in eighths, which ring over each other."""
    notes = []
    for bar, chord in enumerate(chords):
        pattern = (0, 2, 3, len(chord) - 1, 3, 2, len(chord) - 1, 3)
        notes += [
            ((bar * 8 + step) * TICKS // 2, TICKS, chord[string]) for step, string in enumerate(pattern)
        ]
    return notes


def melody(pitches: Sequence[int], lengths: Sequence[int]) -> list[Note]:
    """One note after another; lengths in eighths."""
    notes, start = [], 0
    for pitch, length in zip(pitches, lengths, strict=True):
        notes.append((start, length * TICKS // 2, pitch))
        start += length * TICKS // 2
    return notes


# The first bars of Greensleeves, a tune of the 16th century.
GREENSLEEVES = melody(
    (57, 60, 62, 64, 65, 64, 62, 59, 55, 57, 59, 60, 57, 57, 56, 57, 59, 56, 52),
    (1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 2),
)

PHRASES: dict[int, list[Note]] = {
    24: picked((E_MINOR, A_MINOR, C_MAJOR, G_MAJOR)),
    25: strummed((G_MAJOR, E_MINOR, C_MAJOR, D_MAJOR)),
    26: GREENSLEEVES,
    27: strummed((A_MINOR, C_MAJOR, G_MAJOR, E_MINOR)),
}
"""What each General MIDI program, counted from 0, plays: nylon, steel, jazz and clean electric guitars."""


def midi_file(program: int, notes: Sequence[Note]) -> bytes:
    """A standard MIDI file of format 0 with one instrument."""
    # Ends sort before starts, so a string that is struck again is damped first.
    events = sorted(
        [(start + length, 0, bytes((0x80, pitch, 64))) for start, length, pitch in notes]
        + [(start, 1, bytes((0x90, pitch, 96))) for start, _, pitch in notes]
    )
    track, now = bytes((0, 0xC0, program)), 0
    for tick, _, message in events:
        track += _variable_length(tick - now) + message
        now = tick
    track += _variable_length(TICKS) + b"\xff\x2f\x00"
    return struct.pack(">4sIHHH4sI", b"MThd", 6, 0, 1, TICKS, b"MTrk", len(track)) + track


def rendered_phrase(sound_font: bytes, program: int) -> bytes:
    """The program's phrase as a wav file, without reverberation or chorus.

    Raises:
        ValueError: no `fluidsynth` on this machine, or a program without a phrase.
    """
    if program not in PHRASES:
        raise ValueError(f"no phrase for program {program}; allowed: {', '.join(map(str, PHRASES))}")
    if shutil.which("fluidsynth") is None:
        raise ValueError("fluidsynth: not found; install Debian's package of this name to render sound fonts")
    with tempfile.TemporaryDirectory() as folder:
        font, midi, wav = (Path(folder, name) for name in ("font.sf2", "phrase.mid", "phrase.wav"))
        font.write_bytes(sound_font)
        midi.write_bytes(midi_file(program, PHRASES[program]))
        settings = ["-R", "0", "-C", "0", "-g", "0.5", "-r", str(SAMPLE_RATE), "-O", "s16", "-T", "wav"]
        subprocess.run(
            ["fluidsynth", "-n", "-i", "-q", *settings, "-F", str(wav), str(font), str(midi)],
            check=True,
            capture_output=True,
        )
        return wav.read_bytes()


def _variable_length(value: int) -> bytes:
    """A number as MIDI writes delta times: seven bits a byte, the highest first."""
    content = [value & 0x7F]
    while value := value >> 7:
        content.append(value & 0x7F | 0x80)
    return bytes(reversed(content))
