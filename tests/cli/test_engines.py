"""Both engines of the room task through the same commands: train, evaluate, and the suite's score."""

import json
import os
from pathlib import Path

import pytest
import yaml

from ct_rl import checkpoint, config_file, suite
from ct_rl.config import TrainConfig
from ct_rl.errors import run_command
from tests.cli.conftest import SMALL, command

DOUBLE = Path(__file__).parents[1] / "envs" / "double"
ROOMS = "rooms_select_nonmatching_object"


@pytest.fixture(scope="module")
def trained_on_lab(tmp_path_factory):
    """A run on deepmind_lab, which is the strict double."""
    folder = tmp_path_factory.mktemp("engines")
    run = folder / "run"
    words = ["ct_rl.train", *SMALL, "--env", "dmlab_rooms_select", "--engine", "deepmind_lab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        done = command(*words, "--steps", 400, "--run-dir", run, path=[DOUBLE])
    yield run, done
    assert not list(folder.glob("ct_rl-dmlab-*"))


def test_training_works_on_deepmind_lab_and_says_so(trained_on_lab):
    run, (status, out, err) = trained_on_lab
    assert (status, err) == (0, ""), out + err
    assert "environment  dmlab_rooms_select (deepmind_lab engine), 4 in this process\n" in out
    assert (
        "note: deepmind_lab has no setting 'spawn': configs/rooms_select.yaml's is left out" in out
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["env"] == {
        "name": "dmlab_rooms_select",
        "engine": "deepmind_lab",
        "options": {"stagger": True},
    }
    assert config["provenance"]["engine"] == "deepmind_lab"
    saved, _ = checkpoint.load_last(run / "checkpoints")
    assert saved.step >= 400
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (
        last["frames"] == 4 * last["steps"] and "human_normalised" in last and "teleports" in last
    )


def test_a_checkpoint_of_one_engine_is_evaluated_on_both(trained_on_lab, capsys):
    run, *_ = trained_on_lab
    real = command("ct_rl.evaluate", run, "--episodes", 2, "--video", "--video-episodes", 1,
                   "--env-option", "seconds=2", path=[DOUBLE])  # fmt: skip
    embedded = command("ct_rl.evaluate", run, "--episodes", 2, "--engine", "embedded",
                       "--env-option", "seconds=2")  # fmt: skip
    reports = {}
    for (status, out, err), engine in ((real, "deepmind_lab"), (embedded, "embedded")):
        assert status == 0, out + err
        assert f"({engine} engine)" in out and "human-normalised" in out
    for path in sorted((run / "evaluations").glob("*.json")):
        report = json.loads(path.read_text())
        reports[report["engine"]] = report
        assert report["env_options"] == {"seconds": 2}
        assert all(episode["length"] == 30 for episode in report["episodes"]["sampled"])
    assert sorted(reports) == ["deepmind_lab", "embedded"]
    assert Path(reports["deepmind_lab"]["video"]).stat().st_size > 1000

    assert run_command(lambda: suite.command([str(run)])) == 0
    assert ROOMS in capsys.readouterr().out


def test_without_the_module_a_run_of_it_is_one_line(trained_on_lab):
    run, *_ = trained_on_lab
    status, out, err = command("ct_rl.evaluate", run, "--episodes", 1)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "deepmind_lab is not installed" in err


def test_training_without_the_module_is_refused_in_one_line_alone():
    status, out, err = command("ct_rl.train", *SMALL, "--engine", "deepmind_lab")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "deepmind_lab is not installed" in err


def test_evaluation_keeps_where_the_engine_finds_its_files():
    from ct_rl.algorithm import lasting_options

    config = TrainConfig()
    config.env.name = "dmlab_psychlab_continuous_recognition"
    config.env.options = {"dataset_path": "/data", "level_cache": "/maps", "seconds": 9.0}
    files = {"dataset_path": "/data", "level_cache": "/maps"}
    assert lasting_options(config) == files
    config.env.engine = "embedded"  # which has neither setting
    assert lasting_options(config) == {}


def test_the_network_reads_instructions(monkeypatch):
    from agents import ActorCritic
    from ct_rl.evaluation import play
    from envs.dmlab.vector import LabVectorEnv

    monkeypatch.syspath_prepend(str(DOUBLE))
    env = LabVectorEnv("language_select_described_object", 2, seconds=1)
    net = ActorCritic(
        env.single_observation_space, env.single_action_space, memory="gru", width=16
    ).eval()
    played = play(net, env, 2, seed=1, greedy=False)
    env.close()
    assert [episode["length"] for episode in played] == [15, 15]


def evaluation(folder, env, mean, greedy=0.0):
    path = folder / f"{env}{mean}.json"
    scores = {"sampled": {"mean": mean}, "greedy": {"mean": greedy}}
    path.write_text(json.dumps({"env": env, "scores": scores}))
    return str(path)


def test_the_suite_is_the_mean_of_capped_scores_over_levels(tmp_path, capsys):
    files = [
        evaluation(tmp_path, "dmlab_rooms_select", 0.312, greedy=65.9),
        evaluation(tmp_path, "dmlab_rooms_watermaze", 1000.0, greedy=4.065),
        evaluation(tmp_path, "dmlab_rooms_keys_doors_puzzle", 4.135),
        evaluation(tmp_path, "dmlab_rooms_keys_doors_puzzle", 53.8),
    ]
    written = tmp_path / "suite.json"
    assert run_command(lambda: suite.command([*files, "--json", str(written)])) == 0
    assert "score 50.00 % (levels: 3; 27 of DMLab-30 missing)" in capsys.readouterr().out
    scores = json.loads(written.read_text())
    assert scores["levels"]["rooms_keys_doors_puzzle"]["capped"] == pytest.approx(50)
    assert scores["levels"]["rooms_watermaze"]["human_normalised"] > 1000
    assert len(scores["missing"]) == 27 and ROOMS not in scores["missing"]
    assert run_command(lambda: suite.command([*files[:2], "--actions", "greedy"])) == 0
    assert "score 50.00 % (levels: 2" in capsys.readouterr().out
    (tmp_path / "b").mkdir()
    words = [files[0], files[0], f"{tmp_path}/b/../{Path(files[0]).name}", "--json", str(written)]
    assert run_command(lambda: suite.command(words)) == 0
    assert json.loads(written.read_text())["levels"][ROOMS]["runs"] == 1


def test_the_suite_says_what_an_evaluation_far_from_its_agent_was_played_with(tmp_path, capsys):
    path = Path(evaluation(tmp_path, "dmlab_rooms_select", 30.0))
    assert run_command(lambda: suite.command([str(path)])) == 0
    assert "note: " not in capsys.readouterr().out
    easy = json.loads(path.read_text()) | {"env_options": {"objects": 4}, "max_steps": 50}
    path.write_text(json.dumps(easy))
    assert run_command(lambda: suite.command([str(path)])) == 0
    said = capsys.readouterr().out
    assert "is not of the level as it is: 'objects' = 4, --max-steps 50" in said


def test_the_suite_takes_the_newest_evaluation_of_the_level_as_it_is_or_says_what_it_is_of(
    tmp_path, capsys
):
    def evaluate(name, mean, **more):
        scores = {"sampled": {"mean": mean}}
        path = tmp_path / "evaluations" / name
        path.write_text(json.dumps({"env": "dmlab_rooms_select", "scores": scores} | more))
        os.utime(path, (mean, mean))
        return str(path)

    def score(path):
        assert run_command(lambda: suite.command([str(path), "--json", written])) == 0
        return json.loads(Path(written).read_text())["levels"][ROOMS]["mean_return"]

    (tmp_path / "evaluations").mkdir()
    written = str(tmp_path / "suite.json")
    config = TrainConfig()
    config.run.imports = ["not_here"]  # what training needed, a score does not
    (tmp_path / "config.yaml").write_text(config_file.dump(config))
    short = evaluate("a.json", 30.0, env_options={"seconds": 2})
    assert score(tmp_path) == 30.0
    (note,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("note: ")]
    assert note == f"note: '{short}' is not of the level as it is: 'seconds' = 2"
    evaluate("b.json", 10.0)
    evaluate("c.json", 20.0)
    assert score(tmp_path) == 20.0 and "note: " not in capsys.readouterr().out
    assert score(short) == 30.0 and "'seconds' = 2" in capsys.readouterr().out
    evaluate("d.json", 40.0, env_options={"seconds": 2})
    (tmp_path / "evaluations" / "b.json").write_text("{")
    os.utime(tmp_path / "evaluations" / "b.json", (10, 10))
    assert score(tmp_path) == 20.0
    # An exported agent says it by its description.
    (tmp_path / "config.yaml").unlink()
    description = {"env": "dmlab_rooms_select", "steps": 1}
    (tmp_path / "config.json").write_text(json.dumps({"description": description}))
    assert score(tmp_path) == 20.0


def test_what_is_no_evaluation_of_a_level_is_named_in_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[]")
    other = evaluation(tmp_path, "CartPole-v1", 3.0)
    for words, says in (
        ([], "RUNS: is missing"),
        ([str(tmp_path / "empty")], "no evaluation in"),
        ([str(tmp_path / "broken.json")], "is no evaluation of ct_rl.evaluate: "),
        ([other], "is of CartPole-v1, which is no level of DMLab-30"),
    ):
        assert run_command(lambda words=words: suite.command(words)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
