"""Experiments: several runs of one recipe, stopped and gone on with, and what they say together."""

import json
import os
import signal
from dataclasses import fields, replace

import pytest
import yaml

from ct_rl import checkpoint, comparison, config_file
from ct_rl.config_file import experiment_names, read_recipe, recipe_names
from ct_rl.errors import RunFailed, UserError
from ct_rl.evaluation_file import new_evaluation
from ct_rl.experiment import _check, _compare, _shares_of_cores, _work
from ct_rl.experiment import command as experiment
from ct_rl.experiment_file import parse, read_experiment
from ct_rl.interrupts import Interrupts
from ct_rl.job import Job
from ct_rl.known_runs import read_known
from ct_rl.memory import build_memory
from ct_rl.run_folder import take_lock
from ct_rl.sections import memory_settings
from tests.cli.conftest import command, finish, start, wait_for

SMALL = {
    "recipe": "rooms_select",
    "variants": {
        "compressive, rate 4": {"memory": {"d_model": 32, "n_heads": 2, "n_layers": 1}},
        "gru": {"memory": {"kind": "gru", "hidden": 16}},
    },
    "seeds": [3],
    "episodes": 2,
    "parallel": 2,
    "measure": "teleports",
    "levels": [0.25, 1000],
}
for _settings in SMALL["variants"].values():
    _settings |= {
        "runners": {"envs_per_runner": 4, "fragment": 20},
        "training": {"batch": 80, "minibatch": 80},
        "run": {"steps": 1600, "report_seconds": 0.2},
    }


def test_an_experiment_stops_goes_on_and_compares(tmp_path, capsys):
    file, folder = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(SMALL))
    words = ("ct_rl.experiment", file, "--run-dir", folder)
    process = start(*words)
    saved = [folder / name / "run" / "checkpoints" for name in
             ("compressive_rate_4_seed3", "gru_seed3")]  # fmt: skip
    wait_for(lambda: any(map(checkpoint.steps, saved)) or process.poll() is not None, 120)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status in (0, 130), out + err  # 0 where it was done before the signal came
    assert status == 0 or "go on with the same command" in out

    status, out, err = command(*words)
    assert status == 0, out + err
    assert out.count("in evaluation") == 1  # the title of the table
    results = json.loads((folder / "results.json").read_text())
    assert set(results["variants"]) == set(SMALL["variants"])
    for variant in results["variants"].values():
        (run,) = variant["runs"]
        assert run["seed"] == 3 and run["steps"] >= 1600 and run["curve"]
        assert set(run["reached"]) == {"0.25", "1000"} and run["reached"]["1000"] is None
        assert variant["area"]["values"] == [run["area"]]
        assert variant["scores"]["sampled"]["values"] == [run["evaluation"]["sampled"]["teleports"]]
        assert run["evaluation"]["greedy"]["episodes"] == 2
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")

    before = (folder / "gru_seed3" / "run" / "metrics.jsonl").read_bytes()
    # What starts no run needs no process of its own.
    flags = [str(file), "--run-dir", str(folder)]
    assert experiment(flags) == 0 and "2 runs, 2 finished" in capsys.readouterr().out
    assert (folder / "gru_seed3" / "run" / "metrics.jsonl").read_bytes() == before

    known, elsewhere = folder / "results.json", tmp_path / "elsewhere"
    assert experiment([str(file), "--run-dir", str(elsewhere), "--known", str(known)]) == 0
    out = capsys.readouterr().out
    assert "known        2 runs" in out and "2 runs, 2 finished" in out
    again = json.loads((elsewhere / "results.json").read_text())
    assert again["variants"] == results["variants"]
    for variant in again["variants"].values():
        assert variant["runs"][0]["provenance"]["torch"] == results["provenance"]["torch"]
    assert str(tmp_path) not in known.read_text()  # nothing of this machine's folders goes along

    other = {**SMALL, "variants": {"gru": {"memory": {"kind": "gru", "hidden": 24}}}}
    file.write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match=r"memory.hidden = 16.*--run-dir"):
        experiment(flags)
    _known_runs_are_of_this_experiment_or_refused(tmp_path, results)


