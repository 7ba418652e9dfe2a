"""Plans: disjoint between ranks, near the GPU, within mask and quota, and said in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iopipe
from iopipe.topology import Binding, Gpu, Limits, Node, Topology, plan_binding

_CORES_OF_NODE = 4


def _machine(
    num_nodes: int = 2,
    *,
    gpu_nodes: tuple[int | None, ...] = (0, 1),
    threads: int = 2,
    allowed: tuple[int, ...] | None = None,
    quota: float | None = None,
    isolated: tuple[int, ...] = (),
    without_cpus: tuple[int, ...] = (),
) -> Topology:
    """Four cores a node, siblings far apart as x86 numbers them; distances grow with the index."""
    num_cores = _CORES_OF_NODE * num_nodes
    cores = tuple(
        tuple(core + num_cores * thread for thread in range(threads)) for core in range(num_cores)
    )
    nodes = []
    for index in range(num_nodes):
        own = cores[_CORES_OF_NODE * index : _CORES_OF_NODE * (index + 1)]
        cpus = () if index in without_cpus else tuple(sorted(cpu for core in own for cpu in core))
        distances = {other: 10 + 10 * abs(other - index) for other in range(num_nodes)}
        nodes.append(Node(index=index, cpus=cpus, memory_bytes=1 << 30, distances=distances))
    every = tuple(sorted(cpu for node in nodes for cpu in node.cpus))
    limits = Limits(
        cpus=every if allowed is None else allowed,
        memory_nodes=tuple(range(num_nodes)),
        quota_cpus=quota,
        memory_bytes=None,
    )
    gpus = tuple(
        Gpu(address=f"0000:{place:02x}:00.0", node=node, name="")
        for place, node in enumerate(gpu_nodes)
    )
    return Topology(
        nodes=tuple(nodes),
        cores=tuple(core for core in cores if set(core) <= set(every)),
        isolated=isolated,
        gpus=gpus,
        disks=(),
        nics=(),
        limits=limits,
    )


def _said(binding: Binding) -> str:
    return "; ".join(binding.reasons)


def test_a_rank_takes_its_gpu_s_node_whole() -> None:
    machine = _machine()
    found = [
        plan_binding(machine, gpu=rank, local_rank=rank, local_world=2, gpu_of_rank=[0, 1])
        for rank in range(2)
    ]
    assert [(one.node, one.memory_node) for one in found] == [(0, 0), (1, 1)]
    assert found[0].cpus == (0, 1, 2, 3, 8, 9, 10, 11)
    assert found[1].cpus == (4, 5, 6, 7, 12, 13, 14, 15)
    assert "GPU 0000:01:00.0 is on node 1" in _said(found[1])


def test_two_ranks_of_a_node_get_whole_cores_and_never_siblings_of_one() -> None:
    machine = _machine(gpu_nodes=(0, 0))
    found = [
        plan_binding(machine, gpu=rank, local_rank=rank, local_world=2, gpu_of_rank=[0, 1])
        for rank in range(2)
    ]
    assert [one.cpus for one in found] == [(0, 1, 8, 9), (2, 3, 10, 11)]


def test_without_the_others_gpus_every_node_is_divided_by_the_world() -> None:
    found = plan_binding(_machine(), gpu=1, local_rank=1, local_world=2)
    assert (found.node, found.cpus) == (1, (6, 7, 14, 15))


def test_a_gpu_may_be_named_by_its_address() -> None:
    assert plan_binding(_machine(), gpu="0000:01:00.0").node == 1
    with pytest.raises(iopipe.PipelineError, match=r"no GPU 2: give 0 to 1 or an address"):
        plan_binding(_machine(), gpu=2)
    with pytest.raises(iopipe.PipelineError, match="this machine has none; give gpu=None"):
        plan_binding(_machine(gpu_nodes=()), gpu=0)


def test_an_unknown_node_binds_no_memory_and_says_so() -> None:
    found = plan_binding(_machine(gpu_nodes=(None, 1)), gpu=0)
    assert (found.node, found.memory_node) == (None, None)
    assert set(found.cpus) == set(range(16))
    assert "not known (-1): do not bind memory" in _said(found)


def test_a_single_node_binds_no_memory_and_says_so() -> None:
    found = plan_binding(_machine(1, gpu_nodes=(0,)), gpu=0)
    assert found.memory_node is None
    assert "a single node: nothing to bind memory to" in _said(found)


def test_a_gpu_on_a_node_without_cpus_takes_the_nearest_that_has_some() -> None:
    found = plan_binding(_machine(4, gpu_nodes=(3,), without_cpus=(3,)), gpu=0)
    assert (found.node, found.memory_node) == (2, 2)
    assert "on node 3, but it has no CPUs: node 2 is the nearest" in _said(found)


def test_a_cpuset_without_the_gpu_s_cpus_takes_the_nearest_node_left() -> None:
    found = plan_binding(_machine(allowed=(0, 1, 8)), gpu=1)
    assert (found.node, found.cpus) == (0, (0, 1, 8))
    assert "the cpuset or mask leaves none of its CPUs" in _said(found)


def test_a_cpuset_without_the_node_s_memory_binds_none() -> None:
    machine = _machine()
    limits = replace(machine.limits, memory_nodes=(0,))
    found = plan_binding(replace(machine, limits=limits), gpu=1)
    assert (found.node, found.memory_node) == (1, None)
    assert "the cpuset forbids memory of node 1" in _said(found)


def test_a_node_without_memory_binds_none() -> None:
    machine = _machine()
    nodes = (machine.nodes[0], replace(machine.nodes[1], memory_bytes=0))
    found = plan_binding(replace(machine, nodes=nodes), gpu=1)
    assert found.memory_node is None
    assert "node 1 has no memory" in _said(found)


def test_a_quota_takes_first_threads_before_siblings() -> None:
    found = plan_binding(_machine(quota=3.5), gpu=0)
    assert found.cpus == (0, 1, 2)
    assert "the quota of 3.5 CPUs leaves 3 of 8 CPUs" in _said(found)
    shared = plan_binding(_machine(quota=3.5), gpu=0, local_rank=1, local_world=2)
    assert len(shared.cpus) == 1
    tiny = plan_binding(_machine(quota=0.5), gpu=0)
    assert tiny.cpus == (0,)


def test_workers_have_cores_of_their_own_and_leave_the_first() -> None:
    found = plan_binding(_machine(), gpu=0, num_workers=3)
    assert found.worker_cpus == ((1, 9), (2, 10), (3, 11))
    two = plan_binding(_machine(), gpu=0, num_workers=2)
    assert two.worker_cpus == ((1, 3, 9, 11), (2, 10))


def test_more_workers_than_cores_take_cpus_in_turn() -> None:
    found = plan_binding(_machine(), gpu=0, num_workers=7)
    assert found.worker_cpus == ((1,), (2,), (3,), (9,), (10,), (11,), (1,))


def test_isolated_cpus_are_pinned_one_to_one() -> None:
    found = plan_binding(_machine(isolated=(2, 3)), gpu=0, num_workers=3)
    assert found.worker_cpus == ((1,), (2,), (3,))
    assert "isolated CPUs are not balanced" in _said(found)


def test_more_ranks_than_cores_split_siblings_and_more_than_cpus_share() -> None:
    machine = _machine(1, gpu_nodes=(0,))
    six = [plan_binding(machine, gpu=0, local_rank=r, local_world=6).cpus for r in range(6)]
    assert Counter(cpu for cpus in six for cpu in cpus) == Counter(range(8))
    twelve = [plan_binding(machine, gpu=0, local_rank=r, local_world=12) for r in range(12)]
    assert Counter(one.cpus[0] for one in twelve).most_common(1)[0][1] == 2
    assert all("fewer CPUs (8) than ranks" in _said(one) for one in twelve)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_rank": 2, "local_world": 2}, "local_rank 2 is not within local_world 2"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"gpu_of_rank": [0, 1]}, "names 2 GPUs: give one for each of 1 ranks"),
        ({"gpu_of_rank": [1]}, "gpu is 0, but gpu_of_rank gives 1 to rank 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(iopipe.PipelineError, match=message):
        plan_binding(_machine(), gpu=0, **options)  # type: ignore[arg-type]


def test_no_cpu_is_an_error() -> None:
    with pytest.raises(iopipe.PipelineError, match="no CPU may be used"):
        plan_binding(_machine(allowed=()), gpu=0)


_NODE = st.one_of(st.none(), st.integers(0, 3))


@given(
    gpu_nodes=st.lists(_NODE, min_size=1, max_size=8).map(tuple),
    allowed=st.sets(st.integers(0, 31), min_size=8),
    threads=st.sampled_from([1, 2]),
    knows=st.booleans(),
)
def test_ranks_are_disjoint_and_stay_within_the_mask(
    gpu_nodes: tuple[int | None, ...], allowed: set[int], threads: int, knows: bool
) -> None:
    """Checked CPU by CPU; where a plan says that there are too few, one may be in two."""
    machine = _machine(4, gpu_nodes=gpu_nodes, threads=threads)
    usable = tuple(sorted(allowed & set(machine.limits.cpus))) or (0,)
    machine = replace(machine, limits=replace(machine.limits, cpus=usable))
    world = len(gpu_nodes)
    plans = [
        plan_binding(
            machine,
            gpu=rank,
            local_rank=rank,
            local_world=world,
            num_workers=3,
            gpu_of_rank=list(range(world)) if knows else None,
        )
        for rank in range(world)
    ]
    counts = Counter(cpu for plan in plans for cpu in plan.cpus)
    assert all(plan.cpus for plan in plans)
    assert set(counts) <= set(usable)
    assert max(counts.values()) == 1 or any("some are shared" in _said(plan) for plan in plans)
    for plan in plans:
        assert all(set(cpus) <= set(plan.cpus) and cpus for cpus in plan.worker_cpus)


def test_nodes_whose_cpus_are_not_shown_are_not_bound() -> None:
    """As where a container shows the nodes, and not what is on them."""
    topology = _machine()
    blind = replace(topology, nodes=tuple(replace(node, cpus=()) for node in topology.nodes))
    binding = plan_binding(blind, gpu=0, local_rank=1, local_world=2)
    assert binding.node is None and binding.memory_node is None and binding.cpus
    assert "it is not known on which nodes" in " ".join(binding.reasons)
