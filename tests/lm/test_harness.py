"""lm-evaluation-harness on a task made of local text; skipped where it is not installed."""

import numpy as np
import pytest

from ct_rl.lm.evaluation import price
from ct_rl.lm.sources import open_data
from tests.lm.conftest import SMALL, here

lm_eval = pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, text_file):
    from ct_rl.lm.harness import HarnessModel

    path = tmp_path_factory.mktemp("runs") / "text"
    flags = ("--data", text_file, "--steps", 80, "--lr", 0.02, "--run-dir", path)
    assert here("train", *SMALL, *flags) == 0
    return HarnessModel(path, device="cpu")


def request(*args):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, args, 0)


def test_the_parts_of_a_text_cost_what_all_of_it_costs(adapter):
    text = "abc abd ef" * 60
    whole = adapter.loglikelihood_rolling([request(text)])[0]
    first = adapter.loglikelihood_rolling([request(text[:200])])[0]
    rest, likeliest = adapter.loglikelihood([request("\n" + text[:200], text[200:])])[0]
    assert first + rest == pytest.approx(whole, abs=1e-2) and not likeliest


def test_rolling_is_the_price_of_evaluation(adapter, text_file):
    corpus = open_data(str(text_file))
    text = corpus.tokens["test"][:300]
    corpus.tokens["test"] = np.concatenate([np.frombuffer(b"\n", np.uint8), text])
    nats = price(adapter.model, corpus, "test", length=64).nats.sum()
    rolled = adapter.loglikelihood_rolling([request(text.tobytes().decode())])[0]
    assert rolled == pytest.approx(-float(nats), abs=1e-2)


def test_what_is_generated_greedily_is_the_likeliest_and_stops(adapter):
    settings = {"until": [], "max_gen_toks": 12}
    text = adapter.generate_until([request("abc", settings)])[0]
    assert len(text) == 12
    assert adapter.loglikelihood([request("abc", text)])[0][1]
    stopped = adapter.generate_until([request("abc", {**settings, "until": [text[5]]})])[0]
    assert text[5] not in stopped and text.startswith(stopped)


@pytest.fixture(scope="module")
def of_words(tmp_path_factory):
    from ct_rl.lm.harness import HarnessModel

    path = tmp_path_factory.mktemp("words")
    for split in ("train", "valid", "test"):
        (path / f"{split}.txt").write_text("abc abd\nef ge abc\n" * 60)
    assert here("prepare", "words", "--from", path, "--out", path / "corpus") == 0
    flags = ("--data", path / "corpus", "--steps", 4, "--run-dir", path / "run")
    assert here("train", *SMALL, *flags) == 0
    return HarnessModel(path / "run", device="cpu")


@pytest.mark.parametrize("context", ["", " ", "\t  "])
def test_a_context_without_a_word_is_none(of_words, context):
    text = "abc abd ef ge"
    (found,) = of_words.loglikelihood([request(context, text)])
    assert found[0] == pytest.approx(of_words.loglikelihood_rolling([request(text)])[0])
    settings = {"max_gen_toks": 3}
    written = [of_words.generate_until([request(at, settings)]) for at in (context, "\n")]
    assert written[0] == written[1]


def test_what_is_asked_several_times_is_drawn_anew_and_repeats_with_the_next_call(adapter):
    settings = {"max_gen_toks": 20, "do_sample": True}
    asked = [request("abc", settings)] * 4
    drawn = adapter.generate_until(asked)
    assert len(set(drawn)) == 4 and adapter.generate_until(asked) == drawn


def test_the_harness_runs_a_task_of_local_text(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "d.jsonl").write_text('{"text": "abc abd ef"}\n{"text": "ef ge abc"}\n')
    (tmp_path / "mine.yaml").write_text(
        f"""
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "d.jsonl"}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
    )
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=adapter, tasks=["mine"], task_manager=manager, bootstrap_iters=0
    )
    bits = found["results"]["mine"]["bits_per_byte,none"]
    texts = ["abc abd ef", "ef ge abc"]
    nats = -sum(adapter.loglikelihood_rolling([request(text) for text in texts]))
    assert bits == pytest.approx(nats / sum(map(len, texts)) / np.log(2), rel=1e-4)