def _known_runs_are_of_this_experiment_or_refused(tmp_path, results):
    def ask(changed: dict, **more):
        (tmp_path / "known.json").write_text(json.dumps(results | more))
        asked = parse(yaml.safe_dump(SMALL | changed), "x", "x.yaml")
        return read_known([str(tmp_path / "known.json")], asked, [])

    gru = SMALL["variants"]["gru"]
    assert set(ask({})) == {("compressive, rate 4", 3), ("gru", 3)}
    assert set(ask({"variants": {"gru": gru}})) == {("gru", 3)}
    assert not ask({"seeds": [4, 5]}) and not ask({"episodes": 3})
    assert set(ask({"variants": {"a gated unit": gru}})) == {("a gated unit", 3)}
    longer, wider = {**gru, "run": {"steps": 99}}, {"memory": {"kind": "gru", "hidden": 24}}
    assert not ask({"variants": {"longer": longer, "wider": wider}})
    unknown = {"theirs": {**results["variants"]["gru"], "config": {"memory": {"kind": "theirs"}}}}
    assert not ask({}, variants=unknown)
    other = {**gru, "memory": {"kind": "gru", "hidden": 24}}
    with pytest.raises(UserError, match=r"gru was trained with memory.hidden = 16, .* says 24"):
        ask({"variants": {"gru": other}})
    other = {**gru, "run": {"steps": 99}}
    with pytest.raises(UserError, match=r"for 1,600 steps, and the experiment says 99"):
        ask({"variants": {"gru": other}})
    with pytest.raises(UserError, match=r"has minutes None, and the experiment 2.0"):
        ask({"minutes": 2})
    with pytest.raises(UserError, match="has measure teleports, and the experiment return"):
        ask({"measure": "return"})
    with pytest.raises(UserError, match=r"no results.json of an experiment: variants: expected"):
        ask({}, variants=3)
    with pytest.raises(UserError, match=r"no results.json of an experiment: config: is missing"):
        ask({}, variants={"gru": {"runs": []}})
    (run,) = results["variants"]["gru"]["runs"]
    for part in ({"evaluation": {}}, {"evaluation": {"greedy": {"mean": 1.0, "episodes": 9}}}):
        some = {**results["variants"]["gru"], "runs": [run | part]}
        assert ("gru", 3) not in ask({}, variants={"gru": some})
    for part in ({"curve": [[1.0]]}, {"evaluation": {"greedy": {"episodes": "many"}}}):
        some = {**results["variants"]["gru"], "runs": [run | part]}
        with pytest.raises(UserError, match=r"no results.json of an experiment: "):
            ask({}, variants={"gru": some})
    wrong = {**results["variants"]["gru"], "runs": [{"seed": 3}]}
    with pytest.raises(UserError, match=r"no results.json of an experiment: .* is missing"):
        ask({}, variants={"gru": wrong})


def test_known_runs_that_are_not_there_are_one_line(tmp_path):
    asked = parse(yaml.safe_dump(SMALL), "x", "x.yaml")
    with pytest.raises(UserError, match=r"--known '.*none.json' not found: give an experiment's"):
        read_known([str(tmp_path / "none.json")], asked, [])
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"--known: .* is not JSON"):
        read_known([str(tmp_path / "a.json")], asked, [])


