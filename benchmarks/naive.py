"""The plain training loop that the pipeline is measured against: how such a script is commonly first written.

Pillow decodes every slice in every epoch, fp32 (within a convolution cuDNN may round to TF32, as is its default),
channels first, loss and IoU read with .item() at each step, the whole state written after each epoch. Same network,
initial weights, split, order and loss as train_model.py.

    python -m benchmarks.naive --data DIR --run DIR [--split FILE] [--width 64] [--epochs 1] [--bilinear]

Prints a line an epoch, then one line of JSON: the losses, the seconds of each epoch and of each part, the peak memory.
On a GPU, calls return before they are done, so that a part there includes what it has to wait for.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from constants import BATCH_SIZE, LEARNING_RATE, RANDOM_STATE
from dataset.folder import find_folder, find_slices
from dataset.split import assign_patients, read_assignment, split_tables
from dataset.synthetic import any_synthetic
from training.engine import epoch_order
from unet import UNet
from utils import Hardware, choose_hardware, peak_memory, run_script, versions


def read_batch(folder: Path, table, rows) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = [], []
    for row in rows:
        image = np.array(Image.open(folder / table["image_path"][row]), dtype=np.float32) / 255
        mask = np.array(Image.open(folder / table["mask_path"][row])) > 0
        images.append(torch.from_numpy((image - 0.5) / 0.5).permute(2, 0, 1))
        masks.append(torch.from_numpy(mask).float()[None])
    return torch.stack(images), torch.stack(masks)


def mean_iou(logits: torch.Tensor, masks: torch.Tensor) -> float:
    predicted, masks = torch.sigmoid(logits) >= 0.5, masks > 0
    ious = []
    for mine, true in zip(predicted, masks, strict=True):
        union = (mine | true).sum().item()
        ious.append((mine & true).sum().item() / union if union else 1.0)
    return sum(ious) / len(ious)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--split", type=Path, metavar="FILE", help="CSV with the columns patient and split")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bilinear", action="store_true")
    parser.add_argument("--device", default="auto", help="(auto: CUDA, else MPS, else the CPU)")
    args = parser.parse_args()

    device = choose_hardware(args.device).device
    folder = find_folder(args.data)
    table = find_slices(folder)
    if args.split:
        assignment, _ = read_assignment(args.split, table["patient"], folder)
    else:
        assignment = assign_patients(table["patient"])
    tables = split_tables(table, assignment)
    args.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(RANDOM_STATE)
    model = UNet(width=args.width, bilinear=args.bilinear).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    criterion = torch.nn.BCEWithLogitsLoss()

    seconds: dict[str, float] = defaultdict(float)
    clock = time.perf_counter()

    def took(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[part] += now - clock
        clock = now

    losses, epochs = [], []
    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        model.train()
        for rows in epoch_order(RANDOM_STATE, epoch, len(tables["train"])).split(BATCH_SIZE):
            images, masks = read_batch(folder, tables["train"], rows.tolist())
            images, masks = images.to(device), masks.to(device)
            took("data")
            logits = model(images)
            loss = criterion(logits, masks)
            took("forward")
            optimiser.zero_grad()
            loss.backward()
            took("backward")
            optimiser.step()
            took("optimiser")
            losses.append(loss.item())
            mean_iou(logits.detach(), masks)
            took("metrics")
        model.eval()
        with torch.no_grad():
            for rows in torch.arange(len(tables["validation"])).split(BATCH_SIZE):
                images, masks = read_batch(folder, tables["validation"], rows.tolist())
                images, masks = images.to(device), masks.to(device)
                logits = model(images)
                criterion(logits, masks).item()
                mean_iou(logits, masks)
        took("validation")
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
        torch.save(state, args.run / f"checkpoint_{epoch}.pt")
        took("checkpoint")
        epochs.append(time.perf_counter() - started)
        print(f"epoch {epoch}/{args.epochs}: {epochs[-1]:.1f} seconds", flush=True)
    print(
        json.dumps(
            {
                "losses": losses,
                "seconds": seconds,
                "epochs": epochs,
                "peak_memory_gib": peak_memory(device) / 2**30,
                "patients": {split: part["patient"].nunique() for split, part in tables.items()},
                "slices": {split: len(part) for split, part in tables.items()},
                "synthetic": any_synthetic(table),
                "hardware": str(Hardware(device, bf16=False)),
                "versions": versions(),
            }
        )
    )


if __name__ == "__main__":
    run_script(main)
