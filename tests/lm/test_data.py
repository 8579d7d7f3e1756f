"""Corpora: any file, folders, sound, what Python brings along, and what is broken."""

import os
import shutil
import threading
import wave
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ct_rl.errors import UserError
from ct_rl.lm import audio, corpus
from ct_rl.lm.sources import open_data
from ct_rl.lm.vocabulary import Bytes, MuLaw, Words


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ct_rl" / "lm"


def sine(path, rate=8_000, seconds=0.5, width=2, channels=1, pitch=440.0):
    time = np.arange(int(rate * seconds)) / rate
    level = 0.5 * np.sin(2 * np.pi * pitch * time)
    if width == 1:
        content = np.round(level * 127 + 128).astype(np.uint8)[:, None]
    else:
        whole = np.round(level * (2 ** (8 * width - 1) - 1)).astype("<i4")
        content = whole.view(np.uint8).reshape(-1, 4)[:, :width]
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.repeat(content[:, None], channels, 1).tobytes())
    return level


def test_any_file_is_bytes_in_three_splits_mapped_from_disk(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(200)))
    found = open_data(str(path))
    parts = [found.tokens[split].tolist() for split in corpus.SPLITS]
    assert parts == [list(range(180)), list(range(180, 190)), list(range(190, 200))]
    assert isinstance(found.tokens["train"], np.memmap)
    assert found.vocabulary.fingerprint == Bytes().fingerprint


def test_a_folder_is_its_files_each_a_document_and_made_once(tmp_path, cache):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "x").write_text("hidden")
    for number in range(30):
        (folder / ("sub" if number % 2 else ".") / f"{number}.txt").write_bytes(
            bytes([number]) * 10
        )
    found = open_data(str(folder))
    whole = np.concatenate([found.tokens[split] for split in corpus.SPLITS])
    assert sorted(whole.tolist()) == sorted(list(range(30)) * 10)
    assert found.documents["train"].tolist() == list(range(0, 270, 10))
    made = [item.stat().st_mtime_ns for item in cache.iterdir()]
    open_data(str(folder))
    assert [item.stat().st_mtime_ns for item in cache.iterdir()] == made and len(made) == 1
    (folder / "0.txt").write_bytes(b"changed")
    assert len(open_data(str(folder)).tokens["train"]) != 270


def test_links_to_folders_are_followed_once_and_an_unreadable_folder_is_said(tmp_path, monkeypatch):
    texts, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    for folder, letter in ((texts, b"a"), (elsewhere, b"b")):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x.txt").write_bytes(letter * 40)
    (texts / "linked").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(texts)
    (texts / "nowhere").symlink_to("absent")
    found = open_data(str(texts))
    assert b"".join(sorted(bytes(at) for at in found.tokens.values())).count(b"b") == 40
    assert sum(map(len, found.tokens.values())) == 80

    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(PermissionError):
        open_data(str(texts))


def test_what_every_python_brings_along_needs_no_download():
    prose = open_data("pydoc")
    assert prose.vocabulary.kind == "bytes" and len(prose.tokens["train"]) > 100_000
    start = prose.documents["train"][1]
    assert b"assert" in prose.tokens["train"][: 10 * start].tobytes()