def test_shipped_experiments_are_read_and_are_no_recipes():
    assert experiment_names()
    for name in experiment_names():
        assert name not in recipe_names()
        for given in (name, f"configs/{name}.yaml"):
            with pytest.raises(UserError, match=f"python -m ct_rl.experiment {given}"):
                read_recipe(given)
        shipped = read_experiment(f"configs/{name}.yaml")
        assert len(shipped.variants) > 1
        _check(shipped, here=True)  # every variant can be trained here
    for given in ("rooms_select", "configs/rooms_select.yaml"):
        with pytest.raises(UserError, match=f"python -m ct_rl.train --config {given}"):
            read_experiment(given)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "unknown key 'seed', did you mean 'seeds'?"),
        ({"variants": None}, "has no variants"),
        ({"variants": {}}, "has no variants"),
        ({"variants": {"a": "hello"}}, "variant 'a': expected settings, not 'hello'"),
        ({"variants": {"a": {"memory": "lstm"}}}, "variant 'a': memory: expected `name: value`"),
        ({"seeds": 3}, "seeds: expected a list, not 3"),
        ({"seeds": []}, "seeds: is empty"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"seeds": [True]}, "expected a whole number, not True"),
        ({"seeds": [-1]}, "-1 is too small: give 0 or more"),
        ({"minutes": 0}, "minutes: 0 is too small: give more than 0"),
        ({"parallel": 0.5}, "parallel: expected a whole number, not 0.5"),
        ({"episodes": "3"}, "episodes: expected a whole number, not '3'"),
        ({"chance": float("inf")}, "chance: inf is not finite"),
        ({"variants": {"a": {"memory": {"rat": 4}}}}, "has no option 'rat': its options are"),
        (
            {"variants": {"a": {"memory": {"kind": "lstm", "rate": 4}}}},
            "variant 'a': memory 'lstm' has no option 'rate': its options are d_model, hidden",
        ),
        ({"variants": {"a b": {}, "a-b": {}}}, "'a b' and 'a-b' would share a folder: letters"),
        ({"variants": {"größe": {}, "grüße": {}}}, "variants 'größe' and 'grüße' would share a"),
        ({"variants": {"!!": {}}}, "variant '!!': give a name with a letter A to Z or a digit"),
        ({"variants": ["a", "b"]}, "variants: expected names with settings each, not a list"),
        ({"variants": {True: {}}}, "YAML reads a variant's name as True: put it in quotes"),
        ({"levels": [5, 5.0]}, "levels: [5.0, 5.0] names one twice"),
        ({"variants": {"a": {"memory": {"rate": 0}}}}, "memory.rate: 0 is too small"),
        ({"variants": {"a": {"training": {"minibatch": 7}}}}, "variant 'a': --minibatch 7: give"),
        ({"variants": {"a": {"run": {"imports": ["m"]}}}}, "variant 'a' would import m"),
        ({"variants": {"a": {"run": {"ray_address": "h:1"}}}}, "joined by --ray-address alone"),
        (
            {"settings": {"run": {"minutes": 0.02}}},
            "run.minutes 0.02: all variants have one clock: give the experiment's own 'minutes:'",
        ),
        ({"variants": {"a": {"run": {"minutes": 3}}}}, "variant 'a': run.minutes 3: all variants"),
        (
            {"minutes": 45, "variants": {"a": {"run": {"minutes": 3}}}},
            "variant 'a': run.minutes 3: all variants have one clock",
        ),
        (
            {"settings": {"run": {"seed": 9}}},
            "settings: run.seed 9: every variant is trained under",
        ),
        ({"variants": {"a": {"run": {"run_dir": "x"}}}}, "variant 'a': run.run_dir 'x': a run has"),
        ({"recipe": "/etc/passwd"}, "must hold `name: value` lines"),
        ({"recipe": "/dev/zero"}, "'/dev/zero' is no regular file"),
        ({"recipe": 3}, "recipe: expected a text, not 3"),
        ({"recipe": "rooms_selct"}, "did you mean 'rooms_select'"),
    ],
)
def test_a_wrong_experiment_is_one_clear_line(change, says):
    with pytest.raises(UserError) as error:
        parse(yaml.safe_dump(SMALL | change), "x", "x.yaml")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_quick_is_the_small_version_that_the_file_describes_and_a_folder_of_its_own():
    text = yaml.safe_dump(SMALL | {"seeds": [5, 6], "quick": {"minutes": 0.5, "episodes": 2}})
    whole, quick = parse(text, "x", "x.yaml"), parse(text, "x", "x.yaml", quick=True)
    assert (quick.name, quick.seeds, quick.minutes, quick.episodes) == ("x_quick", [5], 0.5, 2)
    assert quick.variants == whole.variants and whole.seeds == [5, 6]
    assert parse(yaml.safe_dump(SMALL), "x", "x.yaml", quick=True).minutes == 1
    with pytest.raises(UserError, match=r"quick\.minutes: 0 is too small"):
        parse(yaml.safe_dump(SMALL | {"quick": {"minutes": 0}}), "x", "x.yaml")


