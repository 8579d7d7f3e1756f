"""Recipes and flags: complete round trip, precedence, every field a flag, mistakes named."""

import dataclasses
import re
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
import yaml

import ct_rl
from ct_rl import command_line, config_file, experiment, reader
from ct_rl.algorithm import algorithm_config, env_settings
from ct_rl.config import (
    EnvConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    check,
    resolve_reward_clip,
)
from ct_rl.errors import UserError
from ct_rl.memory import memory_names, memory_options, option_help
from ct_rl.reader import read
from ct_rl.sections import auxiliary_section, memory_section, memory_settings
from ct_rl.train import Arguments, _new_config


def test_what_a_recipe_says_of_compression_is_no_complaint_where_nothing_is_compressed(tmp_path):
    assert new("--memory.compressed", "0").memory.compressed == 0
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("memory: {compressed: 0, rate: 8, compression: mean}\n")
    assert new("--config", str(recipe)).memory.rate == 8
    assert new("--config", str(recipe), "--memory.compressed", "4", "--rate", "2").memory.rate == 2


def new(*words):
    return _new_config(list(words), command_line.take_values(words, "--import"))[0]


@pytest.mark.parametrize("kind", memory_names())
def test_a_written_configuration_reads_back_equal(kind):
    config = TrainConfig(
        memory=memory_section(kind)(),
        auxiliary=auxiliary_section(["contrast"])(),
        training=TrainingConfig(lr=[[0.0, 1e-3], [1e6, 0.0]], entropy_coeff=3e-5, minibatch=7),
        run=RunConfig(minutes=1.5, seed=11),
    )
    config.training.loss_coeffs = {"compression": 0.25}
    config.env.options = {"spawn": [-110.0, -110.0], "objects": 6, "text": "1e-3", "when": "1:30"}
    text = config_file.dump(config, {"torch": "2.13.0"})
    assert config_file.parse(text, "x") == config
    assert yaml.safe_load(text)["provenance"] == {"torch": "2.13.0"}
    written = yaml.safe_load(text)["memory"]
    assert written.pop("kind") == kind and set(written) == {
        item.name for item in fields(memory_options(kind))
    }


@pytest.mark.parametrize("name", config_file.recipe_names())
def test_every_shipped_recipe_is_valid_and_python_has_it_as_the_command_does(name):
    config, where = config_file.read_recipe(name)
    check(config)
    assert where == f"configs/{name}.yaml"
    ours, commands = ct_rl.recipe_config(name), new("--config", name)
    resolve_reward_clip(commands)
    theirs = algorithm_config(commands)
    assert type(ours) is type(theirs) and ours.network_settings == theirs.network_settings
    ours, theirs = ours.serialize(), theirs.serialize()
    assert ours == theirs and ours["env_config"] == env_settings(commands.env)


