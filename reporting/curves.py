"""The learning curves of a run while it is trained: plots drawn anew, and a log for TensorBoard."""

import importlib.util
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pandas as pd

from evaluation.selection import best_epoch
from reporting.plots import training_plots, write_plots
from storage.run_folder import RunFolder
from utils import UserError

REST = 20  # times what a drawing took, until the next: drawing is a twentieth of the training at most


class Curves:
    """Draws plots/loss and plots/iou in the background, as process_models.py does.

    Args:
        run: where they go.
        epochs: those that are done, as of epochs.csv.
        note: above each plot.
        tensorboard: log all numbers in DIR/tensorboard too, for each process apart.
    """

    def __init__(self, run: RunFolder, epochs: pd.DataFrame, note: str = "", tensorboard: bool = False):
        self.run, self.epochs, self.note = run, epochs.to_dict("records"), note
        self.board = open_board(run) if tensorboard else None
        self.thread = ThreadPoolExecutor(1)
        self.drawing: Future | None = None
        self.next = 0.0  # time of the next drawing

    def add(self, record: dict[str, Any]) -> None:
        """Take a finished epoch, a row of epochs.csv, and draw unless it is too soon."""
        self.epochs.append(record)
        if self.board:
            for name, value in record.items():
                self.board.add_scalar(name.replace("_", "/", 1), value, record["epoch"])
            self.board.flush()
        if (self.drawing is None or self.drawing.done()) and time.monotonic() >= self.next:
            self._draw()

    def finish(self) -> None:
        """Draw what has not been drawn."""
        self._draw()
        self.thread.shutdown()
        self.drawing.result()
        if self.board:
            self.board.close()

    def _draw(self) -> None:
        if self.drawing:
            self.drawing.result()  # raises what went wrong
        self.drawing = self.thread.submit(self._draw_now, pd.DataFrame(self.epochs))

    def _draw_now(self, epochs: pd.DataFrame) -> None:
        started = time.monotonic()
        write_plots(self.run, training_plots(epochs, best_epoch(epochs)), self.note)
        self.next = time.monotonic() + REST * (time.monotonic() - started)


def need_tensorboard() -> None:
    if not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard: needs the package tensorboard: pip install tensorboard")


def open_board(run: RunFolder) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    return SummaryWriter(run.path / "tensorboard" / time.strftime("%Y%m%d-%H%M%S"))