def test_settings_of_all_variants_are_written_once_and_checked_like_theirs():
    file = SMALL | {"settings": {"network": {"bilinear": 7}, "memory": {"rate": 2}}}
    first, second = parse(yaml.safe_dump(file), "x", "x.yaml").variants
    assert first.config.network.bilinear == second.config.network.bilinear == 7
    assert first.config.memory.rate == 2 and second.config.memory.kind == "gru"
    file["variants"] = {"own": {"network": {"bilinear": 9}}}
    assert parse(yaml.safe_dump(file), "x", "x.yaml").variants[0].config.network.bilinear == 9
    file["settings"] = {"network": {"bilinaer": 7}}
    with pytest.raises(UserError, match=r"'x.yaml': settings: .*did you mean.*bilinear"):
        parse(yaml.safe_dump(file), "x", "x.yaml")


@pytest.mark.parametrize("experiment_name", ["rooms_select_rates", "rooms_select_delay"])
def test_an_experiment_on_rates_compares_equal_states_whose_reach_the_rate_changes(
    experiment_name,
):
    states: dict[tuple[int, int], set[int]] = {}
    reach: dict[tuple[int, int], dict[int, int | None]] = {}
    for variant in read_experiment(experiment_name).variants:
        memory = variant.config.memory
        options = memory_settings(memory)
        core = build_memory(memory.kind, **options)
        state = sum(x.numel() * x.element_size() for x in core.initial_state(1).values())
        sizes = next(iter(reach), (0, 0))  # the others are beside the first
        if memory.kind == "compressive":
            sizes = options["window"], options["memory"] + options["compressed"]
            reach.setdefault(sizes, {})[memory.rate] = core.context_length
        if memory.kind != "identity":
            states.setdefault(sizes, set()).add(round(state, -2))
    expected = {
        "rooms_select_rates": (
            {
                (4, 4): {1: 8, 2: 12, 4: 20},
                (8, 4): {1: 12, 4: 24, 8: 40},
                (4, 128): {1: 132, 4: 324},
            },
            {(4, 4): {4100}, (8, 4): {6200}, (4, 128): {67600}},
        ),
        "rooms_select_delay": (
            {(4, 8): {1: 12, 2: 16, 4: 24}, (8, 4): {8: 40}},
            {(4, 8): {6200}, (8, 4): {6200}},
        ),
    }
    assert (reach, states) == expected[experiment_name]


def test_a_variant_that_names_losses_has_those_alone():
    found = {
        variant.name: {item.name for item in fields(variant.config.auxiliary)}
        for variant in read_experiment("rooms_select_auxiliary").variants
    }
    assert found.pop("none") == set()
    assert len(found) > 2 and all(losses == {name} for name, losses in found.items())


