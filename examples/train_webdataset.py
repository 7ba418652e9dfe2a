"""Train a small network on WebDataset shards, interrupt it, and go on where it stopped."""

from __future__ import annotations

import io
import tempfile

import numpy as np
import torch
from PIL import Image

import iopipe

NUM_SAMPLES = 480
NUM_CLASSES = 4


def write_shards(folder: str) -> None:
    """Small JPEGs whose class is their main colour."""
    generator = np.random.default_rng(0)
    colors = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
    with iopipe.DatasetWriter(folder, max_samples=100) as writer:
        for number in range(NUM_SAMPLES):
            noise = generator.integers(-40, 40, (48, 64, 3))
            pixels = (colors[number % NUM_CLASSES] + noise).clip(0, 255).astype(np.uint8)
            raw = io.BytesIO()
            Image.fromarray(pixels).save(raw, "JPEG")
            writer.write(
                {"__key__": f"{number:05d}", "jpg": raw.getvalue(), "cls": number % NUM_CLASSES}
            )


def main() -> float:
    """The share of right answers in the last batches."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, NUM_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    accuracies = []

    def step(batch: dict[str, torch.Tensor]) -> None:
        colors = batch["jpg"].float().mean(dim=(1, 2)) / 127.5 - 1
        logits = model(colors)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch["cls"]).backward()
        optimizer.step()
        accuracies.append(float((logits.argmax(dim=1) == batch["cls"]).float().mean()))

    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder)
        pipeline = (
            iopipe.read(folder).shuffle(seed=1).decode(size=32, crop="random", flip=True).batch(40)
        )
        with pipeline.run(num_epochs=5) as run:
            for _ in range(17):
                step(next(run))
            state = run.state_dict()  # JSON-able; save it with the model
        with pipeline.run(num_epochs=5) as run:
            run.load_state_dict(state)
            for batch in run:
                step(batch)
            print(run.report())
    assert len(accuracies) == 5 * NUM_SAMPLES // 40
    return sum(accuracies[-5:]) / 5


if __name__ == "__main__":
    print(f"accuracy {main():.3f}")