def test_the_standard_library_is_the_default(tmp_path, monkeypatch):
    library = tmp_path / "lib"
    (library / "site-packages").mkdir(parents=True)
    (library / "site-packages" / "other.py").write_text("x" * 999)
    for number in range(20):
        (library / f"m{number}.py").write_text(f"import os\nprint({number})\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(library)})
    found = open_data("python")
    assert b"xx" not in found.tokens["train"].tobytes()
    assert sum(len(at) for at in found.tokens.values()) == sum(
        len(f"import os\nprint({n})\n") for n in range(20)
    )


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_files_of_every_width_become_mu_law_samples(tmp_path, width):
    level = sine(tmp_path / "x.wav", width=width, channels=2)
    found = audio.read(tmp_path / "x.wav", 8_000)
    assert np.allclose(found, level, atol=1 / 64 if width == 1 else 1e-4)
    back = audio.linear(audio.mu_law(found))
    # A step of the curve is at most ln(256) (1 + 255 |x|) / 255 of 2 / 255 wide; half of it is the error.
    assert (np.abs(back - found) <= np.log(256) * (1 / 255 + np.abs(found)) / 255 * 1.1).all()


def test_resampling_keeps_what_fits_and_removes_what_does_not(tmp_path):
    for pitch, kept in ((440.0, True), (3_500.0, False)):
        sine(tmp_path / "x.wav", rate=22_050, pitch=pitch)
        y = audio.read(tmp_path / "x.wav", 6_000)
        middle = slice(200, -200)
        expected = 0.5 * np.sin(2 * np.pi * pitch * np.arange(len(y)) / 6_000) * kept
        assert abs(len(y) - 3_000) <= 1
        assert np.allclose(y[middle], expected[middle], atol=0.01)


def test_a_written_wav_is_read_back(tmp_path):
    samples = np.sin(np.arange(400) / 7).astype(np.float32) * 0.8
    audio.write(tmp_path / "y.wav", samples, 16_000)
    assert np.allclose(audio.read(tmp_path / "y.wav", 16_000), samples, atol=1e-4)


def test_flac_is_read_where_soundfile_is(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples = np.sin(np.arange(4_000) / 7).astype(np.float32) * 0.8
    soundfile.write(tmp_path / "z.flac", samples, 16_000)
    assert np.allclose(audio.read(tmp_path / "z.flac", 16_000), samples, atol=1e-4)
    found = open_data(str(tmp_path / "z.flac"), 16_000)
    assert isinstance(found.vocabulary, MuLaw) and len(found.tokens["train"]) == 3_600
    (tmp_path / "bad.flac").write_bytes(b"fLaC and no more")
    with pytest.raises(UserError, match="cannot be read as sound"):
        audio.read(tmp_path / "bad.flac", 16_000)


def test_a_folder_of_sound_is_one_corpus_with_a_document_a_file(tmp_path):
    for number in range(3):
        sine(tmp_path / f"{number}.wav", seconds=0.2)
    found = open_data(str(tmp_path), 8_000)
    assert found.vocabulary.to_json() == {"kind": "audio", "sample_rate": 8_000}
    assert found.documents["train"].tolist() == [0, 1_600, 3_200]


def broken_files(folder):
    sine(folder / "short.wav")
    content = (folder / "short.wav").read_bytes()
    (folder / "short.wav").write_bytes(content[: len(content) // 2])
    (folder / "noise.wav").write_bytes(os.urandom(100))
    (folder / "none.wav").write_bytes(b"")
    with wave.open(str(folder / "silent.wav"), "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
    sine(folder / "low.wav")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "tiny.txt").write_bytes(b"abc")
    (folder / "hollow").mkdir()
    (folder / "few.txt").write_bytes(b"a" * 21)
    (folder / "mixed").mkdir()
    (folder / "mixed" / "a.txt").write_bytes(b"text " * 100)
    sine(folder / "mixed" / "x.wav")
    for name, at, value in (("wide.wav", 34, 40), ("rate.wav", 24, 0)):
        sine(folder / name)
        content = bytearray((folder / name).read_bytes())
        content[at : at + 2] = value.to_bytes(2, "little")
        (folder / name).write_bytes(content)
    content = bytearray((folder / "low.wav").read_bytes())
    (folder / "cut.wav").write_bytes(content[:30])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short.wav", "ends early"),
        ("noise.wav", "no WAV file"),
        ("none.wav", "no WAV file"),
        ("silent.wav", "no samples"),
        ("low.wav", "recorded at 8000 Hz, 16000 Hz cannot be made of it: give --sample-rate 8000"),
        ("empty.txt", "is empty"),
        ("tiny.txt", "3 tokens, too few"),
        ("hollow", "holds no text"),
        ("few.txt", "21 tokens, too few for three splits"),
        ("mixed", "holds 1 files of sound and 1 others: give a folder of one kind"),
        ("wide.wav", "samples of 40 bits, 8 to 32 can be read"),
        ("rate.wav", "names a rate of 0 Hz"),
        ("cut.wav", r"no WAV file of plain samples \(it ends early\)"),
        ("absent", "there is no"),
    ],
)
def test_bad_data_is_refused_in_one_line(tmp_path, name, words):
    broken_files(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        open_data(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_rate_that_would_take_filters_without_end_is_refused(tmp_path):
    sine(tmp_path / "a.wav", rate=48_000)
    with pytest.raises(UserError, match="too little in common with that: give --sample-rate 16000"):
        open_data(str(tmp_path / "a.wav"), 16_001)
    for rate in (16_000, 44_100, 8_000, 11_025):
        assert len(audio.read(tmp_path / "a.wav", rate)) == rate // 2


def prepared(folder):
    with corpus.writing(folder, Words.from_counts({"a": 3, "b": 9}), "mine") as writer:
        for split in corpus.SPLITS:
            writer.document(split)
            writer.add(split, writer.vocabulary.encode("a b b"))
            writer.document(split)
            writer.add(split, writer.vocabulary.encode("b a zzz"))
            writer.words[split] = 6
    return corpus.load(folder)


def test_a_prepared_corpus_is_what_was_written(tmp_path):
    found = prepared(tmp_path / "mine")
    assert found.vocabulary.words == ["b", "a", "<unk>"]
    assert found.tokens["test"].tolist() == [1, 0, 0, 0, 1, 2]
    assert found.documents["test"].tolist() == [0, 3]
    assert found.words == {split: 6 for split in corpus.SPLITS}
    assert found.vocabulary.decode([1, 2]) == b"a <unk> "


@pytest.mark.parametrize(
    "name", ["corpus.json", "valid.bin", "valid.documents.npy", "vocabulary.json"]
)
def test_a_damaged_corpus_is_refused(tmp_path, name):
    prepared(tmp_path / "mine")
    path = tmp_path / "mine" / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="prepare the data again"):
        corpus.load(tmp_path / "mine")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "train.bin")

    monkeypatch.setattr(corpus, "write_synced", full)
    with pytest.raises(UserError, match="no space left on the disk while preparing mine; nothing"):
        prepared(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_what_fails_half_way_leaves_the_earlier_corpus(tmp_path):
    prepared(tmp_path / "mine")
    with (
        pytest.raises(UserError, match="nothing for its train split"),
        corpus.writing(tmp_path / "mine", Bytes(), "other") as writer,
    ):
        writer.document("train")
    assert corpus.load(tmp_path / "mine").name == "mine"
    assert [item.name for item in tmp_path.iterdir()] == ["mine"]


def test_starts_at_the_same_time_share_one_corpus(tmp_path, cache):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"{number}\n" * 2_000)
    for _ in range(3):
        shutil.rmtree(cache, ignore_errors=True)
        together = threading.Barrier(4)

        def start(together=together):
            together.wait()
            return open_data(str(folder))

        with ThreadPoolExecutor(4) as pool:
            found = [job.result() for job in [pool.submit(start) for _ in range(4)]]
        assert all((one.tokens["train"] == found[0].tokens["train"]).all() for one in found)
        assert len(list(cache.iterdir())) == 1


def test_a_corpus_may_have_as_long_a_name_as_any_folder(tmp_path):
    folder = tmp_path / ("x" * 250)
    with corpus.writing(folder, Bytes(), "long") as writer:
        for split in corpus.SPLITS:
            writer.add(split, np.zeros(3, np.uint8))
    assert corpus.load(folder).name == "long"


def test_a_corpus_that_another_start_made_meanwhile_stays(tmp_path):
    with corpus.writing(tmp_path / "mine", Bytes(), "late") as writer:
        for split in corpus.SPLITS:
            writer.add(split, np.zeros(3, np.uint8))
        prepared(tmp_path / "mine")
        made = (tmp_path / "mine").stat().st_ino
    assert corpus.load(tmp_path / "mine").name == "mine"
    assert (tmp_path / "mine").stat().st_ino == made
    assert [item.name for item in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_corpus_and_appeared_meanwhile_is_left_alone(tmp_path, kind):
    place = tmp_path / "mine"
    notes = place / "notes" if kind == "folder" else place
    with (
        pytest.raises(UserError, match="is there and no corpus: move it away"),
        corpus.writing(place, Bytes(), "late") as writer,
    ):
        for split in corpus.SPLITS:
            writer.add(split, np.zeros(3, np.uint8))
        notes.parent.mkdir(exist_ok=True)
        notes.write_text("mine")
    assert notes.read_text() == "mine"
    assert [item.name for item in tmp_path.iterdir()] == ["mine"]