def prepared(folder, changed=None, steps=1600, seconds=60.0, saved=None, played=None):
    """The job of the GRU and what its training and evaluation leave behind, without either."""
    job = Job(*job_of(changed or {}), folder, [])
    job.run.checkpoints.mkdir(parents=True, exist_ok=True)
    config = job.variant.config
    config = replace(config, run=replace(config.run, seed=job.seed))
    job.run.config.write_text(config_file.dump(config, {"torch": "2"}))
    rows = [{"steps": at, "seconds": seconds * at / steps, "teleports": 1.0}
            for at in (steps // 2, steps)]  # fmt: skip
    job.run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    saved = steps if saved is None else saved
    (job.run.checkpoints / f"step_{saved:012d}").mkdir(exist_ok=True)
    score = {"mean": 2.0, "teleports": 1.0, "episodes": 2}
    report = {"env": job.variant.config.env.name, "steps": saved,
              "scores": {"sampled": score, "greedy": score}}  # fmt: skip
    new_evaluation(job.run.path, "e", report | (played or {}))
    return job


def job_of(changed):
    asked = parse(yaml.safe_dump(SMALL | changed), "x", "x.yaml")
    return asked, asked.variants[-1], 3


def test_what_is_to_be_trained_on_is_in_no_result(tmp_path):
    assert prepared(tmp_path / "done").next_command() is None
    assert prepared(tmp_path / "done").result()["steps"] == 1600
    by_clock = {"minutes": 0.5, "variants": {"gru": SMALL["variants"]["gru"] | {"run": {}}}}
    assert prepared(tmp_path / "clock", by_clock).result()["steps"] == 1600
    job = prepared(tmp_path / "longer", {**by_clock, "minutes": 20})
    assert job.next_command()[0] == "ct_rl.train" and job.result() is None
    job = prepared(tmp_path / "more", {"variants": {"gru": by_clock["variants"]["gru"]}})
    assert job.next_command()[0] == "ct_rl.train" and job.result() is None


def test_steps_that_were_raised_in_the_file_are_those_that_a_run_goes_on_to(tmp_path):
    for folder, saved in (("finished", 1600), ("interrupted", 800)):
        more = {"variants": {"gru": SMALL["variants"]["gru"] | {"run": {"steps": 5000}}}}
        words = prepared(tmp_path / folder, more, steps=1600, saved=saved).next_command()
        assert words[:3] == ["ct_rl.train", "--resume", "{job}/run"]
        assert words[words.index("--steps") + 1] == "5000"
    words = prepared(tmp_path / "further", steps=3000, saved=2000).next_command()
    assert words[words.index("--steps") + 1] == "3000"  # more than its checkpoint has already


def test_a_run_that_was_killed_between_its_last_report_and_checkpoint_is_trained_on(tmp_path):
    job = prepared(tmp_path / "steps", saved=800)
    assert job.next_command()[0] == "ct_rl.train" and job.result() is None
    job = prepared(tmp_path / "clock", {"minutes": 1}, saved=800)
    words = job.next_command()
    assert words[words.index("--minutes") + 1] == "0.500"  # as the checkpoint's report has it
    job = prepared(tmp_path / "more", steps=3000)  # by hand, to more than the experiment asks for
    assert job.next_command() is None


def test_the_experiments_clock_stands_above_a_recipes_own(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {minutes: 35}\n")
    text = yaml.safe_dump({"recipe": str(recipe), "variants": {"a": None}})
    made = parse(f"minutes: 5\n{text}", "x", "x.yaml")
    assert made.minutes == 5 and made.variants[0].config.run.minutes is None
    with pytest.raises(UserError, match=r"the recipe has run.minutes 35: all variants have one"):
        parse(text, "x", "x.yaml")


@pytest.mark.parametrize(
    "played",
    [
        {"env_options": {"seconds": 2}},
        {"env_options": {"spawn": [-232, 10]}},  # --as-trained
        {"max_steps": 5},
        {"engine": "deepmind_lab"},
    ],
)
def test_an_evaluation_of_another_level_than_the_experiment_s_is_not_its_own(tmp_path, played):
    engine = {"variants": {"gru": SMALL["variants"]["gru"] | {"env": {"engine": "embedded"}}}}
    job = prepared(tmp_path, engine, played=played)
    assert job.next_command()[0] == "ct_rl.evaluate" and job.result() is None
    as_it_is = {"env_options": {}, "max_steps": 100_000, "engine": "embedded"}
    job = prepared(tmp_path, engine, played=as_it_is)
    assert job.next_command() is None and job.result()["evaluation"]["greedy"]["mean"] == 2.0


def test_an_evaluation_that_does_not_count_is_not_played_again_and_again(tmp_path, monkeypatch):
    """As where the last checkpoint is damaged, and the one before is evaluated."""
    job, begun = prepared(tmp_path, played={"steps": 800}), []

    class Done:
        def start(self, words, folder):
            begun.append(words)
            return self

        def poll(self):
            return 0

    monkeypatch.setattr("ct_rl.experiment._shares_of_cores", lambda _: [Done()])
    with pytest.raises(RunFailed, match="does not count, for want of 2 whole episodes"):
        _work([job], ["gru"], None, job.experiment, tmp_path, Interrupts())
    assert [words[0] for words in begun] == ["ct_rl.evaluate"]


def test_a_broken_evaluation_of_a_run_is_one_line(tmp_path):
    job = Job(parse(yaml.safe_dump(SMALL), "x", "x.yaml"), None, 3, tmp_path, [])
    folder = tmp_path / "run" / "evaluations"
    folder.mkdir(parents=True)
    for content in ("", "[]", '{"env": 1}'):
        (folder / "a.json").write_text(content)
        with pytest.raises(UserError, match=r"a\.json"):
            job.evaluation()
    (folder / "a.json").unlink()
    (folder / "a.json").mkdir()
    with pytest.raises(UserError, match="is a folder, not a file"):
        job.evaluation()


def test_a_measure_that_no_evaluation_has_is_refused_before_anything_runs(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"measure": "choice_acuracy"}))
    with pytest.raises(UserError, match="did you mean 'choice_accuracy'"):
        experiment([str(file), "--run-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"network": {"encoder": "nope"}}, "unknown encoder 'nope'"),
        ({"training": {"loss_coeffs": {"nonsense": 1}}}, "no such loss"),
        ({"memory": {"rate": 3, "window": 4}}, "rate"),
        ({"env": {"options": {"spwan": [0, 0]}}}, "spwan"),
        ({"run": {"device": "cuda"}}, "no CUDA device here"),
    ],
)
def test_what_a_variant_cannot_be_trained_with_is_refused_before_anything_runs(
    tmp_path, settings, says, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file, folder = tmp_path / "wrong.yaml", tmp_path / "out"
    variants = {"sound": SMALL["variants"]["gru"], "bad": settings}
    file.write_text(yaml.safe_dump(SMALL | {"variants": variants}))
    with pytest.raises(UserError, match="variant 'bad'") as error:
        experiment([str(file), "--run-dir", str(folder)])
    assert says in str(error.value) and not folder.exists()


def test_the_device_of_a_run_elsewhere_is_not_asked_for_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    variants = {"gru": SMALL["variants"]["gru"] | {"run": {"device": "cuda"}}}
    asked = parse(yaml.safe_dump(SMALL | {"variants": variants}), "x", "x.yaml")
    _check(asked, here=False)
    assert asked.variants[0].config.run.device == "cuda"
    with pytest.raises(UserError, match="no CUDA device here"):
        _check(asked, here=True)


def test_an_empty_section_changes_nothing_that_the_recipe_says():
    base = parse(yaml.safe_dump(SMALL | {"variants": {"a": None}}), "x", "x.yaml").variants[0]
    for section in ("env", "memory", "network", "auxiliary", "training", "runners", "run"):
        text = yaml.safe_dump(SMALL | {"variants": {"a": {section: None}}})
        assert parse(text, "x", "x.yaml").variants[0] == base, section
    options = {"env": {"options": None}}  # which takes a recipe's settings of the environment away
    text = yaml.safe_dump(SMALL | {"variants": {"a": options}})
    assert parse(text, "x", "x.yaml").variants[0].config.env.options == {}
    assert base.config.env.options


def test_a_run_of_another_seed_is_not_taken_for_one_of_this(tmp_path):
    job = prepared(tmp_path)
    other = Job(job.experiment, job.variant, 4, tmp_path, [])
    assert job.next_command() is None
    with pytest.raises(UserError, match=r"trained with run.seed = 3, and the experiment says 4"):
        other.next_command()


def test_reports_that_are_gone_are_one_line_and_no_second_training(tmp_path):
    job = prepared(tmp_path)
    job.run.metrics.unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl' holds no report, and the run has all"):
        job.next_command()


def test_results_are_put_aside_where_no_run_is_finished_any_more(tmp_path):
    job = prepared(tmp_path / "gru_seed3")
    _compare([job], job.experiment, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    more = {"variants": {"gru": SMALL["variants"]["gru"] | {"run": {"steps": 5000}}}}
    longer = Job(*job_of(more), tmp_path / "gru_seed3", [])
    _compare([longer], longer.experiment, tmp_path)
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "comparison.png").exists()
    assert (tmp_path / "earlier_results.json").read_bytes() == before


def test_a_folders_own_finished_run_counts_and_not_one_known_from_elsewhere(tmp_path, capsys):
    job = prepared(tmp_path / "gru_seed3")
    made = job.result()
    job.known = made | {"area": 77.0}
    assert _work([job], ["gru"], None, job.experiment, tmp_path, Interrupts())
    assert "gru, seed 3: the folder has a finished run of its own" in capsys.readouterr().out
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["variants"]["gru"]["runs"][0]["area"] == made["area"]


def test_two_files_that_know_one_run_otherwise_are_refused(tmp_path):
    job = prepared(tmp_path / "gru_seed3")
    _compare([job], job.experiment, tmp_path)
    one, two = tmp_path / "results.json", tmp_path / "two.json"
    two.write_text(one.read_text())
    assert len(read_known([str(one), str(two)], job.experiment, [])) == 1
    other = json.loads(one.read_text())
    other["variants"]["gru"]["runs"][0]["area"] = 77.0
    two.write_text(json.dumps(other))
    with pytest.raises(UserError, match="gru, seed 3 is another run than in a file before it"):
        read_known([str(one), str(two)], job.experiment, [])


def test_one_folder_is_worked_on_by_one_experiment_at_a_time(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    folder = tmp_path / "out"
    folder.mkdir()
    with (
        take_lock(folder, "held"),
        pytest.raises(UserError, match=rf"worked on by process {os.getpid()}: stop that one"),
    ):
        experiment([str(file), "--run-dir", str(folder)])


def test_a_failures_reason_is_what_this_start_said_of_it(tmp_path):
    job, ended = prepared(tmp_path), []
    job.log.write_text("error: of an earlier start\n")

    class Ended:
        def start(self, words, folder):
            with open(folder / "log.txt", "a") as log:
                log.write("\n".join(ended))
            return self

    job.start(Ended(), ["ct_rl.train"])
    assert job.last_words() == "it said nothing"
    ended.extend(["steps 800", "error: run is being trained by process 7", "steps 900 | another's"])
    job.start(Ended(), ["ct_rl.train"])
    assert job.last_words() == "error: run is being trained by process 7"


def test_names_of_variants_are_shown_and_drawn_as_they_are(tmp_path, capsys):
    job = prepared(tmp_path / "gru_seed3")
    _compare([job], job.experiment, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    names = ["lstm [/]", "lstm [big]", r"a $\frac$ b"]
    results["variants"] = dict.fromkeys(names, results["variants"]["gru"])
    comparison.show(results)
    out = "".join(capsys.readouterr().out.split())
    assert all("".join(name.split()) in out for name in names[:2])
    comparison.draw_comparison(tmp_path / "named.png", results)
    assert (tmp_path / "named.png").read_bytes().startswith(b"\x89PNG")


def test_a_mean_is_drawn_only_where_every_run_has_been(tmp_path, monkeypatch):
    job = prepared(tmp_path / "gru_seed3")
    _compare([job], job.experiment, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (run,) = results["variants"]["gru"]["runs"]
    curves = [[[0.1, 100, 1.0], [0.9, 900, 1.0]], [[3.1, 3100, 30.0], [3.9, 3900, 30.0]]]
    results["variants"]["gru"]["runs"] = [run | {"curve": curve} for curve in curves]
    drawn = []
    from matplotlib.axes import Axes

    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *a, **k: drawn.append((len(a[0]), k.get("label"))) or plot(self, *a, **k)
    )  # fmt: skip
    comparison.draw_comparison(tmp_path / "apart.png", results)
    assert {count for count, label in drawn if label} == {0}


def test_levels_that_are_near_each_other_are_told_apart():
    row = {"steps": 10, "seconds": 60.0, "return": 1e6 + 1.5}
    asked = parse(yaml.safe_dump(SMALL | {"levels": [1000001, 1000002]}), "x", "x.yaml")
    asked.measure = "return"
    said = comparison.run(3, [row], {}, asked)
    assert said["reached"]["1000001"] and said["reached"]["1000002"] is None


def test_fewer_cores_than_runs_at_a_time_are_said_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5, 2, 7}, raising=False)
    assert [place.cores for place in _shares_of_cores(2)] == [[2, 7], [5]]
    assert capsys.readouterr().out == ""
    assert [place.cores for place in _shares_of_cores(4)] == [[2], [5], [7]]
    (line,) = capsys.readouterr().out.splitlines()
    assert "runs at a time: 3, not 4" in line


def test_a_failed_run_takes_no_other_with_it(tmp_path):
    """One variant cannot train at all; its neighbour is trained and compared, and the command says what failed."""
    broken = {"training": {"batch": 80, "minibatch": 80, "lr": 1e3, "grad_clip": 1e9}}
    small = SMALL["variants"]["gru"]
    file, folder = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(
        yaml.safe_dump(SMALL | {"variants": {"broken": {**small, **broken}, "gru": small}})
    )
    status, out, err = command("ct_rl.experiment", file, "--run-dir", folder)
    assert status == 1, out + err
    (line,) = err.strip().splitlines()
    assert "broken, seed 3 stopped" in line and str(folder) in line and "tries again" in line
    assert "failed: broken, seed 3 stopped" in out
    results = json.loads((folder / "results.json").read_text())
    assert list(results["variants"]) == ["gru"]


def test_wrong_flags_are_one_clear_line(tmp_path):
    with pytest.raises(
        UserError,
        match="experiment 'rooms_select_rate' not found, did you mean 'rooms_select_rates'",
    ):
        experiment(["rooms_select_rate"])
    with pytest.raises(UserError, match="--minutes 0 is too small: give more than 0"):
        experiment(["rooms_select_rates", "--minutes", "0"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        experiment(["rooms_select_rates", "--run-dir", str(tmp_path / "file")])


def test_an_interval_covers_the_means_of_resampled_runs():
    assert comparison.interval([0.8]) is None
    low, high = comparison.interval([0.0, 1.0])
    assert (low, high) == (0.0, 1.0)
    low, high = comparison.interval([0.5] * 4)
    assert low == high == 0.5
    low, high = comparison.interval([0.7, 0.8, 0.9])
    assert 0.699 < low < 0.8 < high < 0.901


def test_the_area_is_the_mean_over_all_of_training_however_often_it_reported():
    rows = [{"steps": steps, "return": 2.0 * steps} for steps in (0, 10, 15, 100)]
    assert comparison._area(rows, "return") == pytest.approx(100.0)
    assert comparison._area(rows[3:], "return") == 200.0
    assert comparison._area([rows[3], {**rows[3], "return": 100.0}], "return") == 150.0
    assert comparison._area([], "return") is None


def test_a_level_is_reached_where_the_mean_of_some_reports_has_passed_it_not_one():
    rows = [{"steps": i, "seconds": 60.0 * i, "return": float(i >= 50)} for i in range(80)]
    rows[10]["return"] = 1.0  # a lucky report
    assert comparison.reached(rows, "return", 0.9, window=3) == {"steps": 52, "minutes": 52.0}
    assert comparison.reached(rows, "return", 0.9, window=0.5) == {"steps": 10, "minutes": 10.0}
    assert comparison.reached(rows, "return", 1.0, window=3) is None
    assert (
        comparison.reached(rows[50:52], "return", 0.9, window=60) is None
    )  # too little was trained
    often = [{**row, "steps": row["steps"] / 2} for row in rows]  # twice as many reports a step
    assert comparison.reached(often, "return", 0.9, window=3) == {"steps": 27.5, "minutes": 55.0}


def test_a_summary_has_means_and_interquartile_means_of_what_is_known():
    summary = comparison._summary([0.0, 1.0, 2.0, 9.0, None])
    assert summary["mean"] == 3.0 and summary["iqm"] == 1.5
    assert summary["iqm_interval"] is not None and summary["values"][-1] is None
    assert comparison._summary([None])["iqm"] is None
