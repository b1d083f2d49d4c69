"""The plain training loop that the pipeline is measured against: how such a script is commonly first written.

    python -m benchmarks.naive --data DIR --run DIR [--width 64] [--epochs 1] [--bilinear]

Pillow decodes every slice in every epoch, fp32 (within a convolution cuDNN may round to TF32, as is its default),
channels first, loss and IoU read with .item() at each step, the whole state written after each epoch. Same network,
initial weights, split, order and loss as train_model.py. Writes loss, seconds and peak memory to epochs.csv.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

import constants
from dataset.folder import find_folder, find_slices
from dataset.split import assign_patients, split_tables
from storage.run_folder import RunFolder
from training.engine import epoch_order
from training.hardware import choose_hardware, peak_memory
from unet import UNet
from utils import UserError, positive, run_script


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR")
    add("--run", type=RunFolder, required=True, metavar="DIR")
    add("--width", type=positive(int), default=constants.WIDTH, help="(%(default)s)")
    add("--epochs", type=positive(int), default=1, help="(%(default)s)")
    add("--bilinear", action="store_true")
    add("--device", default="auto", help="(auto: CUDA, else MPS, else the CPU)")
    return parser.parse_args(argv)


def read_batch(folder: Path, table: pd.DataFrame, rows: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    """Return images, float32 [B, 3, H, W] in [-1, 1], and masks, float32 [B, 1, H, W], 0 or 1."""
    images, masks = [], []
    for row in rows.tolist():
        image = np.array(Image.open(folder / table["image_path"][row]), dtype=np.float32) / 255
        mask = np.array(Image.open(folder / table["mask_path"][row])) > 0
        images.append(torch.from_numpy((image - 0.5) / 0.5).permute(2, 0, 1))
        masks.append(torch.from_numpy(mask).float()[None])
    return [torch.stack(images).to(device), torch.stack(masks).to(device)]


def mean_iou(logits: torch.Tensor, masks: torch.Tensor) -> float:
    """Return the IoU, mean over slices; empty against empty is 1."""
    ious = []
    for predicted, mask in zip(torch.sigmoid(logits) >= 0.5, masks > 0, strict=True):
        union = (predicted | mask).sum().item()
        ious.append((predicted & mask).sum().item() / union if union else 1.0)
    return sum(ious) / len(ious)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    device = choose_hardware(args.device).device
    folder = find_folder(args.data)
    table = find_slices(folder)
    tables = split_tables(table, assign_patients(table["patient"]))
    if args.run.path.exists():
        raise UserError(f"{args.run}: is there already. Name a new folder with --run.")
    args.run.path.mkdir(parents=True)

    torch.manual_seed(constants.SEED)
    model = UNet(width=args.width, bilinear=args.bilinear).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=constants.LEARNING_RATE)
    criterion = torch.nn.BCEWithLogitsLoss()
    training, validation = tables["train"], tables["validation"]
    for epoch in range(1, args.epochs + 1):
        started = time.perf_counter()
        total = 0.0
        model.train()
        order = epoch_order(constants.SEED, epoch, training)  # of all slices, so that only their number matters
        for rows in order.split(constants.BATCH_SIZE):
            images, masks = read_batch(folder, training, rows, device)
            logits = model(images)
            loss = criterion(logits, masks)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(rows)
            mean_iou(logits.detach(), masks)
        model.eval()
        with torch.no_grad():
            for rows in torch.arange(len(validation)).split(constants.BATCH_SIZE):
                images, masks = read_batch(folder, validation, rows, device)
                logits = model(images)
                criterion(logits, masks).item()
                mean_iou(logits, masks)
        seconds = time.perf_counter() - started
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
        torch.save(state, args.run.path / f"checkpoint_{epoch}.pt")
        peak = peak_memory(device) / 2**30
        loss = total / len(training)
        args.run.append_epoch({"epoch": epoch, "training_loss": loss, "seconds": seconds, "peak_memory_gib": peak})
        print(f"epoch {epoch}/{args.epochs}: loss {loss:.4f}, {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    run_script(main)
