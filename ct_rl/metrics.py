"""Every figure that is reported, in one table: display, curves, TensorBoard, evaluation and docs/metrics.md read it.

A loss or an environment's count that nobody listed has a row by itself (`metric`). The page is written by
`python -m ct_rl.metrics > docs/metrics.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from rich.filesize import decimal

LOSS = "_loss"


def duration(seconds: float) -> str:
    """Seconds as `1h 05m`, `5m 10s` or `10s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        key: in metrics.jsonl, results and evaluations.
        label: in tables; short: in a line, empty where lines leave it out.
        form: a format such as "{:.2f}", or a function from the number to a text.
        panel: of curves.png, empty for none; group: of TensorBoard.
        unit, meaning: for docs/metrics.md.
        shown: whether the display's table has it.
    """

    key: str
    label: str
    short: str
    form: str | Callable[[float], str]
    panel: str
    group: str
    unit: str
    meaning: str
    shown: bool = True

    def text(self, value: float) -> str:
        """A value for a person."""
        return self.form.format(value) if isinstance(self.form, str) else self.form(value)


RETURN, COUNTS, CHOICES = "return per episode", "counts per episode", "share of right choices"
ENTROPY, LOSSES, SPEED = "policy entropy [nats]", "losses", "speed [steps/s]"
PANELS = (RETURN, COUNTS, CHOICES, ENTROPY, LOSSES, SPEED)
EPISODE, LEARNER, RUN, SCORE = "episode", "learner", "run", "score"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _bytes(value: float) -> str:
    return decimal(int(value))


METRICS: tuple[Metric, ...] = (
    Metric("steps", "agent steps", "", "{:,.0f}", "", RUN, "agent steps",
           "Steps that the agent has acted since the run began, resumed parts included.", False),
    Metric("frames", "frames", "", "{:,.0f}", "", RUN, "frames",
           "Steps times the environment's action repeat.", False),
    Metric("seconds", "time", "", duration, "", RUN, "s",
           "Wall time of training, resumed parts included.", False),
    Metric("steps_per_second", "steps/s", "", "{:.0f}", SPEED, RUN, "steps/s",
           "Steps since the last report over the time since then.", False),
    Metric("updates", "updates", "", "{:,.0f}", "", RUN, "count",
           "Batches learned from so far; PPO moves the weights epochs x batch / minibatch times with each.", False),
    Metric("episodes", "episodes", "", "{:,.0f}", "", RUN, "count",
           "Episodes that ended so far; in an evaluation, those that were played.", False),
    Metric("return", "return (mean of 100)", "return", "{:.2f}", RETURN, EPISODE, "reward",
           "Unclipped, undiscounted sum of rewards of an episode: the mean of the last 100 in training."),
    Metric("return_best_mean", "best mean return", "best", "{:.2f}", RETURN, EPISODE, "reward",
           "The highest `return` of a report so far, once 20 episodes have ended."),
    Metric("return_best_episode", "best episode", "", "{:.2f}", "", EPISODE, "reward",
           "The highest return of one episode so far."),
    Metric("human_normalised", "human-normalised", "human", "{:.1f} %", "", EPISODE, "%",
           "100 (return - random) / (human - random), where an environment states both "
           "(IMPALA, arXiv 1802.01561, section 5.3); not capped."),
    Metric("length", "episode length [steps]", "", "{:.0f}", "", EPISODE, "agent steps",
           "Steps of an episode, mean of the last 100."),
    Metric("teleports", "teleports / episode", "teleports", "{:.2f}", COUNTS, EPISODE, "count",
           "How often the room task's pad was reached in an episode, mean of the last 100."),
    Metric("trials", "trials / episode", "trials", "{:.2f}", COUNTS, EPISODE, "count",
           "Trials of the room task that ended with a choice in an episode, mean of the last 100."),
    Metric("correct", "correct / episode", "correct", "{:.2f}", COUNTS, EPISODE, "count",
           "Right choices in an episode, mean of the last 100."),
    Metric("wrong", "wrong / episode", "wrong", "{:.2f}", COUNTS, EPISODE, "count",
           "Wrong choices in an episode, mean of the last 100."),
    Metric("choice_accuracy", "right among choices", "", _percent, CHOICES, EPISODE, "share",
           "correct / (correct + wrong) over the last 100 episodes; absent where no choice was made."),
    Metric("policy_loss", "policy loss", "policy", "{:.4f}", LOSSES, LEARNER, "nats x advantage",
           "The policy's loss: V-trace policy gradient (IMPALA) or a clipped surrogate (APPO, PPO)."),
    Metric("value_loss", "value loss", "value", "{:.4f}", LOSSES, LEARNER, "",
           "Squared error of the value against its targets (PPO), half of it (IMPALA, APPO), or with value_bins the "
           "cross-entropy in nats in its place; before its coefficient."),
    Metric("entropy", "entropy [nats]", "entropy", "{:.3f}", ENTROPY, LEARNER, "nats",
           "Entropy of the policy; the logarithm of the number of actions where it knows nothing."),
    Metric("compression_loss", "compression loss", "compression", "{:.4f}", LOSSES, LEARNER, "",
           "The Compressive Transformer's own loss, which trains its compression alone "
           "(arXiv 1911.05507, section 3.2)."),
    Metric("mean_kl_loss", "KL to the old policy", "", "{:.4f}", "", LEARNER, "nats",
           "Divergence of the policy from the one that acted, where PPO's or APPO's KL term is on."),
    Metric("rho_mean", "V-trace rho (mean)", "rho", "{:.3f}", "", LEARNER, "ratio",
           "Mean probability ratio of the policy that learns to the one that acted; 1 where they agree."),
    Metric("policy_lag", "policy lag [batches]", "lag", "{:.2f}", "", LEARNER, "batches",
           "Batches learned from between the weights that acted and those that learn."),
    Metric("target_mean", "mean value target", "", "{:.3f}", "", LEARNER, "reward",
           "Mean of the value's targets."),
    Metric("grad_norm", "gradient norm", "", "{:.3f}", "", LEARNER, "",
           "Norm of the gradient before it is clipped."),
    Metric("learning_rate", "learning rate", "", "{:.2e}", "", LEARNER, "",
           "The learning rate on its schedule, after a batch."),
    Metric("memory_bytes_per_runner", "memory / runner", "memory", _bytes, "", RUN, "bytes",
           "Bytes of the memories of all environments of one runner."),
    Metric("lost_worlds", "worlds that died", "", "{:.0f}", "", RUN, "count",
           "Worlds that died and were started anew so far; their episodes are in no figure of episodes."),
    Metric("runners_away", "runners away", "", "{:.0f}", "", RUN, "count",
           "Environment runner processes that have died and are not there again."),
    Metric("restarted_runners", "runners started anew", "", "{:.0f}", "", RUN, "count",
           "Times that an environment runner which had died was started anew; what it was playing is in no figure."),
    Metric("mean", "mean return", "", "{:.2f}", "", SCORE, "reward",
           "Mean return of the evaluated episodes.", False),
    Metric("standard_error", "standard error", "", "{:.2f}", "", SCORE, "reward",
           "Standard deviation of the episodes' returns over the square root of their number.", False),
    Metric("median", "median", "", "{:.2f}", "", SCORE, "reward",
           "Median return of the evaluated episodes.", False),
    Metric("best", "best", "", "{:.2f}", "", SCORE, "reward",
           "Highest return of the evaluated episodes.", False),
    Metric("unfinished", "cut at the limit of steps", "", "{:.0f}", "", SCORE, "count",
           "Episodes that --max-steps ended before the environment did; their returns count as they stood.", False),
    Metric("lost", "lost, their worlds died", "", "{:.0f}", "", SCORE, "count",
           "Episodes that a dying world cut short: in no score; others were played for them.", False),
)  # fmt: skip

_LISTED = {metric.key: metric for metric in METRICS}
# Names that reports have for themselves; an environment's count of such a name is reported as episode_NAME.
RESERVED = frozenset(m.key for m in METRICS if m.group != EPISODE) | {
    "return",
    "length",
    "return_best_mean",
    "return_best_episode",
    "human_normalised",
    "choice_accuracy",
}


def metric(key: str, counts: Collection[str] = ()) -> Metric:
    """The row of a key; of one that nobody listed, too.

    Args:
        counts: names of the environment's counts (`EnvFacts.episode_metrics`).
    """
    if key in _LISTED:
        return _LISTED[key]
    if key in counts or key in map(count_key, counts):
        return Metric(key, f"{key.replace('_', ' ')} / episode", key, "{:.2f}", COUNTS, EPISODE,
                      "", "A count of the environment's own.")  # fmt: skip
    label = key.replace("_", " ")
    if key.endswith(LOSS):
        name = key.removesuffix(LOSS)
        return Metric(key, label, name, "{:.4f}", LOSSES, LEARNER, "", f"The loss {name!r}.")
    return Metric(key, label, "", "{:.4g}", "", LEARNER, "", "A figure of the learner's.")


def count_key(name: str) -> str:
    """The key under which an environment's count is reported."""
    return f"episode_{name}" if name in RESERVED else name


def ordered(keys: Iterable[str], counts: Collection[str] = ()) -> list[Metric]:
    """The rows of some keys: the table's in its order, the environment's counts behind the episode's, the rest last."""
    place = {row.key: i for i, row in enumerate(METRICS)}
    last_count = place["wrong"]
    last_loss = place["compression_loss"]

    def position(row: Metric) -> float:
        if row.key in place:
            return place[row.key]
        return {COUNTS: last_count, LOSSES: last_loss}.get(row.panel, len(METRICS)) + 0.5

    return sorted((metric(key, counts) for key in keys), key=position)


_AXIS = "steps"


def scalars(row: Mapping[str, float | None], counts: Collection[str] = ()) -> dict[str, float]:
    """A report's numbers by the names that TensorBoard and trackers show, GROUP/KEY; the steps are their axis."""
    return {
        f"{metric(key, counts).group}/{key}": float(value)
        for key, value in row.items()
        if key != _AXIS and value is not None
    }


def evaluated(row: Metric) -> Metric:
    """The row as an evaluation's table says it: `return (mean of 100)` is training's."""
    return replace(row, label=row.label.removesuffix(" (mean of 100)"))


def page() -> str:
    """docs/metrics.md."""
    training, evaluation = "", ""
    for row in METRICS:
        cells = [f"`{row.key}`", row.meaning, row.unit or "-"]
        if row.group == SCORE:
            evaluation += f"| {' | '.join(cells)} |\n"
            continue
        cells += ["the axis" if row.key == _AXIS else f"{row.group}/{row.key}", row.panel or "-"]
        training += f"| {' | '.join(cells)} |\n"
    return f"{_HEAD}{training}{_BESIDE}{evaluation}{_TAIL}"


_HEAD = """\
# What the figures mean

Every few seconds a run reports: on the screen, as a line of `metrics.jsonl` under the keys below, in TensorBoard
(`tensorboard --logdir runs`) and in `curves.png`. A report leaves out what has no value yet.

## In training

| key | means | unit | TensorBoard | panel of curves.png |
|---|---|---|---|---|
"""
_BESIDE = """
Beside these, by themselves:

- `NAME_loss`: every further loss, of a memory's own or an auxiliary one, before its coefficient
  (`--training.loss-coeffs`); in TensorBoard under `learner/`, in `curves.png` among the losses.
- Every count that an environment names in `metadata["episode_metrics"]` and gives in `info`: the mean over those
  of the last 100 episodes that gave it; under `episode/`, among the counts per episode. One whose name is a key
  of this page is reported as `episode_NAME`.
- Every other figure of the learner, under `learner/`.

Losses and the learner's other figures are of each batch's last minibatch, and the mean where several batches were
learned from in the last second before a report; episode figures are means over the last 100 episodes that ended.
What is not finite becomes `null` in `metrics.jsonl`.

## In an evaluation

`python -m ct_rl.evaluate` prints these for each way of acting, and writes them to `evaluations/*.json`; means like
`length` and `choice_accuracy` are there, too, over the episodes that were evaluated.

| key | means | unit |
|---|---|---|
"""
_TAIL = """
## Elsewhere, too

`--track wandb` or `--track trackio` sends each report there too, under TensorBoard's names, at the agent's steps.
Every start of a run is one of theirs, in project `ct_rl` and in a group of the run folder's name.
`WANDB_MODE=offline` keeps wandb on this machine.

This page is written by `python -m ct_rl.metrics > docs/metrics.md` from the table in `ct_rl/metrics.py`, which
whatever shows a figure reads.
"""


if __name__ == "__main__":
    print(page(), end="")
