"""Packing: every token has one place, whoever packs and wherever a run begins again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import iopipe
from iopipe import OpenOptions, Pipeline, PipelineError, StateError
from iopipe.order import Cursor, FullShuffle, Order, Tail
from iopipe.packing import (
    Groups,
    Method,
    PackedPlan,
    Packing,
    Pieces,
    pack_group,
    packed_id,
    padding_share,
    unpacked_id,
)
from iopipe.readers.packed import IGNORED

METHODS: list[Method] = ["concat", "best_fit"]
LENGTHS = st.lists(st.integers(0, 60), max_size=40).map(lambda lengths: np.array(lengths, np.int64))


def covered(pieces: Pieces, lengths: np.ndarray) -> None:
    """Each token once, no two in one place, none outside of its sequence."""
    seen = [np.zeros(length, int) for length in lengths]
    for document, start, length in zip(pieces.document, pieces.start, pieces.length, strict=True):
        assert length > 0
        seen[document][start : start + length] += 1
    assert all((counts == 1).all() for counts in seen)


def test_worked_example() -> None:
    """Lengths 5, 12, 3 into sequences of 8."""
    packing = Packing(sequence_length=8, method="best_fit", look_ahead=3)
    pieces = pack_group(np.array([5, 12, 3]), packing)
    # The first 8 of the second document fill a sequence; 5 and 3 make one, 4 are left.
    placed = sorted(
        zip(
            pieces.sequence.tolist(),
            pieces.column.tolist(),
            pieces.document.tolist(),
            pieces.start.tolist(),
            pieces.length.tolist(),
            strict=True,
        )
    )
    assert placed == [(0, 0, 1, 0, 8), (1, 0, 0, 0, 5), (1, 5, 2, 0, 3), (2, 0, 1, 8, 4)]
    pieces = pack_group(np.array([5, 12, 3]), Packing(sequence_length=8, method="concat"))
    assert pieces.document.tolist() == [0, 1, 1, 1, 2]
    assert pieces.length.tolist() == [5, 3, 8, 1, 3]
    assert pieces.sequence.tolist() == [0, 0, 1, 2, 2]


@given(lengths=LENGTHS, size=st.integers(1, 40), method=st.sampled_from(METHODS))
def test_every_token_has_one_place(lengths: np.ndarray, size: int, method: Method) -> None:
    pieces = pack_group(lengths, Packing(sequence_length=size, method=method))
    covered(pieces, lengths)
    ends = [0] * pieces.num_sequences
    for number in range(pieces.num_sequences):
        here = pieces.of(number)
        for column, length in zip(pieces.column[here], pieces.length[here], strict=True):
            assert column == ends[number]
            ends[number] += int(length)
    assert all(0 < end <= size for end in ends)
    if method == "concat":
        assert pieces.num_sequences == -(-int(lengths.sum()) // size)
        assert all(end == size for end in ends[:-1])


def naive_best_fit(lengths: np.ndarray, size: int) -> int:
    """Best-fit decreasing over a list of bins: how many it opens."""
    whole = sum(int(length) // size for length in lengths)
    rooms: list[int] = []
    for length in sorted((int(length) % size for length in lengths), reverse=True):
        if not length:
            continue
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(size - length)
    return whole + len(rooms)


def naive_first_fit(lengths: np.ndarray, size: int) -> int:
    rooms: list[int] = []
    for length in (int(length) % size for length in lengths):
        place = next((at for at, room in enumerate(rooms) if room >= length), None)
        if place is None:
            rooms.append(size - length)
        else:
            rooms[place] -= length
    return sum(int(length) // size for length in lengths) + len(rooms)


@given(lengths=LENGTHS, size=st.integers(1, 40))
def test_best_fit_opens_as_many_as_the_naive_twin(lengths: np.ndarray, size: int) -> None:
    pieces = pack_group(lengths, Packing(sequence_length=size))
    assert pieces.num_sequences == naive_best_fit(lengths, size)


def test_best_fit_wastes_less_than_first_fit() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 4096).astype(np.int64)
    best = pack_group(lengths, Packing(sequence_length=2048)).num_sequences
    assert best < naive_first_fit(lengths, 2048)
    assert lengths.sum() / (best * 2048) > 0.99


@given(epoch=st.integers(0, 4095), group=st.integers(0, 2**31 - 1), index=st.integers(0, 2**20 - 1))
def test_numbers_of_sequences(epoch: int, group: int, index: int) -> None:
    number = packed_id(epoch, group, index)
    assert 0 <= number < 2**63 and unpacked_id(number) == (epoch, group, index)


def test_numbers_run_out() -> None:
    with pytest.raises(PipelineError, match="has no number"):
        packed_id(4096, 0, 0)


# ---- plans -------------------------------------------------------------------------------


def plans_of(
    lengths: np.ndarray, packing: Packing, world: int, batch_size: int, tail: Tail, drop: bool
) -> list[PackedPlan]:
    sequence = FullShuffle(num_samples=len(lengths), seed=4)
    groups = Groups(sequence, lambda ids: lengths[ids], packing)
    return [
        PackedPlan(
            Order(sequence=sequence, rank=rank, world=world, tail=tail),
            groups,
            batch_size=batch_size,
            drop_last=drop,
            chunk_samples=max(1, batch_size // 2),
            end_epoch=2,
        )
        for rank in range(world)
    ]


def batches_of(plan: PackedPlan, cursor: Cursor) -> list[tuple[list[int], list[int], Cursor]]:
    """(valid ids, all ids, the place behind) of each batch of the epoch."""
    found = []
    ids: list[int] = []
    valid: list[int] = []
    for task in plan.tasks(cursor):
        if task.epoch != cursor.epoch:
            break
        ids += task.ids.tolist()
        valid += task.ids[: task.num_valid].tolist()
        if task.ends_batch:
            found.append((valid, ids, plan.after(task.entry, task.first + len(task.ids))))
            ids, valid = [], []
    return found


@settings(deadline=None)
@given(
    lengths=LENGTHS,
    size=st.integers(5, 40),
    look_ahead=st.integers(1, 12),
    method=st.sampled_from(METHODS),
    worlds=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_ranks_share_the_sequences_over_restarts(
    lengths: np.ndarray,
    size: int,
    look_ahead: int,
    method: Method,
    worlds: list[int],
    seed: int,
) -> None:
    generator = random.Random(seed)
    packing = Packing(sequence_length=size, method=method, look_ahead=look_ahead)
    groups = plans_of(lengths, packing, 1, 1, "pad", False)[0]._groups
    whole = [
        packed_id(1, group, index)
        for group in range(groups.num_groups(1))
        for index in range(groups.group(1, group)[1].num_sequences)
    ]
    cursor, seen = Cursor(epoch=1), []
    for world in worlds:
        tail: Tail = generator.choice(["pad", "wrap"])
        plans = plans_of(lengths, packing, world, generator.randint(1, 5), tail, False)
        ranks = [batches_of(plan, cursor) for plan in plans]
        assert len({len(batches) for batches in ranks}) == 1
        assert len(ranks[0]) == plans[0].num_batches(cursor)
        num_steps = generator.randint(0, max(len(ranks[0]) - 1, 0))
        seen += [
            number for batches in ranks for valid, _, _ in batches[:num_steps] for number in valid
        ]
        if num_steps:
            places = {batches[num_steps - 1][2] for batches in ranks}
            assert len(places) == 1
            (cursor,) = places
        assert sorted(seen) == whole[: len(seen)]
    plans = plans_of(lengths, packing, 3, 2, "pad", False)
    ranks = [batches_of(plan, cursor) for plan in plans]
    seen += [number for batches in ranks for valid, _, _ in batches for number in valid]
    assert sorted(seen) == whole
    if ranks[0]:
        assert {batches[-1][2] for batches in ranks} == {Cursor(epoch=2)}
        assert all(len(ids) == 2 for batches in ranks for _, ids, _ in batches)


@pytest.mark.parametrize("drop", [False, True])
def test_what_is_dropped_is_less_than_a_step(drop: bool) -> None:
    lengths = np.full(50, 10)
    packing = Packing(sequence_length=20, look_ahead=7)
    ranks = [batches_of(plan, Cursor()) for plan in plans_of(lengths, packing, 3, 4, "drop", drop)]
    sizes = [[len(ids) for _, ids, _ in batches] for batches in ranks]
    # 7 groups of 7 documents make 4 sequences each, the last of one document makes one: 29.
    assert sizes == [[4, 4] if drop else [4, 4, 1]] * 3


def test_a_huge_corpus_is_entered_at_once() -> None:
    """Only the groups that are asked for are packed."""
    sequence = FullShuffle(num_samples=10**11, seed=1)
    asked = []

    def lengths(ids: np.ndarray) -> np.ndarray:
        asked.append(len(ids))
        return 1 + ids % 700

    groups = Groups(sequence, lengths, Packing(sequence_length=2048))
    plan = PackedPlan(
        Order(sequence=sequence, rank=1, world=4),
        groups,
        batch_size=8,
        drop_last=True,
        chunk_samples=8,
        end_epoch=None,
    )
    position = 10**7 << 32 | 5
    task = next(plan.tasks(Cursor(epoch=2, position=position)))
    assert len(task.ids) == 8 and len(asked) <= 3
    plan.check(Cursor(position=position))
    with pytest.raises(StateError, match="outside an epoch of"):
        plan.check(Cursor(position=10**9 << 32))


# ---- pipelines ---------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Pipeline, list[list[int]]]:
    """120 documents, each ended by token 0, every other token of the corpus once."""
    generator = random.Random(3)
    documents, token = [], 1
    for _ in range(120):
        length = generator.choice([1, 3, 10, 40, 90])
        documents.append([*range(token, token + length), 0])
        token += length
    path = tmp_path / "corpus.bin"
    np.array([token for document in documents for token in document], np.uint16).tofile(path)
    source = iopipe.open_source(str(path), options=OpenOptions(eos_token=0))
    return iopipe.read(source), documents


def test_batches_hold_each_token_once_with_its_label_and_its_place(
    corpus: tuple[Pipeline, list[list[int]]],
) -> None:
    pipeline, documents = corpus
    following = {
        token: document[at + 1] for document in documents for at, token in enumerate(document[:-1])
    }
    for method in METHODS:
        seen = []
        packed = pipeline.shuffle(1).pack(32, method=method, look_ahead=16, pad_token=9999)
        with packed.batch(4).run() as run:
            for batch in run:
                check_batch(batch, following)
                seen += batch["tokens"][batch["document_ids"] >= 0].tolist()
        assert sorted(seen) == sorted(token for document in documents for token in document)


def check_batch(batch: dict[str, Any], following: dict[int, int]) -> None:
    tokens, labels = batch["tokens"], batch["labels"]
    padding = batch["document_ids"] < 0
    assert tokens.shape == labels.shape == batch["position_ids"].shape
    assert tokens.dtype == torch.int64 and batch["position_ids"].dtype == torch.int32
    assert (tokens[padding] == 9999).all() and (labels[padding] == IGNORED).all()
    for token, label in zip(tokens[~padding].tolist(), labels[~padding].tolist(), strict=True):
        assert label == (IGNORED if token == 0 else following[token])
    assert batch["cu_seqlens"].tolist() == naive_cu_seqlens(batch["document_ids"])
    for row, positions in zip(
        batch["document_ids"].tolist(), batch["position_ids"].tolist(), strict=True
    ):
        expected = 0
        for at, document in enumerate(row):
            expected = expected + 1 if at and document == row[at - 1] else 0
            assert positions[at] == (expected if document >= 0 else 0)


def naive_cu_seqlens(documents: torch.Tensor) -> list[int]:
    found, place = [], 0
    for row in documents.tolist():
        for at, document in enumerate(row):
            if not at or document != row[at - 1]:
                found.append(place)
            place += 1
    return [*found, place]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 1), (2, 5)])
def test_a_packed_run_is_continued_by_any_number_of_ranks(
    corpus: tuple[Pipeline, list[list[int]]], before: int, after: int
) -> None:
    pipeline, documents = corpus
    packed = pipeline.shuffle(7).pack(48, look_ahead=20)
    seen, states = [], []

    def taken(batch: dict[str, Any]) -> list[int]:
        counts = batch["document_ids"] >= 0
        if "__valid__" in batch:
            counts &= batch["__valid__"][:, None]
        return batch["tokens"][counts].tolist()

    for rank in range(before):
        with packed.split(rank, before).batch(2).run() as run:
            seen += [token for _ in range(3) for token in taken(next(run))]
            states.append(json.loads(json.dumps(run.state_dict())))
    assert all(state == states[0] for state in states)
    for rank in range(after):
        with packed.split(rank, after, tail="pad").batch(3).run() as run:
            run.load_state_dict(states[0])
            seen += [token for batch in run for token in taken(batch)]
    assert sorted(seen) == sorted(token for document in documents for token in document)
    other = pipeline.shuffle(7).pack(48, look_ahead=21).batch(2).run()
    with pytest.raises(StateError, match="pack is"):
        other.load_state_dict(states[0])


def test_it_says_what_it_will_do(corpus: tuple[Pipeline, list[list[int]]]) -> None:
    packed = corpus[0].pack(64, look_ahead=30).batch(2)
    said = packed.describe()
    assert "pack: best_fit into sequences of 64, 30 documents at a time" in said
    assert packed.groups is not None
    share = padding_share(packed.groups)
    assert 0 <= share < 0.3 and f"{100 * share:.1f} % padding" in said


def test_illegal_packing(corpus: tuple[Pipeline, list[list[int]]], tmp_path: Path) -> None:
    pipeline, _ = corpus
    with pytest.raises(PipelineError, match="sequence_length is 0"):
        pipeline.pack(0)
    with pytest.raises(PipelineError, match="method is 'worst'"):
        pipeline.pack(8, method="worst")  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="column 'text' is not among tokens"):
        pipeline.pack(8, column="text")
    with pytest.raises(PipelineError, match="call it once, before map"):
        pipeline.pack(8).pack(8)
    with pytest.raises(PipelineError, match="call shuffle first"):
        pipeline.pack(8).shuffle(1)
    with pytest.raises(PipelineError, match="packed sequences come in order"):
        pipeline.pack(8).batch(2).run(in_order=False)
    with iopipe.DatasetWriter(tmp_path / "other") as writer:
        writer.write({"__key__": "a", "txt": b"x"})
    with pytest.raises(PipelineError, match="does not say how long its samples are"):
        iopipe.read(tmp_path / "other").pack(8)
