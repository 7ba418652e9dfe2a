"""The policy against simulated pipelines whose optimum is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from fakes.tunable import Machine, Stage
from hypothesis import given
from hypothesis import strategies as st

from iopipe.autotune.budget import Budget
from iopipe.autotune.measurement import Measurement, relative_error
from iopipe.autotune.policy import Decision, Policy
from iopipe.autotune.setting import Knob

NOTHING: Mapping[str, int] = {}
MACHINES: dict[str, Callable[[], Machine]] = {
    "decode on two cores": lambda: Machine(
        {"read.threads": Stage(0.004, 0.1), "decode.threads": Stage(0.050)}
    ),
    "storage that answers late": lambda: Machine({"read.threads": Stage(0.400, 0.01)}),
    "two stages that are equally slow": lambda: Machine(
        {"read.threads": Stage(0.080, 0.05), "map.threads": Stage(0.080, 0.05)}
    ),
    "three in a row": lambda: Machine(
        {
            "read.threads": Stage(0.090, 0.02),
            "decode.threads": Stage(0.012),
            "map.threads": Stage(0.044, 0.1),
        },
        step=0.004,
    ),
    "bursts": lambda: Machine({"read.threads": Stage(0.008, 0.1)}, burst=0.010),
    "small reads": lambda: Machine({"read.threads": Stage(0.010, 1.0)}, latency=0.060, step=0.005),
    "threads in each other's way": lambda: Machine(
        {"decode.threads": Stage(0.050, 0.6, contention=0.9)}
    ),
    "a slow step": lambda: Machine({"decode.threads": Stage(0.010)}, step=0.030),
}


def _policy(machine: Machine, budget: Budget | None = None) -> Policy:
    return Policy(
        machine.knobs(),
        machine.worst(),
        budget=budget or Budget(cores=machine.cores),
        needs=lambda values: NOTHING,
    )


def _observe(policy: Policy, machine: Machine, num_windows: int) -> list[Decision]:
    found: list[Decision] = []
    for _ in range(num_windows):
        found += policy.observe(machine.measure(policy.values))
    return found


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("noise", [0.0, 0.04])
def test_from_the_worst_start_it_comes_near_the_best(name: str, noise: float) -> None:
    for seed in range(1 if not noise else 10):
        machine = MACHINES[name]()
        machine.noise, machine.seed = noise, seed
        machine.__post_init__()
        policy = _policy(machine)
        _observe(policy, machine, 25)  # with 8 steps each: 200
        assert machine.best() >= (0.95 if not noise else 0.90) * machine.seconds(policy.kept)


def test_where_the_step_is_slow_nothing_is_tried() -> None:
    machine = MACHINES["a slow step"]()
    policy = _policy(machine)
    decisions = _observe(policy, machine, 50)
    assert [one.what for one in decisions] == ["settle"]
    assert policy.values == machine.worst()


@pytest.mark.parametrize("name", MACHINES)
def test_under_a_constant_load_it_ends_and_stays(name: str) -> None:
    machine = MACHINES[name]()
    machine.noise = 0.05
    policy = _policy(machine)
    _observe(policy, machine, 100)
    assert policy.is_settled
    values = dict(policy.values)
    assert not _observe(policy, machine, 500)
    assert policy.values == values


def test_a_refused_move_is_not_made_again_until_the_load_changes() -> None:
    machine = MACHINES["decode on two cores"]()
    policy = _policy(machine)
    decisions = _observe(policy, machine, 200)
    tried = [one.change for one in decisions if one.what == "try"]
    undone = {one.change for one in decisions if one.what == "undo"}
    assert len(tried) == len(set(tried))
    assert undone
    machine.stages["decode.threads"].on_core = 0.2  # from now on it waits most of the time
    machine.stages["decode.threads"].seconds = 0.2
    decisions = _observe(policy, machine, 40)
    assert decisions[0].what == "climb"
    assert "the load has changed" in decisions[0].evidence
    assert machine.best() >= 0.9 * machine.seconds(policy.kept)


def test_what_was_undone_while_others_used_the_machine_is_tried_once_more() -> None:
    machine = MACHINES["decode on two cores"]()
    policy = _policy(machine)
    first, *_ = _observe(policy, machine, 1)
    machine.stages["decode.threads"].seconds *= 3  # for a while
    decisions = _observe(policy, machine, 2)
    assert decisions[0].what == "undo"
    assert decisions[1].change == first.change
    machine.stages["decode.threads"].seconds /= 3
    _observe(policy, machine, 60)
    assert machine.best() == pytest.approx(machine.seconds(policy.kept))


def test_every_decision_says_what_it_was_made_from() -> None:
    machine = MACHINES["decode on two cores"]()
    first, *_ = _observe(_policy(machine), machine, 1)
    assert str(first) == (
        "try decode.threads 1 -> 2: starved 80 % (decode 80 %); busy 100 % for decode.threads"
    )


def test_a_lighter_load_moves_nothing() -> None:
    machine = MACHINES["decode on two cores"]()
    policy = _policy(machine)
    _observe(policy, machine, 60)
    values = dict(policy.values)
    machine.step = 0.1
    assert not _observe(policy, machine, 60)
    assert policy.values == values


def test_a_load_that_swings_does_not_make_it_swing() -> None:
    """Where climbing changes nothing, it is done more and more seldom."""
    machine = MACHINES["decode on two cores"]()
    policy = _policy(machine)
    _observe(policy, machine, 60)
    decisions = []
    for _ in range(40):
        machine.step = 0.060
        decisions += _observe(policy, machine, 12)
        machine.step = 0.010
        decisions += _observe(policy, machine, 12)
    assert sum(one.what == "climb" for one in decisions) <= 8


def test_bursts_that_a_window_missed_are_noticed_later() -> None:
    """One window in three starves; the first that were seen did not."""
    machine = MACHINES["a slow step"]()
    fed = machine.measure(machine.worst())
    starved = replace(fed, rate=0.85 * fed.rate, starved=0.15, causes={"decode": 0.15})
    policy = _policy(machine)
    settled = [one.what for _ in range(3) for one in policy.observe(fed)]
    assert settled == ["settle"]
    decisions: list[Decision] = []
    for number in range(12):
        decisions += policy.observe(starved if number % 3 == 2 else fed)
    assert decisions[0].what == "climb"
    assert "starved 0 % before" in decisions[0].evidence
    assert decisions[1].what == "try"


def test_one_window_that_seems_fed_settles_nothing() -> None:
    machine = MACHINES["a slow step"]()
    fed = machine.measure(machine.worst())
    starved = replace(fed, rate=0.85 * fed.rate, starved=0.15, causes={"decode": 0.15})
    policy = _policy(machine)
    assert policy.observe(fed) == policy.observe(fed) == []
    (decision,) = policy.observe(starved)
    assert decision.what == "try" and "starved 5 % (decode 15 %)" in decision.evidence


def test_what_starts_beyond_its_range_holds_up_no_other() -> None:
    machine = MACHINES["decode on two cores"]()
    knobs = [Knob(name="workers", kind="processes", most=4), *machine.knobs()]
    start = {"workers": 8, **machine.worst()}
    policy = Policy(knobs, start, budget=Budget(cores=2), needs=lambda values: NOTHING)
    _observe(policy, machine, 25)
    assert policy.kept == {**policy.kept, "workers": 8, "decode.threads": 2}
    budget, measured = Budget(cores=16), machine.measure(machine.worst())
    for value, is_refused in ((9, True), (8, False), (6, False), (3, False), (0, True)):
        said = budget.refusal(
            {"workers": knobs[0]}, {"workers": value}, {"workers": 8}, measured=measured, needed={}
        )
        assert bool(said) is is_refused, value


@given(
    seed=st.integers(0, 2**32), limit=st.integers(1, 300), cores=st.sampled_from([1.0, 1.5, 7.5])
)
def test_whatever_is_measured_the_budget_holds(seed: int, limit: int, cores: float) -> None:
    draws = random.Random(seed)
    machine = MACHINES["three in a row"]()

    def needs(values: Mapping[str, int]) -> dict[str, int]:
        return {"memory": sum(values.values())}

    budget = Budget(cores=cores, resources={"memory": limit})
    policy = Policy(machine.knobs(), machine.worst(), budget=budget, needs=needs)
    for _ in range(60):
        measured = Measurement(
            num_steps=8,
            rate=10 ** draws.uniform(-1, 3),
            error=draws.random(),
            starved=draws.random(),
            causes={"storage": draws.random()},
            busy={name: draws.random() for name in machine.stages},
            on_core={name: draws.random() for name in machine.stages},
            cores=draws.uniform(0, cores),
        )
        before = dict(policy.values)
        policy.observe(measured)
        grew = [name for name, value in policy.values.items() if value > before[name]]
        assert all(value >= 1 for value in policy.values.values())
        assert policy.values == before or needs(policy.values)["memory"] <= max(limit, 4)
        assert all(policy.values[knob.name] <= knob.most for knob in machine.knobs())
        if grew and policy.values != policy.kept:
            judged_by = policy._base
            assert judged_by is not None
            for name in set(grew) & set(machine.stages):
                if policy.values[name] <= policy.kept[name]:
                    continue
                on_core = max(0.02, judged_by.on_core[name])
                assert policy.values[name] * on_core <= max(1, -(-cores // 1))


def test_steps_that_differ_make_a_mean_that_is_less_sure() -> None:
    assert relative_error([1.0, 1.0, 1.0]) == 0
    assert relative_error([0.0, 2.0] * 8) == pytest.approx(1.0328 / 4, rel=1e-3)
    both = Measurement(num_steps=8, rate=100, error=0.06, starved=0.4).and_then(
        Measurement(num_steps=8, rate=50, error=0.08, starved=0.2)
    )
    assert both.rate == pytest.approx(16 / (8 / 100 + 8 / 50))
    assert both.error == pytest.approx(0.05)
    assert both.starved == pytest.approx(0.3)
