"""Inside Accelerate, Lightning, torchtitan's interface and plain DDP, with the real packages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import loaded as data
from fakes.ranks import run_ranks
from torch.utils.data import DistributedSampler

import iopipe
from iopipe import OrderSampler, PipelineError
from iopipe.loaders.frameworks import AcceleratedLoader
from iopipe.loaders.workers.seeds import SeededDataset

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(lightning|accelerate|torchmetrics).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(lightning|accelerate|torchmetrics).*"),
]


def plain(**options: Any) -> Any:
    return torch.utils.data.DataLoader(data.Numbers(10), batch_size=2, **options)


def seeded(num: int = 10, **options: Any) -> Any:
    return iopipe.DataLoader(
        data.Numbers(num), batch_size=2, **{"shuffle": True, "seed": 4, **options}
    )


# ---- Accelerate --------------------------------------------------------------------------


@pytest.fixture
def accelerator() -> Iterator[Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    yield Accelerator(cpu=True, gradient_accumulation_steps=2)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_replaces_a_loader_and_is_found_out(accelerator: Any) -> None:
    """What the adapter is for."""
    loader = iopipe.DataLoader(data.Numbers(10), batch_size=2)
    replaced = accelerator.prepare(loader)
    said = "torch.utils.data.DataLoader, 0 worker processes"
    assert iopipe.which_loader(replaced) == said
    by = " (iopipe's was replaced by accelerate)"
    assert iopipe.which_loader(replaced, given=loader) == said + by
    assert iopipe.which_loader(accelerator.prepare(seeded())) == said + by
    assert iopipe.which_loader(accelerator.prepare(plain())) == said


def test_training_with_accelerate(accelerator: Any) -> None:
    """As Accelerate's own loader: gradients are stepped every second batch and at the end of
    an epoch, which has five."""

    def train(loader: Any) -> tuple[list[list[int]], list[bool]]:
        model = torch.nn.Linear(1, 1)
        model, optimizer, loader = accelerator.prepare(
            model, torch.optim.SGD(model.parameters(), lr=1e-3), loader
        )
        epochs, stepped = [], []
        for _ in range(2):
            epochs.append([])
            for batch in loader:
                epochs[-1].extend(batch.tolist())
                before = [value.detach().clone() for value in model.parameters()]
                with accelerator.accumulate(model):
                    accelerator.backward((model(batch[:, None].float()) - 1).square().mean())
                    optimizer.step()
                    optimizer.zero_grad()
                after = list(model.parameters())
                stepped.append(not all(map(torch.equal, before, after)))
        assert not accelerator.gradient_state.in_dataloader
        return epochs, stepped

    loader = iopipe.accelerate_loader(seeded(num_workers=1), accelerator)
    assert accelerator.prepare(loader) is loader
    assert accelerator._dataloaders == [loader]
    assert iopipe.which_loader(loader) == "iopipe.DataLoader, 1 worker process"
    epochs, stepped = train(loader)
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert stepped == [False, True, False, True, True] * 2
    assert train(plain())[1] == stepped
    assert (len(loader), loader.total_batch_size, loader.total_dataset_length) == (5, 2, 10)


def test_accelerate_saves_and_restores_the_state(accelerator: Any, tmp_path: Path) -> None:
    loader = iopipe.accelerate_loader(seeded(), accelerator)
    list(loader)
    batches = iter(loader)
    next(batches), next(batches)
    accelerator.save_state(str(tmp_path))
    assert json.loads(json.dumps(loader.state_dict()))["num_yielded"] == 2
    rest = [batch.tolist() for batch in batches]
    assert len(rest) == 3
    following = [batch.tolist() for batch in loader]
    accelerator.load_state(str(tmp_path))
    assert [batch.tolist() for batch in loader] == rest
    assert [batch.tolist() for batch in loader] == following


def test_a_state_at_the_last_batch_leaves_nothing_of_its_epoch(accelerator: Any) -> None:
    loader = iopipe.accelerate_loader(seeded(), accelerator)
    for _ in loader:
        state = loader.state_dict()
        assert loader.end_of_dataloader == (state["num_yielded"] == 5)
    assert not state["finished"]
    following = [batch.tolist() for batch in loader]
    loader.load_state_dict(state)
    assert [batch.tolist() for batch in loader] == []
    assert [batch.tolist() for batch in loader] == following


def test_an_iteration_left_early_is_taken_off_the_books(accelerator: Any) -> None:
    loader = iopipe.accelerate_loader(seeded(), accelerator)
    for _ in loader:
        assert accelerator.gradient_state.active_dataloader is loader
        break
    assert not accelerator.gradient_state.in_dataloader


class Ranks:
    """What the adapter asks of an accelerator, of several processes."""

    gradient_state = device = None
    device_placement = non_blocking = False
    num_processes = 4


@pytest.mark.parametrize("num", range(1, 40))
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_remainder_leaves_exactly_the_repetitions_out(num: int, drop_last: bool) -> None:
    """By gathering the last batches of all ranks, as gather_for_metrics does."""
    ranks = []
    for rank in range(4):
        sampler = DistributedSampler(range(num), 4, rank, shuffle=False)
        ranks.append(
            iopipe.DataLoader(data.Numbers(num), batch_size=3, sampler=sampler, drop_last=drop_last)
        )
    prepared = AcceleratedLoader(ranks[0], Ranks, is_split=False)
    steps = list(zip(*ranks, strict=True))
    gathered = [torch.cat(step).tolist() for step in steps]
    if not gathered:
        return
    remainder = prepared._remainder()
    seen = [item for step in gathered[:-1] for item in step]
    whole = seen + gathered[-1]
    if remainder == -1:  # not known: Accelerate then drops nothing, and says so
        assert len(set(whole)) < len(whole)
    else:
        kept = seen + (gathered[-1][:remainder] if remainder else gathered[-1])
        assert len(set(kept)) == len(kept)
        assert set(kept) == set(whole)


def test_a_loader_that_nobody_splits_is_refused() -> None:
    with pytest.raises(PipelineError, match="4 processes would each get what SequentialSampler"):
        AcceleratedLoader(seeded(shuffle=False), Ranks, is_split=False)
    with pytest.raises(PipelineError, match="what OrderSampler gives to 1"):
        sampler = OrderSampler(data.Numbers(10), seed=1)
        AcceleratedLoader(seeded(shuffle=None, sampler=sampler), Ranks, is_split=False)
    with pytest.raises(PipelineError, match="say is_split=True"):
        stream = iopipe.DataLoader(data.Stream(8), batch_size=2)
        AcceleratedLoader(stream, Ranks, is_split=False)
    assert AcceleratedLoader(stream, Ranks, is_split=True)._remainder() == -1
    assert AcceleratedLoader(seeded(), Ranks, is_split=False)._remainder() == 0


# ---- Lightning ---------------------------------------------------------------------------


def test_lightning_makes_the_loader_again_with_all_its_options() -> None:
    from lightning.pytorch.utilities.data import _update_dataloader

    loader = seeded(num_workers=1, worker_mode="thread", meter=False, prefetch_factor=3)
    again: Any = _update_dataloader(loader, loader.sampler)
    assert type(again) is iopipe.DataLoader
    assert again is not loader
    for name in ("seed", "worker_mode", "meter", "num_workers", "prefetch_factor", "batch_size"):
        assert getattr(again, name) == getattr(loader, name), name
    assert isinstance(again.dataset, SeededDataset)
    assert isinstance(again.dataset.inner, data.Numbers)
    draws = [seeded(shuffle=None), seeded(shuffle=True)]
    for one in draws:
        one.dataset.inner = data.Augmented(10)
        other: Any = _update_dataloader(one, one.sampler)
        assert str(list(other)) == str(list(one))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in loader]


def lightning_run(
    loader: Any, *, max_epochs: int = 2, ckpt_path: str | None = None, **options: Any
) -> tuple[Any, Any]:
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[list[int]] = [[]]  # the first: of an epoch that goes on
            self.weights = [self.layer.weight.item()]

        def on_train_epoch_start(self) -> None:
            self.seen.append([])

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            self.seen[-1].extend(batch.tolist())
            return (self.layer(batch[:, None].float()) - 1).square().mean()

        def on_train_batch_end(self, *rest: Any) -> None:
            self.weights.append(self.layer.weight.item())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    model = Model()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=max_epochs, enable_checkpointing=False, **quiet, **options
    )
    trainer.fit(model, loader, ckpt_path=ckpt_path)
    if not model.seen[0]:
        model.seen.pop(0)
    return model, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_training_with_lightning() -> None:
    loader = seeded(num_workers=1)
    model, trainer = lightning_run(loader)
    assert iopipe.which_loader(trainer.train_dataloader) == "iopipe.DataLoader, 1 worker process"
    combined = trainer.fit_loop._combined_loader
    assert iopipe.which_loader(combined) == "iopipe.DataLoader, 1 worker process"
    assert [sorted(epoch) for epoch in model.seen] == [list(range(10))] * 2
    assert model.seen[0] != model.seen[1]
    assert len(set(model.weights)) == len(model.weights) == 11
    # Lightning counts batches and never asks for the end: the last step stays open.
    assert loader.report().num_steps == 9


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_lightning_goes_on_within_an_epoch(tmp_path: Path) -> None:
    import lightning

    path = str(tmp_path / "seventh.ckpt")

    class Saved(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(path)

    whole, _ = lightning_run(seeded(num_workers=1), max_epochs=3, callbacks=[Saved()])
    resumed, _ = lightning_run(seeded(num_workers=1), max_epochs=3, ckpt_path=path)
    assert resumed.seen == [whole.seen[1][4:], whole.seen[2]]


def test_fabric_wraps_the_loader_and_keeps_it() -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    prepared = fabric.setup_dataloaders(seeded(num_workers=1))
    assert iopipe.which_loader(prepared) == "iopipe.DataLoader, 1 worker process"
    assert sorted(torch.cat(list(prepared)).tolist()) == list(range(10))


# ---- ranks -------------------------------------------------------------------------------


def _ddp(rank: int) -> Any:
    """Two epochs of one rank: a loader that was made before the process group was."""
    loader = seeded(12, num_workers=1)
    yield None
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    epochs = []
    for _ in range(2):
        epochs.append([])
        for batch in loader:
            model(batch[:, None].float()).mean().backward()
            epochs[-1].extend(batch.tolist())
    gradient = next(model.parameters()).grad
    assert gradient is not None
    yield {"epochs": epochs, "gradient": gradient.tolist(), "len": len(loader)}


def test_ranks_share_an_epoch(tmp_path: Path) -> None:
    first, second = run_ranks(_ddp, tmp_path)
    assert first["len"] == second["len"] == 3
    assert first["gradient"] == second["gradient"]
    for one, other in zip(first["epochs"], second["epochs"], strict=True):
        assert sorted(one + other) == list(range(12))
    assert first["epochs"][0] != first["epochs"][1]


def _accelerated(rank: int) -> Any:
    """Two ranks that gather: a seeded loader, and one whose sampler repeats a sample."""
    yield None
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    sampler: Any = DistributedSampler(range(9), 2, rank, shuffle=False)
    gathered = []
    for loader in (seeded(12, num_workers=1), seeded(9, shuffle=None, sampler=sampler)):
        prepared = accelerator.prepare(iopipe.accelerate_loader(loader, accelerator))
        assert iopipe.which_loader(prepared).startswith("iopipe.DataLoader")
        gathered.append([])
        for batch in prepared:
            gathered[-1].extend(accelerator.gather_for_metrics(batch).tolist())
    yield gathered


def test_accelerate_gathers_every_sample_of_two_ranks_once(tmp_path: Path) -> None:
    for gathered in run_ranks(_accelerated, tmp_path):
        assert [sorted(items) for items in gathered] == [list(range(12)), list(range(9))]


def _lightning(rank: int) -> Any:
    loader = seeded(12, num_workers=1)
    yield None
    from lightning.pytorch.strategies import DDPStrategy

    strategy = DDPStrategy(process_group_backend="gloo")
    model, trainer = lightning_run(loader, devices=2, strategy=strategy)
    yield {"seen": model.seen, "which": iopipe.which_loader(trainer.train_dataloader)}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*number of training batches")
def test_lightning_does_not_split_a_share_again(tmp_path: Path) -> None:
    first, second = run_ranks(_lightning, tmp_path)
    assert first["which"] == second["which"] == "iopipe.DataLoader, 1 worker process"
    for one, other in zip(first["seen"], second["seen"], strict=True):
        assert sorted(one + other) == list(range(12))


def test_torchtitans_interface() -> None:
    """`__iter__`, `state_dict`, `load_state_dict` and `close`, with a state for each rank."""
    loader = seeded(num_workers=1)
    batches = iter(loader)
    next(batches)
    state = {"dp_rank_0": loader.state_dict()}
    rest = [batch.tolist() for batch in batches]
    loader.close()
    other = seeded(num_workers=1)
    other.load_state_dict(json.loads(json.dumps(state))["dp_rank_0"])
    assert [batch.tolist() for batch in other] == rest
    other.close()