def test_a_recipe_in_python_imports_nothing_that_the_program_has_not(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("run: {imports: [antigravity]}\n")
    with pytest.raises(UserError, match="would import antigravity"):
        ct_rl.recipe_config(str(recipe))


def test_the_papers_recipe_has_the_papers_numbers():
    config, _ = config_file.read_recipe("rooms_select_paper")
    memory, training = config.memory, config.training
    assert (memory.memory, memory.compressed, memory.rate) == (64, 64, 4)
    assert (training.lr, training.entropy_coeff) == (1.5e-5, 2e-3)
    assert config.env.options == {}


def test_flags_stand_above_the_recipe_and_the_recipe_above_the_defaults(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("memory: {rate: 2, window: 8}\nenv: {options: {objects: 6, seconds: 3}}\n")
    config = new(
        *("--config", str(recipe), "--rate", "8", "--env-option", "objects=2", "x=1e-3"),
        *("--lr", "0:1e-3,9:0", "--steps", "1e6", "--minibatch", "60"),
    )
    assert config.memory.rate == 8  # flag
    assert config.memory.window == 8  # recipe
    assert config.memory.n_heads == memory_section("compressive")().n_heads  # default
    assert config.env.options == {"objects": 2, "seconds": 3, "x": 1e-3}
    assert config.training.lr == [[0.0, 1e-3], [9.0, 0.0]]
    assert config.run.steps == 1_000_000 and config.training.minibatch == 60


def test_another_environment_does_not_take_the_recipes_settings():
    config, recipe = _new_config(["--env", "CartPole-v1"], [])
    assert (config.env.name, config.env.options, recipe) == ("CartPole-v1", {}, None)


def test_another_environment_leaves_out_what_the_recipe_says_of_its_own(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("env: {engine: embedded, options: {objects: 6}}\ntraining: {gamma: 0.5}\n")
    config = new("--config", str(recipe), "--env", "CartPole-v1")
    assert config.env == EnvConfig("CartPole-v1") and config.training.gamma == 0.5
    assert "'s settings of dmlab_rooms_select are left out" in capsys.readouterr().out


def test_a_flag_may_be_written_as_its_option_is(monkeypatch):
    words = ["--ray_address", "a_b", "--env_option=x_y=1", "z_z=2"]
    monkeypatch.setattr("sys.argv", ["ct_rl.train", *words])
    assert command_line.program_arguments() == [
        "--ray-address",
        "a_b",
        "--env-option=x_y=1",
        "z_z=2",
    ]


def test_another_memory_takes_the_recipes_settings_that_it_has_and_its_own_defaults_elsewhere(
    tmp_path, capsys
):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("memory: {kind: compressive, d_model: 32, rate: 2}\n")
    config = new("--config", str(recipe), "--memory", "lstm")
    assert memory_settings(config.memory) == {
        **{item.name: item.default for item in fields(memory_options("lstm"))},
        "d_model": 32,
    }
    assert "note: memory lstm has no rate: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env", "clip"), [("dmlab_rooms_select", "optimistic_asymmetric"), ("CartPole-v1", "none")]
)
def test_rewards_are_clipped_where_that_is_the_benchmarks_own_way(env, clip):
    config = new("--env", env)
    assert resolve_reward_clip(config) == clip == config.network.reward_clip
    assert resolve_reward_clip(new("--env", env, "--reward-clip", "unit")) == "unit"


def leaves(cls, sections, at=()):
    for item in fields(cls):
        hint = sections.get(item.name, item.type)
        inner = hint if is_dataclass(hint) else getattr(TrainConfig(), item.name, None)
        if at == () and is_dataclass(inner):
            yield from leaves(inner if isinstance(inner, type) else type(inner), {}, (item.name,))
        else:
            yield (*at, item.name)


@pytest.mark.parametrize("kind", memory_names())
def test_every_field_has_a_flag_with_help_and_default(kind, capsys):
    sections = {"memory": memory_section(kind), "auxiliary": auxiliary_section(["contrast"])}
    default = Arguments(memory=sections["memory"](), auxiliary=sections["auxiliary"]())
    with pytest.raises(SystemExit) as stop:
        command_line.parse(
            Arguments, ["--help"], prog="ct_rl.train", default=default, sections=sections
        )
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    flags = command_line._flags(Arguments, sections)
    wanted = set(leaves(Arguments, {"memory": sections["memory"]}))
    wanted |= {("auxiliary", "contrast", "horizon"), ("auxiliary", "contrast", "temperature")}
    wanted -= {("auxiliary", "contrast")}
    assert wanted <= set(flags.values())
    for flag in flags:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", shown), flag
    assert shown.count("(default:") >= len(wanted) - 6
    for section in ("network", "runners", "training", "run", "env"):
        cls = type(getattr(TrainConfig(), section))
        texts = option_help(cls)
        assert all(texts.get(item.name) for item in fields(cls)), section
    for text in option_help(memory_options(kind)).values():
        assert text.split()[0] in shown


def test_a_flag_of_several_values_given_again_adds_to_them_and_any_other_counts_last():
    config = new("--env-option", "delay=4", "--seed", "1", "--env_option=spawn=wide",
                 "--env-option", "delay=5", "stagger=true", "--seed", "2")  # fmt: skip
    assert config.env.options == {"delay": 5, "spawn": "wide", "stagger": True}
    assert config.run.seed == 2
    both = command_line.parse(
        experiment.Arguments, ["--only=a", "x", "--known", "f", "--only", "b", "c"], prog="p"
    )
    assert both.only == ["a", "b", "c"] and both.known == ["f"] and both.experiment == "x"
    for words in (["x", "--only"], ["x", "--known", "--only", "a"], ["x", "--import"]):
        with pytest.raises(UserError, match=r"^--(only|known|import) needs a value$"):
            command_line.parse(experiment.Arguments, words, prog="p")


def test_a_runs_own_configuration_that_is_cut_short_is_no_whole_one(tmp_path):
    text = config_file.dump(TrainConfig(), {"torch": "2"})
    path = tmp_path / "config.yaml"
    for cut in (0, text.index("\ntraining:"), text.index("\nprovenance:") - 1):
        path.write_text(text[:cut])
        if cut < text.index("\nrun:"):
            with pytest.raises(
                UserError, match=r"is cut short: it ends before .*put back a whole one"
            ):
                config_file.read_run(path)
    path.write_text("training: {}\nprovenance: {}\n")  # of a version with fewer sections
    assert config_file.read_run(path) == TrainConfig()


@pytest.mark.parametrize("able", [{"avx512_bf16": True, "amx_bf16": False}, {"avx2": True}, {}])
def test_the_precision_of_learning_reaches_rllibs_configuration(able, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = {name: algorithm_config(new("--precision", name)).mixed_precision
             for name in ("float32", "bfloat16", "auto")}  # fmt: skip
    assert found == {"float32": False, "bfloat16": True, "auto": "avx512_bf16" in able}
    assert algorithm_config(new("--env", "CartPole-v1")).mixed_precision is False


def test_batch_and_minibatch_are_shared_between_the_learners():
    words = ("--num-learners", "2", "--batch", "3840", "--minibatch", "960")
    shared = algorithm_config(new("--algorithm", "ppo", *words))
    assert shared.train_batch_size_per_learner == 1920 and shared.minibatch_size == 480
    with pytest.raises(UserError, match="--precision: expected one of float32, bfloat16, auto"):
        new("--precision", "float16")


def test_short_and_long_form_of_the_rate_are_one():
    assert new("--rate", "3").memory.rate == new("--memory.rate", "3").memory.rate == 3


def test_auxiliary_losses_and_coefficients_are_chosen_by_name(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "auxiliary: {contrast: {pairs: 32}}\ntraining: {loss_coeffs: {contrast: 2}}\n"
    )
    config = new(
        *("--config", str(recipe), "--auxiliary", "contrast", "--auxiliary.contrast.horizon", "3"),
        *("--training.loss-coeffs", "compression=0.5"),
    )
    chosen = config.auxiliary.contrast
    assert (chosen.pairs, chosen.horizon) == (32, 3)
    assert config.training.loss_coeffs == {"contrast": 2.0, "compression": 0.5}


@pytest.mark.parametrize(
    ("chosen", "losses", "weights"),
    [
        ((), {"recall": 30}, {"recall": 0.5}),
        (("--auxiliary", "recall"), {"recall": 30}, {"recall": 0.5}),
        (("--auxiliary", "contrast"), {"contrast": 8}, {}),
        (("--auxiliary", "contrast", "recall"), {"recall": 30, "contrast": 8}, {"recall": 0.5}),
        (("--auxiliary", "none"), {}, {}),
    ],
)
def test_losses_that_a_flag_names_are_all_there_are(chosen, losses, weights):
    config = new("--env", "dmlab_rooms_select", *chosen)
    found = {item.name: getattr(config.auxiliary, item.name).horizon
             for item in fields(config.auxiliary)}  # fmt: skip
    assert found == losses and config.training.loss_coeffs == weights


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("memry: {}", "'memry', did you mean 'memory'"),
        ("memory: {rte: 3}", "memory 'compressive' has no option 'rte'"),
        ("memory: {kind: lstm, rate: 3}", "memory 'lstm' has no option 'rate': its options are"),
        ("memory: {rate: many}", "memory.rate: expected a whole number, not 'many'"),
        ("memory: {rate: 1.5}", "memory.rate: expected a whole number, not 1.5"),
        ("memory: {rate: 1e400}", "memory.rate: expected a whole number, not inf"),
        ("memory: []", "memory: expected `name: value` lines"),
        ("memory: {rate: 2, rate: 3}", "the key 'rate' is given twice"),
        ("training: {lr: [[0]]}", "training.lr: expected a number or [[step, value], ...]"),
        ("training: {lr: 1e308}", "training.lr: expected a number"),
        ("training: {batch: true}", "training.batch: expected a whole number, not True"),
        ("training: {batch: '3'}", "training.batch: expected a whole number, not '3'"),
        ("run: {device: gpu}", "run.device: expected one of auto, cpu, cuda, not 'gpu'"),
        ("network: {around: 1}", "network.around: expected true or false, not 1"),
        ("env: {options: 3}", "env.options: expected `name: value` lines"),
        ("env: {options: {a: !!binary aGk=}}", "env.options: a=b'hi'"),
        ("env: {options: {a: .inf}}", "env.options: a=inf is not finite"),
        ("auxiliary: {contrst: {}}", "did you mean 'contrast'?"),
        ("auxiliary: {contrast: {horizon: 0}}", "auxiliary.contrast.horizon: 0 is too small"),
        ("- a list", "must hold `name: value` lines"),
        ("a: [", "not valid YAML at line 1, column 5"),
        ("\x00", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_broken_recipe_is_named_in_one_line(text, says):
    with pytest.raises(UserError) as error:
        config_file.parse(text, "f.yaml")
    assert says in str(error.value) and "'f.yaml'" in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_read_as_people_write_them():
    config = config_file.parse(
        "training: {lr: 3e-4}\nrun: {steps: 1e6}\n"
        "env: {options: {a: 1e-3, b: 1_000, c: 010, d: 2020-01-01, e: 1:30, f: 0x10}}",
        "x",
    )
    assert config.training.lr == 3e-4 and config.run.steps == 1_000_000
    found = config.env.options
    assert (found["a"], found["b"], found["c"], found["f"]) == (1e-3, 1000, 10, 16)
    assert (found["d"], found["e"]) == ("2020-01-01", "1:30")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lr 5:1e-3", "--lr 5:1e-3: a schedule starts at step 0"),
        ("--lr 0:1e-3,0:1e-4", "a schedule starts at step 0 and its steps rise"),
        ("--lr nan", "--lr nan: give values from 0"),
        ("--gamma 1.5", "--gamma 1.5 is too large: give 1 or less"),
        ("--grad-clip .inf", "--grad-clip inf is not finite: give a number"),
        ("--minutes 0", "--minutes 0 is too small: give more than 0"),
        ("--seed -1", "--seed -1 is too small: give 0 or more"),
        ("--minibatch 7", "--minibatch 7: give a multiple of --fragment 60, at most 1920"),
        (
            "--minibatch 60 --num-learners 2 --batch 3840",
            "--minibatch 60: give a multiple of --fragment 60 x 2 learners, at most 3840",
        ),
        ("--batch 7", "--batch 7 is no whole number of fragments of 1920 steps"),
        ("--fragment 100 --batch 80", "give 3200"),
        ("--num-learners 2", "2 learners x 32 environments x 60 steps"),
        ("--algorithm ppo --num-env-runners 2", "2 runners x 32 environments x 60 steps"),
    ],
)
def test_values_out_of_range_are_refused(words, says):
    with pytest.raises(UserError, match=r"^--\w") as error:
        check(new(*words.split()))
    assert says in str(error.value)


def test_changes_are_found_in_every_section():
    one = TrainConfig()
    for section in fields(TrainConfig):
        for item in fields(getattr(one, section.name)):
            before = getattr(getattr(one, section.name), item.name)
            changed = replace(getattr(one, section.name), **{item.name: (before, "other")})
            other = replace(one, **{section.name: changed})
            assert list(config_file.changes(one, other)) == [f"{section.name}.{item.name}"]
    assert config_file.changes(one, replace(one, memory=memory_section("lstm")())) == {
        "memory.kind": ("compressive", "lstm")
    }


def test_a_reader_without_extra_keys_ignores_them_only_where_told():
    with pytest.raises(reader.Invalid, match="unknown key"):
        reader.read(RunConfig, {"seed": 1, "colour": 2})
    assert reader.read(RunConfig, {"seed": 1, "colour": 2}, extra="ignore").seed == 1


@dataclasses.dataclass(frozen=True)
class WithTuple:
    sizes: tuple[int, ...] = (4, 4)
    pairs: tuple[tuple[int, int], ...] = ()


def test_a_tuple_is_written_as_a_list():
    assert read(WithTuple, {"sizes": [1, 2]}).sizes == (1, 2)
    assert read(WithTuple, {}).sizes == (4, 4)
    assert read(WithTuple, {"sizes": [1e3]}).sizes == (1000,)
    assert read(WithTuple, {"pairs": [[1, 2]]}).pairs == ((1, 2),)
    with pytest.raises(ValueError, match="sizes"):
        read(WithTuple, {"sizes": ["a"]})
