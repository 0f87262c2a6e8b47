"""Clips as phones, screen recorders and editors write them: a player's picture, sound and length are the right ones."""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image, ImageOps
from sdavs_platform.config.tree import ServeConfig
from sdavs_serve.decoding.media import Timeline, decode_pictures, decode_video
from sdavs_serve.errors import MediaError
from sdavs_serve.tools.fuzz import mux_sound

from sdavs_model.data.core.audio import read_audio

LIMITS = ServeConfig()
RATE = 48_000
WIDTH, HEIGHT = 64, 48


def corner(value: int = 40) -> np.ndarray:
    """[48, 64, 3]: grey, and red in the top left quarter, so that turning and mirroring show."""
    picture = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    picture[: HEIGHT // 2, : WIDTH // 2] = (220, 30, 30)
    return picture


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.int16(12_000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate))


def write(
    times_ms: list[int],
    *,
    kind: str = "mp4",
    codecs: tuple[str, str] = ("libx264", "aac"),
    sound_s: float = 0,
    picture: Callable[[int], np.ndarray] = lambda index: corner(40 + 20 * (index % 8)),
    aspect: Fraction | None = None,
    add: Callable = lambda container: None,
) -> bytes:
    """A video with a picture at each of the times, and a tone."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream(codecs[0], rate=30)
        video.height, video.width = picture(0).shape[:2]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        audio = container.add_stream(codecs[1], rate=RATE, layout="mono") if sound_s else None
        add(container)
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            mux_sound(container, audio, tone(sound_s))
    return file.getvalue()


def every_second(seconds: int, **changes: object) -> bytes:
    return write([200 * step for step in range(5 * seconds)], sound_s=seconds, **changes)


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as container:
        mux_sound(
            container, container.add_stream("pcm_s16le", rate=16_000, layout="mono"), tone(seconds, 16_000)
        )
    return file.getvalue()


def decoded(video: bytes, *, fps: float = 1, sound: bytes | None = None):
    ends: list[Timeline] = []
    samples = list(decode_video(video, fps=fps, limits=LIMITS, sound=sound, on_end=ends.append))
    return samples, ends[0]


@pytest.mark.parametrize(("kind", "codecs"), [("webm", ("libvpx", "libopus")), ("mp4", ("libx264", "aac"))])
def test_a_picture_that_does_not_change_is_held_while_the_sound_continues(kind, codecs):
    samples, ends = decoded(write([0, 300, 600, 1000], kind=kind, codecs=codecs, sound_s=8))
    assert len(samples) == 8
    last = [sample.picture for sample in samples[1:]]
    assert all(np.array_equal(picture, last[0]) for picture in last)
    greys = [int(sample.picture[-8, -8].mean()) for sample in samples[:2]]
    assert greys == pytest.approx([60, 100], abs=6), "of 0.3 s and, from 1 s on, of 1 s"
    assert all(np.abs(sample.second).max() > 0.2 for sample in samples), "every frame has its own sound"
    assert (ends.picture_end_s, ends.sound_end_s) == pytest.approx((1.0, 8.0), abs=0.15)


def test_a_sound_that_is_padded_to_whole_packets_adds_no_frame():
    for fps in (1, 5, 60):
        samples, _ = decoded(every_second(3), fps=fps)
        assert len(samples) == 3 * fps


def test_another_sound_changes_neither_the_number_of_frames_nor_the_pictures():
    still = write([0, 1000], sound_s=6)
    own, own_ends = decoded(still)
    for seconds in (1, 6, 9):
        other, ends = decoded(still, sound=wav(seconds))
        assert len(other) == len(own) == 6
        assert all(np.array_equal(a.picture, b.picture) for a, b in zip(own, other, strict=True))
        assert ends.sound_end_s == pytest.approx(own_ends.sound_end_s, abs=0.05)


def test_a_silent_video_is_segmented_with_the_sound_that_is_sent_along():
    silent = write([0, 1000, 2000])
    samples, ends = decoded(silent, sound=wav(3))
    assert len(samples) == 2 or len(samples) == 3
    assert all(np.abs(sample.second).max() > 0.2 for sample in samples)
    assert ends.sound_end_s == 0
    with pytest.raises(MediaError, match="no sound track") as refused:
        decoded(silent)
    assert refused.value.kind == "no_sound"


def subtitled(video: bytes, tmp_path: Path, *, last_s: int) -> bytes:
    """The video in Matroska with a subtitle that ends at `last_s`."""
    (tmp_path / "text.srt").write_text(f"1\n00:00:01,000 --> 00:00:{last_s:02d},000\nhello\n")
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(video)) as source,
        av.open(str(tmp_path / "text.srt")) as text,
        av.open(file, "w", format="matroska") as out,
    ):
        tracks = {
            id(stream): out.add_stream_from_template(stream) for stream in (*source.streams, *text.streams)
        }
        for packet in (
            packet for part in (source, text) for packet in part.demux() if packet.dts is not None
        ):
            packet.stream = tracks[id(packet.stream)]
            out.mux(packet)
    return file.getvalue()


def test_a_subtitle_that_ends_after_the_video_changes_nothing(tmp_path):
    video = subtitled(every_second(5), tmp_path, last_s=59)
    samples, ends = decoded(video)
    assert len(samples) == 5
    assert ends.picture_end_s == pytest.approx(5, abs=0.25)
    with pytest.raises(MediaError, match="cut short"):
        decoded(video[: len(video) // 2])


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_a_cover_picture_is_not_taken_for_the_video(kind):
    """mp4 marks it; in Matroska it is a track that comes first and holds one picture."""
    file = io.BytesIO()
    with av.open(io.BytesIO(every_second(2))) as source, av.open(file, "w", format=kind) as out:
        cover_first = out.add_stream("mjpeg", rate=1)
        cover_first.height, cover_first.width, cover_first.pix_fmt = 32, 32, "yuvj420p"
        cover_first.disposition = av.stream.Disposition.attached_pic
        tracks = {id(stream): out.add_stream_from_template(stream) for stream in source.streams}
        out.mux(
            cover_first.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9, np.uint8), format="rgb24"))
        )
        out.mux(cover_first.encode(None))
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[id(packet.stream)]
                out.mux(packet)
    samples, _ = decoded(file.getvalue())
    assert [sample.picture.shape for sample in samples] == [(HEIGHT, WIDTH, 3)] * 2


ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), "top left"),
    "mirrored": ((-1, 0, 0, 1), "top right"),
    "upside down": ((-1, 0, 0, -1), "bottom right"),
    "flipped": ((1, 0, 0, -1), "bottom left"),
    "transposed": ((0, 1, 1, 0), "top left"),
    "turned right": ((0, 1, -1, 0), "top right"),
    "transversed": ((0, -1, -1, 0), "bottom right"),
    "turned left": ((0, -1, 1, 0), "bottom left"),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_each_of_the_eight_display_matrices_is_followed(name):
    (a, b, c, d), where = ORIENTATIONS[name]
    video = bytearray(every_second(1))
    at = video.index(b"tkhd") + 44
    video[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (sample,) = decoded(bytes(video))[0]
    height, width = (WIDTH, HEIGHT) if a == 0 else (HEIGHT, WIDTH)
    assert sample.picture.shape == (height, width, 3)
    red = sample.picture[..., 0] > 130
    rows, columns = np.nonzero(red)
    found = ("top " if rows.mean() < height / 2 else "bottom ") + (
        "left" if columns.mean() < width / 2 else "right"
    )
    assert found == where


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_of_the_eight_orientations_of_exif_is_followed(orientation):
    stored = Image.fromarray(corner())
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", quality=95, exif=exif)
    (sample,) = decode_pictures([file.getvalue()], wav(1), fps=1, limits=LIMITS)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).convert("RGB"))
    assert np.array_equal(sample.picture, shown)


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(Fraction(4, 3), (48, 85, 3)), (Fraction(1, 2), (96, 64, 3)), (Fraction(1), (48, 64, 3))],
)
def test_pixels_that_are_not_square_are_shown_as_they_are_meant(aspect, shape):
    samples, _ = decoded(every_second(1, aspect=aspect))
    assert samples[0].picture.shape == shape
    limits = LIMITS.model_copy(update={"max_pixels": 64 * 48})
    if aspect != 1:
        with pytest.raises(MediaError, match=f"{shape[1]} x {shape[0]} pixels"):
            list(decode_video(every_second(1, aspect=aspect), fps=1, limits=limits))


@pytest.mark.parametrize(("height", "colours"), [(720, Colorspace.ITU709), (480, Colorspace.ITU601)])
def test_untagged_video_has_the_colours_of_its_size(height, colours):
    wanted = (200, 40, 60)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=1)
        video.height, video.width, video.pix_fmt = height, 1280, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.VideoFrame.from_ndarray(np.full((height, 1280, 3), wanted, np.uint8), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=colours)
        frame.colorspace = 2  # AVCOL_SPC_UNSPECIFIED
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
        mux_sound(container, audio, tone(1))
    (sample,) = decoded(file.getvalue())[0]
    assert np.abs(sample.picture.astype(int) - wanted).max() <= 4


@pytest.mark.parametrize(
    ("kind", "codecs"),
    [
        ("avi", ("mpeg4", "libmp3lame")),
        ("avi", ("libx264", "pcm_s16le")),
        ("mpegts", ("libx264", "aac")),
        ("mpegts", ("mpeg2video", "mp2")),
    ],
)
def test_avi_and_transport_streams_are_read_as_other_videos(kind, codecs):
    rate, seconds, file = 25, 3, io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream(codecs[0], rate=rate)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        audio = container.add_stream(codecs[1], rate=RATE, layout="mono")
        for index in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(corner(40 + 20 * (index // rate)), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        mux_sound(container, audio, tone(seconds))
    samples, ends = decoded(file.getvalue())
    greys = [int(sample.picture[-8, -8].mean()) for sample in samples]
    assert greys == pytest.approx([40, 60, 80], abs=6)
    assert all(np.abs(sample.second).max() > 0.2 for sample in samples)
    assert ends.picture_end_s == pytest.approx(seconds, abs=0.15)
    if kind == "mpegts":  # as camcorders write them, with a time stamp before each packet
        content = file.getvalue()
        stamped = b"".join(bytes(4) + content[i : i + 188] for i in range(0, len(content), 188))
        assert len(decoded(stamped)[0]) == seconds


def reordered_avi(seconds: int, rate: int) -> bytes:
    """AVI whose pictures lie in another order than they are shown in."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        video = container.add_stream("libx264", rate=rate, options={"bf": "3"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        audio = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        for index in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(corner(40 + 20 * (index // rate)), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        mux_sound(container, audio, tone(seconds))
    return file.getvalue()


