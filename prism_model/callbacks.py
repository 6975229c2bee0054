"""What happens around training: the checkpoints, the lines on the screen, and stopping in order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from genostore.errors import QueryError
from prism_model import weights
from prism_model.runs import RESUME


def scheduled(trainer: Trainer) -> bool:
    """Whether the validation at hand would be made without an interrupt; training ends with one."""
    batches, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    due = (trainer.fit_loop.epoch_loop.batch_idx + 1) % batches == 0 and (trainer.current_epoch + 1) % epochs == 0
    return bool(due or trainer.global_step >= trainer.max_steps)


class Keep(Checkpoint):  # type: ignore[misc]
    """Keeps the best weights after each validation, and the loop's state after each epoch and some steps within.

    The validation that an interrupt brings counts only where there was none before: the run that goes on must come to
    what it would have come to without it.

    Parameters
    ----------
    folder
        Of the run.
    monitor
        The validation score that decides, smaller is better.
    patience
        Validations without a better one after which training stops; None = never.
    every
        Steps after which the state is saved within an epoch; None = only at its end.
    """

    def __init__(self, folder: Path, monitor: str, patience: int | None = None, every: int | None = None) -> None:
        self.folder, self.monitor, self.patience, self.every = folder, monitor, patience, every
        self.saved = 0
        self.best: float | None = None
        self.best_step: int | None = None
        self.since = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_step": self.best_step, "since": self.since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.best, self.best_step, self.since = (state_dict[key] for key in ("best", "best_step", "since"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best so far."""
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            branch = self.monitor.removeprefix("valid/").removesuffix("_mse")
            raise QueryError(f"select is {branch!r}, and the model gives no such branch")
        if self.best is not None and pl_module.interrupted and not scheduled(trainer):
            return
        score = float(trainer.callback_metrics[self.monitor])
        self.since += 1
        if self.best is None or score < self.best:
            self.best, self.best_step, self.since = score, trainer.global_step, 0
            if trainer.is_global_zero:
                scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("valid/")}
                info = {"step": trainer.global_step, "epoch": trainer.current_epoch, "scores": scores}
                weights.save(self.folder / weights.BEST, pl_module.model, info)
        if self.patience is not None and self.since >= self.patience:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the loop's state when it is time, unless a validation or the epoch's end comes first.

        After the last step a validation is asked for, wherever in an epoch that step is.
        """
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop, trainer.check_val_every_n_epoch = True, 1
        due = self.every is not None and trainer.global_step - self.saved >= self.every
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if due and not last and (batch_idx + 1) % trainer.val_check_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the loop's state, unless the epoch was broken off."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.saved = trainer.global_step
        path = self.folder / RESUME
        part = path.with_name(f".{path.name}.part")
        trainer.save_checkpoint(part)  # on all ranks
        if trainer.is_global_zero:
            part.replace(path)


class Lines(Callback):  # type: ignore[misc]
    """One line on the screen a validation, for people and for log files.

    Parameters
    ----------
    say
        Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the training stands."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        logged = trainer.callback_metrics
        parts = [f"step {trainer.global_step:,}", f"epoch {trainer.current_epoch + 1}"]
        if "train/total" in logged:
            parts.append(f"loss {float(logged['train/total']):.4f}")
        for branch in ("original", "adjusted"):
            if f"valid/{branch}_mse" in logged:
                mse, r = (float(logged[f"valid/{branch}_{score}"]) for score in ("mse", "pearson"))
                parts.append(f"valid {branch} MSE {mse:.4f} r {r:.3f}")
        self.say("  ".join([*parts, f"{time.monotonic() - self.started:.0f} s"]))


@contextmanager
def orderly_interrupt(trainer: Trainer, module: LightningModule, say: Callable[[str], None]) -> Iterator[None]:
    """Let the first Ctrl-C end training after the step at hand, with a validation; the second one breaks off.

    In other threads than the main one, where no handler can be set, nothing changes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if module.interrupted:
            raise KeyboardInterrupt
        module.interrupted = True
        trainer.should_stop = True
        say("stopping after this step and a last validation; press Ctrl-C again to break off at once")

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
