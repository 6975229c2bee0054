"""Training: optimiser, schedule, the Lightning module, and one function that runs it all."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from genostore import Batch
from genostore.errors import ConflictError, FormatError, GenostoreError, QueryError
from prism_model import distributed, loggers, room, runs
from prism_model.callbacks import Keep, Lines, orderly_interrupt, scheduled
from prism_model.card import write_card
from prism_model.config import DataConfig, LossConfig, RunConfig, TrainConfig
from prism_model.data import Data, Inputs
from prism_model.losses import prism_loss
from prism_model.metrics import SCORES, scores
from prism_model.models.own import Own, run_model
from prism_model.models.registry import build
from prism_model.models.ridge import Ridge
from prism_model.prism import PrismOutput

BRANCHES = ("original", "adjusted")
TERMS = ("prediction", "intervention", "uniformity", "total")


class DivergedError(GenostoreError, ArithmeticError):
    """A loss that is not finite."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for AdamW: with decay, and without for biases, batch normalisation, ``A_log`` and ``D``.

    The weights of RMS normalisations do decay, as in the release.
    """
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spared = name.endswith("bias") or name in ("A_log", "D") or isinstance(module, nn.BatchNorm1d)
            (plain if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def learning_rate(step: int, steps: int, train: TrainConfig) -> float:
    """Learning rate of a step: linear from ``warmup_from`` to ``lr``, then half a cosine to ``lr_end``.

    Parameters
    ----------
    step
        From 0.
    steps
        Steps of the whole training, at which ``lr_end`` is reached.
    train
        Rates and warm-up.
    """
    warmup = train.warmup if train.warmup >= 1 else train.warmup * steps
    if step < warmup:
        return train.warmup_from + (train.lr - train.warmup_from) * step / warmup
    done = min(1.0, (step - warmup) / max(1.0, steps - warmup))
    return train.lr_end + (train.lr - train.lr_end) * (1 + math.cos(math.pi * done)) / 2


class Training(pl.LightningModule):  # type: ignore[misc]
    """Trains a model with Prism's objective and scores both branches over the whole validation split.

    Parameters
    ----------
    model
        Called with sequence, signals and features; gives a ``PrismOutput``.
    loss, train
        Settings.
    steps
        Length of the training, for the schedule.
    inputs
        What the model takes of a batch.
    names, valid_names
        The samples of a batch of training, and of validation, in words, for errors.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossConfig,
        train: TrainConfig,
        steps: int,
        inputs: Callable[[Batch], Inputs],
        names: Callable[[Batch], list[str]],
        valid_names: Callable[[Batch], list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss_config, self.train_config = loss, train
        self.steps = steps
        self.inputs, self.names, self.valid_names = inputs, names, valid_names or names
        self.interrupted = False
        self._collected: list[tuple[Tensor, ...]] = []

    def forward(self, batch: Batch) -> PrismOutput:
        """What the model gives for a batch."""
        return run_model(self.model, self.inputs(batch), batch)

    def configure_optimizers(self) -> Any:
        """AdamW, and the schedule by step."""
        c = self.train_config
        optimizer = AdamW(parameter_groups(self.model, c.weight_decay), lr=c.lr, betas=c.betas, fused=True)
        schedule = LambdaLR(optimizer, lambda step: learning_rate(step, self.steps, c) / c.lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move the tensors of a batch that its loader did not put there."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(batch).items() if isinstance(v, Tensor)}
        return replace(batch, **moved)

    def on_train_epoch_start(self) -> None:
        """Start the loader's epoch, or go on in it after a resume: its order depends on the number alone."""
        _start_epoch(self.trainer.train_dataloader, self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Start the loader anew: Lightning leaves it after the last batch, which is not the end of its epoch."""
        distributed.share_buffers(self.model)
        _start_epoch(self.trainer.val_dataloaders, 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the random numbers stand, for models that draw some."""
        checkpoint["random"] = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the random numbers."""
        cpu, *gpus = checkpoint.get("random", [torch.get_rng_state()])
        torch.set_rng_state(cpu)
        if len(gpus) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(gpus)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch.

        Raises
        ------
        DivergedError
            When it is not finite, with the samples.
        """
        c = self.loss_config
        terms = prism_loss(self(batch), batch.target, c.alpha, c.beta, c.temperature)
        if not torch.isfinite(terms.total):
            shown = {name: term.item() for name, term in zip(TERMS, terms, strict=True) if term is not None}
            names = self.names(batch)
            raise DivergedError(
                f"the loss of step {self.global_step} is not finite ({shown}); the batch holds {', '.join(names)}. "
                f"{_look_for(self.inputs(batch), batch, names)}"
            )
        logged = {f"train/{name}": term for name, term in zip(TERMS, terms, strict=True) if term is not None}
        logged["lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({**logged, **self._place(self.global_step)}, batch_size=len(batch))
        return terms.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the predictions of a batch.

        Raises
        ------
        DivergedError
            When one is not finite, with its sample.
        """
        out = self(batch)
        columns = (batch.index, batch.target, out.original, out.adjusted)
        wrong = ~torch.stack([c.isfinite() for c in columns[1:] if c is not None]).all(0)
        if wrong.any():
            names = self.valid_names(batch)
            raise DivergedError(
                f"predictions of the validation after step {self.global_step} are not finite: of "
                f"{', '.join(names[i] for i in wrong.nonzero()[:, 0].tolist())}. "
                f"{_look_for(self.inputs(batch), batch, names)}"
            )
        self._collected.append(tuple(c.detach().cpu() for c in columns if c is not None))

    def on_validation_epoch_end(self) -> None:
        """Score the whole split, each sample once whatever the number of processes."""
        rows = [torch.cat([c.double() for c in column]) for column in zip(*self._collected, strict=True)]
        self._collected.clear()
        rows = [torch.cat(column) for column in zip(*distributed.gather(rows), strict=True)]
        _, first = torch.unique(rows[0], return_inverse=True)
        once = torch.zeros(int(first.max()) + 1, dtype=torch.long).scatter_(0, first, torch.arange(len(first)))
        observed, *predictions = (column[once].numpy() for column in rows[1:])
        for branch, predicted in zip(BRANCHES, predictions, strict=False):
            values = scores(observed, predicted)
            self.log_dict({f"valid/{branch}_{name}": values[name] for name in SCORES})
        # The row of a validation that only an interrupt brought is of the step to come: a run that goes on drops it.
        extra = self.interrupted and not scheduled(self.trainer)
        self.log_dict(self._place(max(0, self.global_step - (not extra))))

    def _place(self, step: int) -> dict[str, float]:
        """Where a row of the log belongs: Lightning's own count of steps is one off after a resume."""
        return {"step": float(step), "epoch": float(self.current_epoch)}


def fit(
    config: RunConfig,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    resume: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Train a model on a store and keep everything of it in a folder.

    Parameters
    ----------
    config
        Of the run; with ``resume`` the one in the folder is used instead.
    out
        Folder of the run, see :mod:`prism_model.runs`.
    model
        A module of your own instead of one that ``config.model`` describes; what it is given and gives is told at
        :class:`prism_model.models.own.Own`.
    resume
        Go on after the last epoch that was finished, if need be from the start.
    device
        ``cpu``, ``cuda`` or ``auto``.
    say
        Prints a line.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    genostore.errors.ConflictError
        When there is a run already, or the data have changed since a run that is to be resumed.
    genostore.errors.NotFoundError
        When there is no run to resume, or the store lacks what is asked for.
    DivergedError
        When the loss is not finite; the best checkpoint so far is kept.
    prism_model.room.RoomError
        When a step does not fit into memory.
    """
    kind = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
    at = distributed.place()
    with distributed.group(at, kind), room.told():
        return _fit(config, Path(out), model, resume, at, kind, say if at.first else _silent)


def _fit(
    config: RunConfig,
    out: Path,
    model: nn.Module | None,
    resume: bool,
    at: distributed.Place,
    kind: str,
    say: Callable[[str], None],
) -> Path:
    if resume:
        config = runs.read_config(out)
        if runs.is_finished(out) and not (out / runs.RESUME).is_file():
            raise ConflictError(f"{out} is finished, and keeps no state of a training to go on with")
    own = None if model is None else Own(model)
    if own is not None:
        config = replace(config, model=own.config)
    data = Data(wanted(config))
    config = complete(config, data)
    loggers.check(config.train.loggers)
    if resume:
        _check_same_data(out, data)
    else:
        runs.refuse_existing(out)

    pl.seed_everything(config.seed, verbose=False)
    train, valid = data.windows("train"), data.windows("valid")
    made = build(config.model, scan=config.scan) if own is None else own
    if own is not None:
        own.config = config.model
    if config.train.start_from_mean:
        targets = train.selection.target
        assert targets is not None  # the query named an expression
        start_from(made, float(np.nanmean(targets)))
    options: dict[str, Any] = {"device": at.device(kind), "rank": at.rank, "world": at.world}
    train_loader = data.loader(train, config.train.batch_size, shuffle=True, seed=config.seed, **options)
    valid_loader = data.loader(valid, config.train.batch_size, even=False, **options)
    steps = config.train.steps or (config.train.epochs or 1) * len(train_loader)
    module = Training(
        made, config.loss, config.train, steps, data.inputs, *(partial(data.names, windows=w) for w in (train, valid))
    )
    keep = Keep(out, f"valid/{config.select}_mse", config.train.patience, config.train.save_steps)
    say(
        f"{config.model.name}: {sum(p.numel() for p in made.parameters()):,} parameters; {len(train):,} samples to "
        f"train, {len(valid):,} to validate; signals {', '.join(data.channels) or 'none'}; "
        f"{len(data.features)} features; {steps:,} steps" + (f" of {at.world} processes" if at.world > 1 else "")
    )
    for what, windows in (("train", train), ("validate", valid)):
        lacking = [f"{n:,} of {name}" for name, n in data.lacking_features(windows).items()]
        if lacking:
            say(f"values missing among the samples to {what}, and taken for 0: {', '.join(lacking)}")
    if kind == "cpu":
        room.check(made, data.config.width, config.train.batch_size * at.local_world)
    state = out / runs.RESUME if resume and (out / runs.RESUME).is_file() else None
    distributed.barrier()  # all have found what was asked for, and that the folder is free
    if resume and state is None:
        say("no state was saved yet: starting from the first step")
    if not resume and at.first:
        runs.create(out, config, data.digest() | {"feature_means": data.feature_means(train)})
    logs = loggers.make(config, out, _columns())
    trainer = make_trainer(config.train, steps, len(train_loader), logs, [keep, Lines(say)], kind, at)
    _rewind(logs[0], state)
    with quiet(), fast_products(config.train.tf32), orderly_interrupt(trainer, module, say):
        if isinstance(made, Ridge):
            every = data.loader(train, config.train.batch_size, rank=0, world=1)
            penalty = made.solve((data.inputs(batch), batch.target) for batch in every)
            say(f"solved in closed form, penalty {penalty:g}")
            trainer.validate(module, valid_loader, verbose=False)
        else:
            trainer.fit(module, train_loader, valid_loader, ckpt_path=None if state is None else str(state))
    if keep.best is None:
        say(f"stopped before the first validation; no checkpoint in {out}")
    else:
        end = "interrupted" if module.interrupted else "finished"
        say(f"{end} at step {trainer.global_step:,}; best {keep.monitor} {keep.best:.4f} at step {keep.best_step:,}")
        if at.first and not module.interrupted:
            runs.finish(out, trainer.global_step, keep.best_step, keep.best)
            write_card(out)
    return out


def _look_for(inputs: Inputs, batch: Batch, names: list[str]) -> str:
    """What to do about a result that is not finite."""
    parts = {"signals": inputs[1], "features": inputs[2], "target": batch.target}
    found = [
        f"{what} of {names[i]}"
        for what, tensor in parts.items()
        if tensor is not None
        for i in (~tensor.reshape(len(batch), -1).isfinite().all(1)).nonzero()[:, 0].tolist()
    ]
    if found:
        return f"What goes in is not finite: {', '.join(found)}; leave these genes or tracks out, or mend their source"
    return "What goes in is finite: look for extreme values in these windows, or lower train.lr"


def _silent(line: str) -> None:
    """Of the processes that are not the first."""


def wanted(config: RunConfig) -> DataConfig:
    """The query of a run: without signals for an architecture that takes none."""
    return config.data if config.model.takes_signals else replace(config.data, assays=(), contacts=None)


def complete(config: RunConfig, data: Data) -> RunConfig:
    """Fill in what the data decide: the resolved query, the sizes of the model's inputs, the encoder's signals."""
    if config.select == "adjusted" and not config.model.adjusts:
        raise QueryError(f"select is 'adjusted', and the model {config.model.name} has no adjusted branch")
    model = config.model.fitted(data.channels, data.roles, len(data.features), data.config.width)
    return replace(config, data=data.config, model=model)


def start_from(model: nn.Module, mean: float) -> None:
    """Start the output's bias at the mean target; a model without a ``head`` that ends in such a bias is left alone."""
    last = [m for m in getattr(model, "head", nn.Module()).modules() if isinstance(m, nn.Linear)][-1:]
    for layer in last:
        if layer.out_features == 1 and layer.bias is not None:
            nn.init.constant_(layer.bias, mean)


def make_trainer(
    train: TrainConfig,
    steps: int,
    steps_per_epoch: int,
    logs: list[Logger] | bool,
    callbacks: list[pl.Callback],
    kind: str = "cpu",
    at: distributed.Place | None = None,
) -> pl.Trainer:
    """A Lightning trainer with our settings; validation ``train.validations`` times an epoch, and at the end."""
    at = at or distributed.Place()
    precision = train.precision if train.precision != "auto" else ("bf16-mixed" if kind == "cuda" else "32-true")
    many: dict[str, Any] = {"strategy": "ddp"} if at.world > 1 else {}
    with quiet():
        interval = max(1, round(steps_per_epoch / train.validations)) if train.validations > 1 else 1.0
        bar = [pl.callbacks.RichProgressBar(leave=False)] if sys.stderr.isatty() and at.first else []
        return pl.Trainer(
            accelerator="gpu" if kind == "cuda" else "cpu",
            devices=at.local_world,
            num_nodes=at.nodes,
            sync_batchnorm=kind == "cuda" and at.world > 1,
            use_distributed_sampler=False,
            precision=precision,
            max_steps=steps,
            max_epochs=-1,
            val_check_interval=min(interval, steps_per_epoch) if train.validations > 1 else 1.0,
            check_val_every_n_epoch=max(1, round(1 / train.validations)),
            gradient_clip_val=train.clip or None,
            logger=logs,
            log_every_n_steps=1 if steps < 1_000 else 10,
            callbacks=[*callbacks, *bar],
            enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            enable_progress_bar=bool(bar),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **many,
        )


def _start_epoch(loader: Any, epoch: int) -> None:
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)


def _columns() -> list[str]:
    validation = [f"valid/{branch}_{name}" for branch in BRANCHES for name in SCORES]
    return ["lr", *(f"train/{term}" for term in TERMS), *validation]


def _rewind(log: Any, state: Path | None) -> None:
    """Forget what the log says of steps that will be made again."""
    # Nothing in the loop's state needs more than plain values.
    try:
        known = {"global_step": 0} if state is None else torch.load(state, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch stumble over
        raise FormatError(
            f"{state} is damaged ({str(error).partition('. ')[0]}); remove it to start from the first step"
        ) from error
    log.rewind(int(known["global_step"]))


def _check_same_data(out: Path, data: Data) -> None:
    before, now = runs.read_digest(out), data.digest()
    if before["sha256"] != now["sha256"]:
        changed = [n for n in {*before["nodes"], *now["nodes"]} if before["nodes"].get(n) != now["nodes"].get(n)]
        raise ConflictError(
            f"{out} was trained on other data: {', '.join(sorted(changed)[:5])} changed since; train anew"
        )


@contextmanager
def fast_products(tf32: bool) -> Iterator[None]:
    """Allow TF32 for the products of float32 matrices on a GPU, for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advertisements and its advice on workers, GPUs and numbers of several processes.

    It does not apply: our loaders have threads, and scores are of all processes' samples before they are logged.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        advice = ("does not have many workers", "GPU available but not used", "LeafSpec", "sync_dist=True")
        for message in (f".*{part}.*" for part in advice):
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