def test_pictures_of_an_avi_are_shown_in_their_own_second():
    samples, ends = decoded(reordered_avi(5, 5))
    assert [int(sample.picture[-8, -8].mean()) for sample in samples] == pytest.approx(
        [40, 60, 80, 100, 120], abs=6
    )
    assert ends.picture_end_s == pytest.approx(5, abs=0.05)


def test_an_avi_that_was_cut_is_refused_and_one_from_a_pipe_is_read():
    video = bytearray(reordered_avi(3, 5))
    with pytest.raises(MediaError, match=r"cut short: [\d.]+ of 3\.\d s"):
        decoded(bytes(video[: len(video) // 3]))
    for size in (0, 0x7FFFFFFF, 0xFFFFFFFF):
        video[4:8] = struct.pack("<I", size)
        assert len(decoded(bytes(video))[0]) == 3


@pytest.mark.parametrize(
    ("transfer", "code", "wanted"),
    [(16, 0.5807, 244), (16, 0.5070, 191), (16, 0.9, 254), (18, 0.75, 244), (18, 0.6296, 191), (18, 0.0, 0)],
    ids=["pq-203", "pq-102", "pq-4000", "hlg-203", "hlg-102", "hlg-black"],
)
def test_hdr_is_tone_mapped_so_that_its_reference_white_is_nearly_white(transfer, code, wanted):
    """Greys: 203 nits are at PQ 0.58 and HLG 0.75 (ITU-R BT.2408, table 1); 244 is 255 * 0.9 ** (1 / 2.4)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=1)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p10le"
        coded = video.codec_context
        coded.color_trc, coded.color_primaries, coded.colorspace, coded.color_range = transfer, 9, 9, 1
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        grey = np.full((HEIGHT, WIDTH, 3), round(code * 65535), np.uint16)
        frame = av.VideoFrame.from_ndarray(grey, format="rgb48le")
        container.mux(video.encode(frame.reformat(format="yuv420p10le", dst_colorspace=9)))
        container.mux(video.encode(None))
        mux_sound(container, audio, tone(1))
    (sample,) = decoded(file.getvalue())[0]
    assert sample.picture.dtype == np.uint8
    assert np.abs(sample.picture.astype(int) - wanted).max() <= 4


def still(kind: str, size: tuple[int, int] = (WIDTH, HEIGHT), **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.resize(corner(), (size[1], size[0], 3))).save(file, kind, **options)
    return file.getvalue()


def test_webp_stills_and_photographs_of_12_megapixels_are_read():
    sound = wav(1)
    (sample,) = decode_pictures([still("WEBP", lossless=True)], sound, fps=1, limits=LIMITS)
    assert np.array_equal(sample.picture, corner())
    (large,) = decode_pictures([still("JPEG", (4032, 3024))], sound, fps=1, limits=LIMITS)
    assert large.picture.shape == (3024, 4032, 3)
    frames = [Image.fromarray(corner(value)) for value in (40, 200)]
    for kind in ("WebP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(MediaError, match=f"an animated {kind}; send a picture a second"):
            list(decode_pictures([file.getvalue()], sound, fps=1, limits=LIMITS))


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_refused_with_what_to_send_instead(brand):
    picture = struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(100)
    with pytest.raises(MediaError, match=r"a HEIC picture; send jpg \(on an iPhone") as refused:
        list(decode_pictures([picture], wav(1), fps=1, limits=LIMITS))
    assert refused.value.field == "frames[0]"
    with pytest.raises(MediaError, match="a HEIC picture; send jpg"):
        decoded(picture)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_an_mp3_needs_no_id3_header_at_any_rate(rate, make_png):
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"id3v2_version": "0", "write_xing": "0"}) as container:
        mux_sound(container, container.add_stream("libmp3lame", rate=rate, layout="mono"), tone(3, rate))
    assert file.getvalue()[0] == 0xFF
    samples = list(decode_pictures([make_png(corner())] * 3, file.getvalue(), fps=1, limits=LIMITS))
    assert all(np.abs(sample.second).max() > 0.2 for sample in samples)


def header(*, size: int, kind: bytes = b"RIFF", bits: int = 16, extensible: bytes = b"") -> bytes:
    """Of a mono wav at 16 kHz, with any size of its samples."""
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else 1, 1, 16_000, 2_000 * bits, bits // 8, bits)
    form += extensible
    return (
        kind
        + b"\xff" * 4
        + b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + size.to_bytes(4, "little")
    )


def test_a_wav_is_read_in_serving_as_in_training(tmp_path, make_png):
    samples = tone(2, 16_000)
    plain, deep = samples.tobytes(), (samples.astype("<i4") << 16).tobytes()
    of_24_bit = struct.pack("<HHIH", 22, 24, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
    sounds = (
        *(header(size=size) + plain for size in (0, 0xFFFFFFFF, 0x7FFFF000, len(plain), len(plain) + 44)),
        header(size=0xFFFFFFFF, kind=b"BW64") + plain,
        header(size=len(deep), bits=32, extensible=of_24_bit) + deep,
    )
    for content in sounds:
        (tmp_path / "x.wav").write_bytes(content)
        heard = list(decode_pictures([make_png(corner())] * 2, content, fps=1, limits=LIMITS))
        np.testing.assert_array_equal(
            np.concatenate([sample.second for sample in heard]), read_audio(tmp_path / "x.wav")
        )
        np.testing.assert_array_equal(heard[0].second, samples[:16_000] / np.float32(32_768))


def test_sound_of_eight_channels_is_read_in_serving_as_in_training(tmp_path, make_png):
    samples = np.repeat(tone(2, 16_000), 8)
    form = struct.pack("<HHIIHH", 1, 8, 16_000, 16 * 16_000, 16, 16)
    content = header(size=len(samples) * 2).replace(header(size=0)[20:36], form) + samples.tobytes()
    (tmp_path / "x.wav").write_bytes(content)
    heard = list(decode_pictures([make_png(corner())] * 2, content, fps=1, limits=LIMITS))
    seconds = np.concatenate([sample.second for sample in heard])
    np.testing.assert_array_equal(seconds, read_audio(tmp_path / "x.wav"))
    np.testing.assert_allclose(seconds, tone(2, 16_000) / 32_768, atol=1e-6)


def test_a_wav_that_was_cut_or_holds_no_numbers_is_refused(make_png):
    samples = tone(2, 16_000).tobytes()
    nothing = header(size=0, bits=32).replace(b"\x10\0\0\0\1", b"\x10\0\0\0\3") + b"\xff" * 64_000
    for content, words in ((header(size=64_000) + samples[:9_000], "ends before"), (nothing, "not numbers")):
        with pytest.raises(MediaError, match=words) as refused:
            list(decode_pictures([make_png(corner())] * 2, content, fps=1, limits=LIMITS))
        assert (refused.value.kind, refused.value.field) == ("corrupt", "audio")


def test_tags_and_zeros_in_front_of_a_sound_are_passed_over(make_png):
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        mux_sound(container, container.add_stream("flac", rate=16_000, layout="mono"), tone(2, 16_000))
    tagged = b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + file.getvalue()
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"id3v2_version": "0"}) as container:
        mux_sound(container, container.add_stream("libmp3lame", rate=16_000, layout="mono"), tone(2, 16_000))
    for content in (tagged, bytes(300) + file.getvalue()):
        heard = list(decode_pictures([make_png(corner())] * 2, content, fps=1, limits=LIMITS))
        assert all(np.abs(sample.second).max() > 0.3 for sample in heard)


def test_what_only_looks_like_an_mp3_is_refused(make_png):
    for head in (b"\xff\xd8\xff\xe0", b"\xff\xff\xff\xff", b"\xff\xf1\x50\x80", b"\xff\xea\x00\x00"):
        with pytest.raises(MediaError, match="not a wav, flac, ogg or mp3 file"):
            list(decode_pictures([make_png(corner())], head + bytes(500), fps=1, limits=LIMITS))


def test_a_wav_beyond_four_gigabytes_may_say_so_in_its_header(make_png):
    file = io.BytesIO()
    with av.open(file, "w", format="wav", options={"rf64": "always"}) as container:
        mux_sound(container, container.add_stream("pcm_s16le", rate=16_000, layout="mono"), tone(2, 16_000))
    assert file.getvalue().startswith(b"RF64")
    samples = list(decode_pictures([make_png(corner())] * 2, file.getvalue(), fps=1, limits=LIMITS))
    assert all(np.abs(sample.second).max() > 0.2 for sample in samples)
