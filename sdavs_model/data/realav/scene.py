"""What a composed clip shows: who is seen, who is heard, and in which seconds."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Source:
    """One category in a clip."""

    category: str
    seen: bool
    seconds: tuple[bool, ...]
    """In which seconds it sounds; all False for a silent object."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Who is seen and heard, and when: what picture, sound and masks are all made from."""

    sources: tuple[Source, ...]
    noise: str | None
    """The kind of environment noise under the whole clip."""
    assets: tuple[str, ...] = field(default=(), repr=False)
    """sha256 of every picture and recording that the clip was made of; filled in when it is composed."""

    def record(self) -> dict:
        """The JSON that is stored next to a clip: categories heard and seen, also second by second.

        "objects" are those seen in the order in which they are drawn: the k-th has the value k in `Clip.objects`.
        """
        heard = {source.category for source in self.sources if any(source.seconds)}
        num_seconds = len(self.sources[0].seconds)
        return {
            "heard": sorted(heard),
            "seen": sorted(source.category for source in self.sources if source.seen),
            "objects": [source.category for source in self.sources if source.seen],
            "seconds": [
                {
                    "sounding": sorted(s.category for s in self.sources if s.seen and s.seconds[second]),
                    "off_screen": sorted(
                        s.category for s in self.sources if not s.seen and s.seconds[second]
                    ),
                }
                for second in range(num_seconds)
            ],
            "noise": self.noise,
            "assets": sorted(self.assets),
        }
