"""The commands as a person meets them: evaluation, samples, figures, bad input."""

import importlib
import json
import math
import shutil

import numpy as np
import pytest

from ct_rl import plain_files
from ct_rl.command_line import parse
from ct_rl.errors import UserError
from ct_rl.lm import analysis, audio, vocabulary
from ct_rl.lm.build import build_model
from ct_rl.lm.config import ModelConfig
from ct_rl.lm.dynamic import DynamicWeights
from ct_rl.lm.evaluation import Prices, price, word_perplexity
from ct_rl.lm.presets import preset
from ct_rl.lm.sampling import decoded
from ct_rl.lm.train import Arguments
from ct_rl.lm.words import by_frequency, count_words
from tests.lm.conftest import SIZES, SMALL, command, here, text_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory, text_file):
    path = tmp_path_factory.mktemp("runs") / "text"
    assert here("train", *SMALL, "--data", text_file, "--steps", 30, "--run-dir", path) == 0
    return path


def latest(run, split="test"):
    """The run's newest evaluation of a split."""
    return max(run.glob(f"eval_{split}*.json"), key=lambda path: path.stat().st_mtime_ns)


def test_evaluation_reads_the_whole_split_and_its_figures_agree(run, capsys):
    assert here("eval", run, "--figures") == 0
    said = capsys.readouterr().out
    path = latest(run)
    assert f"written to {path} and {path.with_suffix('.png')}" in said
    found = json.loads(path.read_text())
    assert found["tokens"] == 899 and "bpc" in said
    assert found["value"] == pytest.approx(found["nats_per_token"] / math.log(2))
    total = found["nats_per_token"] * found["tokens"]
    assert found["word_perplexity"] == pytest.approx(math.exp(total / found["words"]))
    figures = found["figures"]
    assert len(figures["buckets"][0]) == 18 and len(figures["compression_loss"]) == 1
    assert sum(figures["shares"][0]) == pytest.approx(1, abs=1e-4)
    rows = figures["by_position"]
    assert sum(row["tokens"] for row in rows) == 899
    assert sum(row["nats"] * row["tokens"] for row in rows) == pytest.approx(total, rel=1e-4)
    assert path.with_suffix(".png").stat().st_size > 10_000


def test_longer_memory_and_dynamic_evaluation_change_the_price_and_not_the_run(run):
    prices = []
    for flags in ((), ("--memory-option", "compressed=32"), ("--dynamic",), ()):
        assert here("eval", run, *flags) == 0
        prices.append(json.loads(latest(run).read_text())["value"])
    assert prices[0] == prices[3]
    assert len(set(prices)) == 3


def test_an_evaluation_leaves_the_earlier_ones(tmp_path, run):
    kept = tmp_path / "run"
    shutil.copytree(run, kept, ignore=shutil.ignore_patterns("eval_*"))
    for tokens in (50, 60, 70):
        assert here("eval", kept, "--split", "valid", "--tokens", tokens, "--figures") == 0
    names = ["eval_valid", "eval_valid_2", "eval_valid_3"]
    found = [json.loads((kept / f"{name}.json").read_text())["tokens"] for name in names]
    assert found == [50, 60, 70]
    assert sorted(path.stem for path in kept.glob("*.png")) == names


