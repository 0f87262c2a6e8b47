"""Raw videos become clips whose seconds fit together as the endpoint has them; bad ones are refused by name."""

import re
import subprocess
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from sdavs_platform.config.serve import ServeConfig
from sdavs_serve.decoding.media import decode_video
from waiting import patience

from sdavs_model.data.benchmarks.layout_files import read_rows
from sdavs_model.data.core.audio import write_wav
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.tools.import_video import Import, find_videos, import_videos
from sdavs_model.data.tools.validate import validate

SIZE = (51, 37)  # width, height


def write_video(
    path: Path, seconds: float, *, rate: Fraction | int = 25, codec: str = "mpeg4", sound: str | None = "aac"
) -> None:
    """Second i is grey of level 40 i + 20 and sounds at 300 (i + 1) Hz, 48 kHz stereo."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream(sound, rate=48_000, layout="stereo") if sound else None
        for index in range(round(seconds * rate)):
            level = 20 + 40 * int(index / rate)
            picture = np.full((SIZE[1], SIZE[0], 3), level, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if audio is None:
            return
        time_s = np.arange(round(seconds * 48_000)) / 48_000
        tone = 0.4 * np.sin(2 * np.pi * 300 * (np.floor(time_s) + 1) * time_s)
        samples = np.repeat(np.int16(tone * 32767), 2)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, 0
        resampler = av.AudioResampler(audio.format, "stereo", 48_000, frame_size=audio.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def write_masks(folder: Path, count: int, size: tuple[int, int] = SIZE) -> None:
    """Mask i has i + 1 bright columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        mask = np.zeros((size[1], size[0]), np.uint8)
        mask[:, : index + 1] = 255
        Image.fromarray(mask).save(folder / f"second_{index}.png")


