"""CRC-32C of ranges on the device: those of a bytewise table and of google_crc32c."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels import checksum_twin
from iopipe.kernels.checksum import KERNEL, crc32c, problem_of
from iopipe.kernels.crc_field import power_of_x, product, times_x
from iopipe.kernels.tuning import Config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Config(blocks={"LANES": 32, "PARTS": 2}, num_warps=1)


def _bytes(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8))


def _vectors(ranges: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(ranges, dtype=torch.int64, device=DEVICE).reshape(-1, 2)
    return table[:, 0].contiguous(), table[:, 1].contiguous()


def _table() -> list[int]:
    entries = list(range(256))
    for _ in range(8):
        entries = [entry >> 1 ^ 0x82F63B78 * (entry & 1) for entry in entries]
    return entries


_TABLE = _table()


def _bytewise(content: bytes, register: int = 0xFFFFFFFF) -> int:
    for byte in content:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 255]
    return register ^ 0xFFFFFFFF


def _expected(data: torch.Tensor, ranges: list[tuple[int, int]]) -> list[int]:
    content = data.numpy().tobytes()
    return [_bytewise(content[start : start + size]) for start, size in ranges]


def test_the_reference_is_that_of_google() -> None:
    google_crc32c = pytest.importorskip("google_crc32c")
    content = _bytes(5000).numpy().tobytes()
    for size in (0, 1, 2, 3, 63, 4096, 5000):
        assert _bytewise(content[:size]) == google_crc32c.value(content[:size])


def test_the_check_value_of_the_catalogue() -> None:
    data = torch.frombuffer(bytearray(b"123456789"), dtype=torch.uint8).to(DEVICE)
    assert crc32c(data, *_vectors([(0, 9)])).tolist() == [0xE3069283]


def test_the_field_is_that_of_the_polynomial() -> None:
    one = 0x80000000
    assert power_of_x(0) == power_of_x(2**31 - 1) == one
    assert power_of_x(32) == 0x82F63B78
    assert product(power_of_x(1000), power_of_x(-1000)) == one
    assert product(power_of_x(77), times_x(one)) == power_of_x(78)
    # The rows of the shift register: P(x**(2**k)) is 0 for every k.
    for k in (10, 12):
        total = power_of_x(32 << k)
        for bit in range(32):
            total ^= power_of_x(bit << k) if 0x1EDC6F41 >> bit & 1 else 0
        assert total == 0


def test_any_start_and_length() -> None:
    """Ends within a word, a row of lanes, a block of 32 rows, and around each."""
    data = _bytes(14_000)
    ranges = [(0, 0), (1, 1), (2, 3), (3, 9), (6, 2), (5, 126), (4, 128), (7, 4095)]
    ranges += [(0, 4096), (1, 4097), (13, 12_289), (0, 14_000), (13_999, 1), (14_000, 0)]
    config = Config(blocks={"LANES": 32, "PARTS": 4}, num_warps=1)
    got = crc32c(data.to(DEVICE), *_vectors(ranges), config=config)
    assert got.tolist() == _expected(data, ranges)
    twin = checksum_twin.crc32c(data, *(v.cpu() for v in _vectors(ranges)))
    assert twin.tolist() == _expected(data, ranges)


@settings(max_examples=5, deadline=None)
@given(data=st.data(), size=st.integers(0, 9000), skipped=st.integers(0, 5))
def test_any_ranges_of_a_buffer_that_begins_anywhere(
    data: st.DataObject, size: int, skipped: int
) -> None:
    content = _bytes(size + skipped)[skipped:]
    starts = data.draw(st.lists(st.integers(0, size), min_size=1, max_size=4))
    ranges = [(start, data.draw(st.integers(0, size - start))) for start in starts]
    device = _bytes(size + skipped).to(DEVICE)[skipped:]
    got = crc32c(device, *_vectors(ranges), config=SMALL, max_programs=3)
    assert got.tolist() == _expected(content, ranges)


def test_every_configuration_and_budget_gives_the_same_bits() -> None:
    data, ranges = _bytes(9000), [(3, 8990), (100, 50)]
    vectors = _vectors(ranges)
    problem = problem_of(data, vectors[0])
    configs = list(KERNEL.candidates(problem))
    assert KERNEL.heuristic(problem) in configs
    if DEVICE == "cpu":  # each takes seconds in the interpreter
        configs = [c for c in configs if c.blocks in ({"LANES": 64, "PARTS": 4}, SMALL.blocks)]
    for config in configs:
        got = crc32c(data.to(DEVICE), *vectors, config=config, max_programs=1)
        assert got.tolist() == _expected(data, ranges)


def test_a_range_outside_the_buffer_is_named_and_not_read() -> None:
    data = _bytes(300)
    ranges = [(0, 301), (-4, 8), (299, 2), (2**62, 2**62), (10, -1), (2**40, 1), (0, 300)]
    out = torch.full((len(ranges) + 8,), -77, device=DEVICE)
    written = out[4:-4]
    answer = crc32c(data.to(DEVICE), *_vectors(ranges), config=SMALL, out=written)
    assert answer is written
    assert answer.tolist() == [-1] * 6 + _expected(data, ranges[-1:])
    assert (out[:4] == -77).all() and (out[-4:] == -77).all()
    twin = checksum_twin.crc32c(data, *(v.cpu() for v in _vectors(ranges)))
    assert twin.tolist() == answer.tolist()


def test_no_ranges_and_no_bytes() -> None:
    nothing = torch.empty(0, dtype=torch.uint8, device=DEVICE)
    assert crc32c(nothing, *_vectors([])).tolist() == []
    assert crc32c(nothing, *_vectors([(0, 0), (0, 1)]), config=SMALL).tolist() == [0, -1]


def test_illegal_arguments_are_refused() -> None:
    data, (offsets, lengths) = _bytes(10).to(DEVICE), _vectors([(0, 1), (1, 1)])
    with pytest.raises(PipelineError, match="uint8"):
        crc32c(data.int(), offsets, lengths)
    with pytest.raises(PipelineError, match="int64"):
        crc32c(data, offsets.int(), lengths)
    with pytest.raises(PipelineError, match="shape"):
        crc32c(data, offsets, lengths[:1])
    with pytest.raises(PipelineError, match="contiguous"):
        crc32c(data, offsets.repeat(2)[::2], lengths.repeat(2)[::2])
    with pytest.raises(PipelineError, match="max_programs"):
        crc32c(data, offsets, lengths, max_programs=0)


def test_the_registered_op_tells_what_it_does() -> None:
    data, (offsets, lengths) = _bytes(64).to(DEVICE), _vectors([(0, 64)])
    out = torch.empty(1, dtype=torch.int64, device=DEVICE)
    checks = ("test_schema", "test_faketensor") if DEVICE == "cpu" else None
    options = {} if checks is None else {"test_utils": checks}
    op = torch.ops.iopipe.crc32c.default
    torch.library.opcheck(op, (data, offsets, lengths, out, [32, 2, 1, 1], None), **options)


@pytest.mark.gpu
def test_compiled_and_captured() -> None:
    data, ranges = _bytes(200_000), [(5, 150_001), (3, 199_990), (0, 100)]
    device, vectors = data.cuda(), _vectors(ranges)
    expected = _expected(data, ranges)
    assert torch.compile(crc32c)(device, *vectors).tolist() == expected
    out = torch.zeros(len(ranges), dtype=torch.int64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        crc32c(device, *vectors, out=out)
    graph.replay()
    assert out.tolist() == expected


@pytest.mark.gpu
def test_offsets_beyond_two_to_the_31_and_ranges_as_long() -> None:
    size = 2**32 + 12_345
    data = torch.zeros(size, dtype=torch.uint8, device="cuda")
    tail = _bytes(5000)
    data[-5000:] = tail.cuda()
    content = tail.numpy().tobytes()
    # A register of ones after all those zeros, then byte by byte.
    register = product(0xFFFFFFFF, power_of_x(8 * (size - 5000)))
    got = crc32c(data, *_vectors([(size - 4001, 4001), (0, size)]))
    assert got.tolist() == [_bytewise(content[-4001:]), _bytewise(content, register)]