def test_a_result_that_cannot_be_written_is_shown(run, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    before = set(run.iterdir())
    monkeypatch.setattr(plain_files, "write_synced", full)
    with pytest.raises(
        UserError, match=r"no space left on the disk while writing an evaluation of"
    ):
        here("eval", run, "--tokens", 50)
    assert "bpc" in capsys.readouterr().out and set(run.iterdir()) == before


def test_another_memory_than_the_presets_is_evaluated_without_the_presets_sizes(
    tmp_path, text_file
):
    small = ["--batch", 4, "--length", 16, "--eval-tokens", 256, "--precision", "float32"]
    core = ["--memory", "lstm", "--memory-option", "d_model=16", "hidden=16"]
    flags = ("--preset", "enwik8_41m", *small, *core, "--data", text_file, "--steps", 1)
    assert here("train", *flags, "--run-dir", tmp_path / "run") == 0
    assert here("eval", tmp_path / "run", "--tokens", 100) == 0


def test_dynamic_evaluation_learns_a_text_that_training_never_saw(letters):
    model = build_model(ModelConfig(options={**SIZES, "compressed": 8, "rate": 2}), 256)
    before = [p.detach().clone() for p in model.parameters()]
    fixed = price(model, letters, "train", length=16, tokens=1_000)
    learning = price(
        model, letters, "train", length=16, tokens=1_000, dynamic=DynamicWeights(model, 0.3)
    )
    assert learning.bits < 0.8 * fixed.bits
    assert all((a == b).all() for a, b in zip(before, model.parameters(), strict=True))


def test_a_split_read_in_any_pieces_costs_the_same(letters):
    model = build_model(ModelConfig(options={**SIZES, "compressed": 8, "rate": 2}), 256)
    whole, pieces = (price(model, letters, "test", length=n).nats for n in (199, 7))
    assert len(whole) == 199 and np.allclose(whole, pieces, atol=1e-4)
    side = price(model, letters, "test", length=16, batch=2).nats
    assert np.allclose(side[:99], whole[:99], atol=1e-4) and len(side) == 198


def test_words_are_priced_whole_and_put_into_buckets_of_training_frequency():
    corpus = text_corpus()
    text = np.frombuffer(b"the cat the dog", np.uint8)
    train = np.frombuffer(b"the " * 150 + b"cat dog " + b"catdog " * 3, np.uint8)
    corpus.tokens["train"] = train
    nats = np.arange(len(text) - 1, dtype=np.float32)
    found = by_frequency(Prices(nats, text[1:]), corpus)
    # The first word has no price for its first byte, the last no blank behind it: both are left out.
    assert found["<100"]["words"] == 1 and found["<100"]["nats"] == sum(range(3, 7))
    assert found["100-1K"]["words"] == 1 and found["100-1K"]["nats"] == sum(range(7, 11))
    assert count_words(text) == 4
    assert word_perplexity(Prices(nats, text[1:]), 4) == pytest.approx(math.exp(91 / 4))


def test_loss_by_position_counts_from_each_document():
    prices = Prices(np.arange(1, 16, dtype=np.float32), np.zeros(15, np.uint8))
    rows = analysis.by_position(prices, np.array([0, 8]))
    assert [(row["from"], row["tokens"]) for row in rows] == [(1, 3), (2, 4), (4, 8)]
    assert rows[0]["nats"] == pytest.approx((1 + 8 + 9) / 3)


def test_samples_are_streamed_and_repeat_with_their_seed(run, capsys):
    texts = []
    for seed in (0, 0, 1):
        assert here("sample", run, "--prompt", "abc", "--length", 40, "--seed", seed) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("abc")


def test_a_character_of_several_subwords_is_shown_whole():
    pytest.importorskip("tokenizers")
    words = vocabulary.Subwords.train(["abc " * 50], 260)
    text = "naïve “日本” 🎉 end"
    tokens = words.encode(text).tolist()
    assert len(tokens) > len(text)
    parts = list(decoded(iter(tokens), words))
    assert "".join(parts) == text and parts[2:4] == ["", "ï"]
    # What no next token completes is shown as what it is, an invalid one at once with what follows.
    assert "".join(decoded(iter(tokens[:3]), words)) == "na\ufffd"
    assert "".join(decoded(iter([*b"a\xe2b\xc3\xa9"]), vocabulary.Bytes())) == "a\ufffdbé"


def test_an_out_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    sound = vocabulary.MuLaw(8_000)
    model = build_model(ModelConfig(options={**SIZES, "compressed": 8, "rate": 2}), sound.size)
    sampler = importlib.import_module("ct_rl.lm.sample_command")
    monkeypatch.setattr(sampler, "load_model", lambda *_: (model, sound, None, 1))
    monkeypatch.setattr(sampler, "sample", lambda *_, **__: pytest.fail("drawn"))
    for out, words in (
        (tmp_path, "is a folder: give a file"),
        ("absent/x.wav", "there is no folder"),
    ):
        with pytest.raises(UserError, match=f"--out .*{words}"):
            here("sample", "run", "--out", out)


def test_sound_is_learned_and_written_as_wav(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    samples = np.sin(np.arange(8_000) / 5).astype(np.float32) * 0.5
    audio.write(tmp_path / "in.wav", samples, 8_000)
    flags = ["--data", tmp_path / "in.wav", "--sample-rate", 8_000, "--steps", 4]
    for memory in ("compressive", "wavenet"):
        path = tmp_path / memory
        setup = [*SMALL[: SMALL.index("--memory-option")], "--memory", memory]
        if memory == "wavenet":
            setup += ["--memory-option", "d_model=8", "n_layers=3"]
        else:
            setup += SMALL[SMALL.index("--memory-option") :]
        assert here("train", *setup, *flags, "--run-dir", path) == 0
        assert "bits/sample" in capsys.readouterr().out
        out = tmp_path / f"{memory}.wav"
        assert here(
            "sample", path, "--prompt-file", tmp_path / "in.wav", "--length", 50, "--out", out
        ) == 0  # fmt: skip
        assert len(audio.read(out, 8_000)) == 50
    with pytest.raises(UserError, match=r"give --out FILE\.wav"):
        here("sample", path)


def test_words_train_with_adaptive_layers_and_show_perplexity(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in rng.zipf(1.5, 6_000) % 200]
    lines = (" ".join(words[start : start + 10]) + "\n" for start in range(0, 6_000, 10))
    (tmp_path / "t.txt").write_text("".join(lines))
    data = tmp_path / "words"
    assert here("prepare", "words", "--from", tmp_path / "t.txt", "--out", data) == 0
    flags = ["--data", data, "--steps", 5, "--cutoffs", 20, 60, "--run-dir", tmp_path / "run"]
    assert here("train", *SMALL, *flags) == 0
    assert "perplexity" in capsys.readouterr().out
    assert here("eval", tmp_path / "run") == 0
    found = json.loads(latest(tmp_path / "run").read_text())
    assert found["unit"] == "perplexity" and found["by_frequency"]
    assert sum(b["words"] for b in found["by_frequency"].values()) == found["tokens"]
    prompt = b"w1 a\xff".decode(errors="surrogateescape")
    with pytest.raises(UserError, match=r"--prompt is not UTF-8 \(byte 4\): convert it first"):
        here("sample", tmp_path / "run", "--prompt", prompt)


def test_a_command_says_in_one_line_what_is_wrong_and_returns_2(tmp_path):
    status, out, err = command("train", "--data", tmp_path / "absent")
    assert status == 2 and err.startswith("error: there is no") and err.count("\n") == 1
    assert "Traceback" not in out + err
    status, out, _ = command()
    assert status == 0 and all(name in out for name in ("train", "eval", "sample", "prepare"))


def test_bad_input_is_refused_in_one_line(tmp_path, run, text_file):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").write_bytes(bytes(2_000))
    new = ("train", "--data", text_file, "--run-dir", tmp_path / "new")
    cases = [
        (("trian",), "did you mean 'train'"),
        (("train", "--stps", 3), "did you mean '--steps'"),
        (("train", "--preset", "enwik"), "unknown preset 'enwik', did you mean 'enwik8'"),
        (("train", "--steps", "many"), "many"),
        (("train", "--preset", "enwik8"), "python -m ct_rl.lm prepare enwik8 --out data/enwik8"),
        (("train", "--steps", 0), "--steps 0 is too small: give 1 or more"),
        (("train", "--clip", -1), "--clip -1 is too small: give more than 0"),
        (("train", "--batch", 6, "--accumulate", 4), "give a divisor as --accumulate"),
        (("train", "--device", "tpu"), "unknown device 'tpu'"),
        ((*new, "--memory", "compresive"), "unknown memory 'compresive'"),
        ((*new, "--memory-option", "copressed=3"), "copressed"),
        ((*new, "--memory-option", "compressed=0", "rate=4"), "rate=4 does nothing where"),
        ((*new, "--eval-memory", "compressed=0", "rate=4"), "--eval-memory rate=4 does nothing"),
        ((*new, "--batch", 4_000), "give more data, or a lower --batch"),
        (("train", "--data", text_file, "--run-dir", tmp_path / "full"), "is not empty"),
        (("train", "--data", text_file, "--run-dir", text_file), "is a file"),
        (("train", "--resume", tmp_path / "empty"), "is no run of ct_rl.lm"),
        (("eval", tmp_path / "empty"), "is no run of ct_rl.lm"),
        (("eval", run, "--memory-option", "compresed=3"), "compresed"),
        (("eval", run, "--memory-option", "d_model=32"), "do not fit"),
        (("eval", run, "--batch", 0), "--batch 0 is too small: give 1 or more"),
        (("sample", run, "--top-p", 0), "--top-p 0 is too small: give more than 0"),
        (("sample", run, "--prompt", ""), "the prompt is empty"),
        (("sample", run, "--prompt", "a", "--prompt-file", text_file), "two beginnings: give one"),
        (("eval", run, "--memory-option", "which=last"), "has no option 'which'"),
        (("eval", run, "--memory-option", "seed=5"), "has no option 'seed'"),
        (("eval", run, "--dynamic-rate", 0.1), "give --dynamic, too"),
        ((*new, "--eval-memory", "compresed=3072"), "--eval-memory: "),
        ((*new, "--update-every", 4), "--update-every 4 does nothing without --update-every-from"),
        ((*new, "--lr", 1e-7), "--lr-ends 1e-06 is above --lr 1e-07"),
        ((*new, "--memory", "lstm", "--lr-ends", 5e-4, "--batch", 10**6), "or a lower --batch"),
        ((*new, "--memory", "wavenet", "--memory-option", "n_layers=40"), "at most 20"),
        (
            (*new, "--memory", "wavenet", "--memory-option", "d_model=abc"),
            "expected a whole number",
        ),
        (("prepare", "words", "--vocab", 500), "--vocab is of subwords"),
        (("prepare", "words", "--url", "https://a/b"), "nothing is fetched here"),
        (("prepare", "enwik8", "--url", "foo"), "expected https://HOST/PATH"),
        (("sample", run, "--out", "x.wav"), "--out is for models of sound"),
    ]
    for argv, words in cases:
        with pytest.raises(UserError) as error:
            here(*argv)
        assert words in str(error.value), argv
        assert "\n" not in str(error.value)


def test_a_list_that_a_preset_fills_is_emptied_by_its_flag_alone():
    def cutoffs(name, *words):
        given = Arguments(**vars(preset(name)), preset=name)
        return parse(Arguments, list(words), prog="p", default=given).model.cutoffs

    assert cutoffs("wikitext103") and cutoffs("wikitext103", "--cutoffs") == []
    with pytest.raises(UserError, match="--cutoffs needs a value"):
        cutoffs("tiny", "--cutoffs")


def test_settings_that_the_data_have_no_use_for_are_said(tmp_path, text_file, capsys):
    flags = ("--data", text_file, "--steps", 1, "--run-dir", tmp_path / "run")
    assert here("train", *SMALL, *flags, "--cutoffs", 1000, 2000, "--sample-rate", 8000) == 0
    out = capsys.readouterr().out
    assert "note: cutoffs [1000, 2000] are beyond the 256 of the vocabulary: left out" in out
    assert "note: --sample-rate is of sound" in out


def test_a_prompt_may_be_any_bytes(run, capsys):
    assert (
        here("sample", run, "--length", 3, "--prompt", b"a\xff".decode(errors="surrogateescape"))
        == 0
    )


def test_figures_of_a_short_split_are_those_of_what_is_there(run, tmp_path):
    short = tmp_path / "short"
    short.write_bytes(b"abc abd " * 20)  # a test split of 8 bytes, and 16 in a piece
    assert here("eval", run, "--data", short, "--figures") == 0
    assert json.loads(latest(run).read_text())["figures"]["buckets"]


def test_a_vocabulary_that_does_not_match_the_run_is_refused(tmp_path, run, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    audio.write(tmp_path / "in.wav", np.zeros(8_000, np.float32), 16_000)
    for argv in (("eval", run, "--data"), ("train", "--resume", run, "--data")):
        with pytest.raises(UserError, match="has a vocabulary of 256 audio and run"):
            here(*argv, tmp_path / "in.wav")
    kept = (run / vocabulary.FILE).read_bytes()
    try:
        words = vocabulary.Words.from_counts({"a": 1})
        vocabulary.save(run, words)
        with pytest.raises(UserError, match="do not fit the model that"):
            here("sample", run)
    finally:
        (run / vocabulary.FILE).write_bytes(kept)