def run_import(root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    job = [sys.executable, "jobs/prepare_data.py", "import", f"--videos={root / 'videos'}"]
    job += [f"--masks={root / 'masks'}", f"--out={root / 'out'}", "--num-frames=2", "--workers=1", *flags]
    return subprocess.run(job, capture_output=True, text=True, timeout=patience(120))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of odd sizes, rates, containers, sounds and lengths, imported by the command."""
    root = tmp_path_factory.mktemp("import")
    (root / "videos").mkdir()
    for name, seconds, options in (
        ("a.mp4", 4, {"rate": Fraction(30000, 1001)}),
        ("b.mkv", 5, {"rate": 7, "sound": "pcm_u8"}),
        ("c.webm", 2, {"rate": Fraction(25, 2), "codec": "libvpx", "sound": "libopus"}),
        ("d.mov", 2.3, {"rate": 24, "sound": "pcm_s24le"}),
    ):
        write_video(root / "videos" / name, seconds, **options)
        write_masks(root / "masks" / name[0], int(seconds))
    (root / "splits.csv").write_text("video_id,split\na,train\nb,train\nc,val\nd,test\n")
    ran = run_import(root, f"--table={root / 'splits.csv'}")
    assert ran.returncode == 0, ran.stderr
    assert "6 clips; 4 videos imported, 0 unchanged, 1 s left out" in ran.stdout
    return root


def test_picture_sound_and_mask_of_a_clip_belong_to_the_same_second(imported):
    splits = open_splits(imported / "out", num_frames=2)
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert validate(imported / "out", num_frames=2).defects == ()
    seen = 0
    for clips in splits.values():
        for index in range(len(clips)):
            clip = clips.clip(index)
            first = 2 * int(clip.name[-3:])
            for place in range(2):
                second = first + place
                assert abs(int(clip.frames[place].mean()) - (20 + 40 * second)) < 6
                assert int(clip.masks[place].sum()) == (second + 1) * SIZE[1]
                middle = clip.waveform[place * 16000 + 2000 : (place + 1) * 16000 - 2000]
                peak = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * 16000 / len(middle)
                assert abs(peak - 300 * (second + 1)) < 5
                seen += 1
    assert seen == 12


def test_imported_seconds_are_those_that_the_endpoint_takes_from_an_upload(imported):
    clips = open_splits(imported / "out", num_frames=2)["train"]
    data = (imported / "videos" / "a.mp4").read_bytes()
    samples = list(decode_video(data, fps=1, limits=ServeConfig()))
    for index, clip in enumerate(clips.clip(i) for i in range(2)):
        for place in range(2):
            sample = samples[2 * index + place]
            np.testing.assert_array_equal(clip.frames[place], sample.picture)
            second = clip.waveform[place * 16000 : (place + 1) * 16000]
            np.testing.assert_allclose(second, sample.second, atol=1 / 32768)


def test_running_again_imports_only_what_changed(imported):
    again = run_import(imported, f"--table={imported / 'splits.csv'}")
    assert "6 clips; 0 videos imported, 4 unchanged" in again.stdout
    write_masks(imported / "masks" / "c", 2)
    mask = imported / "masks" / "c" / "second_1.png"
    Image.new("1", SIZE, 1).save(mask)
    changed = run_import(imported, f"--table={imported / 'splits.csv'}")
    assert "6 clips; 1 videos imported, 3 unchanged" in changed.stdout


def test_bad_videos_and_masks_are_refused_with_the_file_and_leave_no_data_set(tmp_path):
    (tmp_path / "videos").mkdir()
    video, masks = tmp_path / "videos" / "x.mkv", tmp_path / "masks" / "x"

    def refused(words: str) -> None:
        with pytest.raises(ValueError, match=words):
            import_here(tmp_path)
        assert not (tmp_path / "out" / "Multi-sources" / "ms3_meta_data.csv").exists()

    write_masks(masks, 2)
    write_video(video, 2, sound=None)
    refused(r"x\.mkv: .*no sound")
    write_video(video, 2, sound="pcm_s16le")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 4])
    refused(r"x\.mkv: ")
    video.write_bytes(b"\x1aE\xdf\xa3 but nothing else")
    refused(r"x\.mkv: ")
    write_video(video, 3, sound="pcm_s16le")
    refused(r"masks/x: 2 masks for the 3 seconds of x\.mkv")
    write_masks(masks, 3, size=(20, 20))
    refused(re.escape("second_0.png: 20x20, but its video is 51x37"))
    write_masks(masks, 3)
    greys = np.arange(51 * 37, dtype=np.uint16).astype(np.uint8).reshape(37, 51)
    Image.fromarray(greys).save(masks / "second_1.png")
    refused(r"second_1\.png: 256 grey values")
    write_masks(masks, 3)
    assert import_here(tmp_path)["clips"] == 1


def test_all_bad_files_of_a_folder_are_named_in_one_pass_and_the_good_ones_stay(tmp_path):
    videos, masks = tmp_path / "videos", tmp_path / "masks"
    videos.mkdir()
    for name in ("good", "masks_gone", "two_bad_masks"):
        write_video(videos / f"{name}.mkv", 2, sound="pcm_s16le")
        write_masks(masks / name, 2)
    for mask in (masks / "masks_gone").iterdir():
        mask.unlink()
    Image.new("L", (20, 20)).save(masks / "two_bad_masks" / "second_0.png")
    (masks / "two_bad_masks" / "second_1.png").write_bytes(b"")
    (videos / "nothing.mp4").touch()
    names = ("good", "masks_gone", "two_bad_masks", "nothing")
    with pytest.raises(ValueError, match="masks_gone") as refusal:
        import_here(tmp_path, *names)
    assert str(refusal.value).splitlines() == [
        f"{masks / 'masks_gone'}: is empty; one png per second is needed",
        f"{videos / 'nothing.mp4'}: is empty",
        f"{masks / 'two_bad_masks' / 'second_0.png'}: 20x20, but its video is 51x37",
        f"{masks / 'two_bad_masks' / 'second_1.png'}: is empty",
    ]
    result = import_here(tmp_path, "good")
    assert (result["clips"], result["videos"], result["unchanged"]) == (1, 0, 1)
    with pytest.raises(ValueError, match=r"a\.?.*no such video.*\n.*b.*no such video"):
        import_here(tmp_path, "good", "a", "b")


def test_an_empty_folder_is_called_empty_and_files_of_operating_systems_never_count(tmp_path):
    videos, masks = tmp_path / "videos", tmp_path / "masks" / "x"
    videos.mkdir()
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._x.mkv"):
        (videos / name).write_bytes(b"litter")
    with pytest.raises(ValueError, match="videos: is empty"):
        find_videos(videos)
    (videos / "notes.txt").touch()
    with pytest.raises(ValueError, match="videos: holds no video"):
        find_videos(videos)
    write_video(videos / "x.mkv", 2, sound="pcm_s16le")
    write_masks(masks, 2)
    (masks / "._second_0.png").write_bytes(b"litter")
    layout = tmp_path / "out" / "Multi-sources"
    layout.mkdir(parents=True)
    (layout / ".DS_Store").write_bytes(b"litter")
    assert import_here(tmp_path)["clips"] == 1
    for path in [*layout.rglob("*.png"), *layout.rglob("*.json")]:
        path.with_name(f"._{path.name}").write_bytes(b"litter")
    assert import_here(tmp_path)["clips"] == 1
    assert validate(tmp_path / "out", num_frames=2).defects == ()


def test_a_silent_video_is_heard_with_the_wav_next_to_it_and_imported_again_when_that_changes(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "x.mp4", 2, sound=None)
    write_masks(tmp_path / "masks" / "x", 2)
    for hertz in (200, 500):
        time_s = np.arange(2 * 16000) / 16000
        samples = (8000 * np.sin(2 * np.pi * hertz * time_s)).astype(np.int16)
        write_wav(tmp_path / "videos" / "x.wav", samples)
        assert import_here(tmp_path)["videos"] == 1
        heard = open_splits(tmp_path / "out", num_frames=2)["train"].clip(0).waveform
        np.testing.assert_allclose(heard, samples / 32768, atol=1 / 32768)
    assert import_here(tmp_path)["unchanged"] == 1
    (tmp_path / "videos" / "x.wav").write_bytes(b"RIFF, but no more")
    with pytest.raises(ValueError, match=r"x\.wav: "):
        import_here(tmp_path)
    (tmp_path / "videos" / "x.wav").rename(tmp_path / "videos" / "x.WAV")
    (tmp_path / "videos" / "x.WAV").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.WAV: is empty"):
        import_here(tmp_path)


def test_a_name_may_have_any_characters_also_spaces_around_it(tmp_path):
    names = (" a, b ", "o'br\"ien", ".x", "007", "größe")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "x.mkv", 2, sound="pcm_s16le")
    for name in names:
        stored = unicodedata.normalize("NFD", name)
        (tmp_path / "videos" / f"{stored}.mkv").write_bytes((tmp_path / "videos" / "x.mkv").read_bytes())
        write_masks(tmp_path / "masks" / name, 2)
    (tmp_path / "videos" / "x.mkv").unlink()
    found = find_videos(tmp_path / "videos")
    assert set(found) == {name.strip() for name in names}
    assert import_here(tmp_path, *found)["clips"] == len(names)
    assert validate(tmp_path / "out", num_frames=2).defects == ()


def test_a_video_whose_subtitles_end_later_is_whole(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "plain.mkv", 2, sound="pcm_s16le")
    write_masks(tmp_path / "masks" / "x", 2)
    (tmp_path / "x.srt").write_text("1\n00:00:01,000 --> 00:00:59,000\nThe end\n")
    with (
        av.open(str(tmp_path / "plain.mkv")) as source,
        av.open(str(tmp_path / "x.srt")) as lines,
        av.open(str(tmp_path / "videos" / "x.mkv"), "w") as target,
    ):
        for stream in (*lines.streams, *source.streams):
            target.add_stream_from_template(stream)
        for container, first in ((lines, 0), (source, 1)):
            for packet in container.demux():
                if packet.dts is not None:
                    packet.stream = target.streams[first + packet.stream.index]
                    target.mux(packet)
    assert import_here(tmp_path)["clips"] == 1


ENCODINGS = {
    "UTF-8": "a,b\nx,träin\n".encode(),
    "UTF-8 with its mark": "a,b\nx,träin\n".encode("utf-8-sig"),
    "lines of Windows": "a,b\r\nx,träin\r\n".encode(),
    "lines of old Macs": "a,b\rx,träin\r".encode(),
    "cp1252": "a,b\r\nx,träin\r\n".encode("cp1252"),
    "UTF-16 with its mark": "a,b\r\nx,träin\r\n".encode("utf-16"),
    "UTF-16 without it": "a,b\nx,träin\n".encode("utf-16-le"),
    "big-endian UTF-16": "a,b\nx,träin\n".encode("utf-16-be"),
    "tabs in UTF-16, as Excel saves text": "a\tb\r\nx\tträin\r\n".encode("utf-16"),
    "semicolons, as Excel saves where decimals have commas": "a;b\r\nx;träin\r\n".encode("cp1252"),
    "semicolons and Excel's note of them": "sep=;\r\na;b\r\nx;träin\r\n".encode("cp1252"),
    "tabs around a name with a comma": "a\tb\tseen, heard\nx\tträin\t1,5\n".encode(),
    "commas in quotes between semicolons": '"a";"b";"c, d"\nx;träin;"1,5"\n'.encode(),
    "lines that hold nothing": "a,b\nx,träin\n,\n  \n".encode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_of_every_encoding_are_read_alike(tmp_path, encoding):
    path = tmp_path / "table.csv"
    path.write_bytes(ENCODINGS[encoding])
    assert read_rows(path, {"a": 0, "b": 1}) == [{"a": "x", "b": "träin"}]


def test_an_empty_table_and_one_that_is_none_are_refused_by_name(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"\r\n")
    with pytest.raises(ValueError, match=r"table\.csv: is empty"):
        read_rows(path, {"a": 0})
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"table\.csv: is not a table"):
        read_rows(path, {"a": 0})
    path.write_bytes(b"x1,train\nx2,train\nx3,test\n")
    with pytest.raises(ValueError, match=r"table\.csv: its first line is no header \('train' is a value"):
        read_rows(path, {"video_id": 0, "split": 1})


def import_here(root: Path, *names: str) -> dict[str, int]:
    """The command's own call, in this process; of the video x if no names are given."""
    sys.path.insert(0, "jobs")
    try:
        from prepare.import_videos import decode
    finally:
        sys.path.remove("jobs")
    job = Import(
        videos=root / "videos",
        masks=root / "masks",
        decode=decode,
        splits=dict.fromkeys(names or ("x",), "train"),
        num_frames=2,
    )
    return import_videos(root / "out", job)
