"""Recipes and flags: complete round trip, precedence, mistakes named."""

from dataclasses import replace

import pytest
import yaml

from ct_rl import command_line, config_file
from ct_rl.config import MemoryConfig, RunConfig, TrainConfig, TrainingConfig, check
from ct_rl.errors import UserError
from ct_rl.train import Arguments, _new_config


def test_a_written_configuration_reads_back_equal():
    config = TrainConfig(
        memory=MemoryConfig(kind="lstm", rate=2, compression="max"),
        training=TrainingConfig(lr=[[0.0, 1e-3], [1e6, 0.0]], entropy_coeff=3e-5, minibatch=7),
        run=RunConfig(minutes=1.5, seed=11),
    )
    config.env.options = {"spawn": [-110.0, -110.0], "objects": 6}
    text = config_file.dump(config, {"torch": "2.13.0"})
    assert config_file.parse(text, "x") == config
    assert yaml.safe_load(text)["provenance"] == {"torch": "2.13.0"}


@pytest.mark.parametrize("name", config_file.recipe_names())
def test_every_shipped_recipe_is_valid(name):
    config, where = config_file.read_recipe(name)
    check(config)
    assert where == f"configs/{name}.yaml"


def test_the_papers_recipe_has_the_papers_numbers():
    config, _ = config_file.read_recipe("rooms_select_paper")
    memory, training = config.memory, config.training
    assert (memory.memory, memory.compressed, memory.rate) == (64, 64, 4)
    assert (training.lr, training.entropy_coeff) == (1.5e-5, 2e-3)
    assert config.env.options == {}


def test_flags_stand_above_the_recipe_and_the_recipe_above_the_defaults(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("memory: {rate: 2, window: 8}\nenv: {options: {objects: 6, seconds: 3}}\n")
    config, _ = _new_config(
        ["--config", str(recipe), "--rate", "8", "--env-option", "objects=2", "--lr", "0:1e-3,9:0"]
    )
    assert config.memory.rate == 8  # flag
    assert config.memory.window == 8  # recipe
    assert config.memory.n_heads == MemoryConfig().n_heads  # default
    assert config.env.options == {"objects": 2, "seconds": 3}
    assert config.training.lr == [[0.0, 1e-3], [9.0, 0.0]]


def test_another_environment_does_not_take_the_recipes_settings():
    config, recipe = _new_config(["--env", "CartPole-v1"])
    assert (config.env.name, config.env.options, recipe) == ("CartPole-v1", {}, None)


def test_every_field_has_a_flag_with_help_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Arguments, ["--help"], prog="ct_rl.train", default=Arguments())
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in (
        "--env",
        "--rate",
        "--memory",
        "--steps",
        "--seed",
        "--config",
        "--run-dir",
        "--resume",
    ):
        assert f"{flag} " in shown
    for section in ("memory", "run"):
        for name in config_file.to_plain(getattr(TrainConfig(), section)):
            assert name.replace("_", "-") in shown or name == "kind"
    assert shown.count("(default:") >= 40
    assert "[agent steps" in shown and "[seconds]" in shown


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("memry: {}", "'memry', did you mean 'memory'"),
        ("memory: {rte: 3}", "'memory.rte', did you mean 'rate'"),
        ("memory: {rate: many}", "memory.rate: expected a number, not 'many'"),
        ("memory: {rate: 1.5}", "memory.rate: expected a whole number, not 1.5"),
        ("training: {lr: [[0]]}", "training.lr: expected a number or [[step, value], ...]"),
        ("run: {device: gpu}", "run.device: expected one of auto, cpu, cuda, not 'gpu'"),
        ("network: {around: 1}", "network.around: expected true or false, not 1"),
        ("env: {options: 3}", "env.options: expected `name: value` lines"),
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


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert config_file.parse("training: {lr: 3e-4}\nrun: {steps: 1e6}", "x").training.lr == 3e-4


@pytest.mark.parametrize(
    "bad",
    [
        TrainConfig(training=TrainingConfig(lr=[[5, 1e-3]])),
        TrainConfig(training=TrainingConfig(lr=[[0, 1e-3], [0, 1e-4]])),
        TrainConfig(training=TrainingConfig(lr=float("nan"))),
        TrainConfig(training=TrainingConfig(gamma=1.5)),
        TrainConfig(training=TrainingConfig(grad_clip=float("inf"))),
        TrainConfig(run=RunConfig(minutes=0)),
        TrainConfig(run=replace(RunConfig(), seed=-1)),
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match=r"^--\w"):
        check(bad)
