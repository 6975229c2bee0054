"""Whether a step fits: the estimate, what there is, and what is told when it does not."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from prism_model import make_config, room
from prism_model.models import registry
from tests.prism_model.limits import at_most

MIB = 2**20


def test_what_a_step_takes_grows_with_length_and_batch() -> None:
    for name, sizes in (("prism", ["model.d_model=16", "model.n_layer=2"]), ("cnn", []), ("attention", [])):
        model = registry.build(
            make_config("laptop", None, [f"model.name={name}", "model.center_length=500", *sizes]).model
        )
        short = room.kept_bytes(model, 1_024)
        assert room.kept_bytes(model, 2_048) == pytest.approx(2 * short, rel=0.15), name
        assert room.needed_bytes(model, 102_400, 4) > 350 * short
        assert room.needed_bytes(model, 102_400, 4, training=False) < room.needed_bytes(model, 102_400, 4)
        assert model.training
        assert all(p.grad is None for p in model.parameters())


def test_the_estimate_is_what_the_backward_pass_keeps() -> None:
    """Two layers by hand: the input of each product and the output of the rectifier, in float32."""
    from prism_model.models.own import Own, OwnConfig

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)

        def forward(self, sequence: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(sequence))).mean((1, 2))

    model = Own(Net(), OwnConfig(signal_size=0, feature_size=0))
    assert room.kept_bytes(model, 1_000) == 4 * 1_000 * (4 + 8)


def test_what_is_free_is_what_every_limit_leaves() -> None:
    free = room.available_bytes()
    assert free is not None
    assert free > 100 * MIB  # or nothing here could run
    with at_most(64 * MIB, resource.RLIMIT_DATA):
        assert 48 * MIB < (room.available_bytes() or 0) <= 64 * MIB
    with at_most(32 * MIB, resource.RLIMIT_AS):
        assert 16 * MIB < (room.available_bytes() or 0) <= 32 * MIB
    assert (room.available_bytes() or 0) > 100 * MIB


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.mark.parametrize("mounted", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
def test_a_batch_job_has_what_its_groups_leave(mounted: str, tmp_path: Path) -> None:
    """Files as version 2 of control groups has them; the root has none of these."""
    group(tmp_path / "proc/self", cgroup="0::/jobs/7/step")
    job = tmp_path / mounted / "jobs/7"
    group(job, memory__max=5_000, memory__current=3_500, memory__stat="anon 3000\ninactive_file 400")
    group(job / "step", memory__max="max", memory__current=3_000, memory__stat="anon 3000\ninactive_file 0")
    assert room.group_limits(tmp_path) == [1_900]
    assert room.group_limits(tmp_path / "nowhere") == []


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """As version 1 has them: the path is that of the host, which the container does not see."""
    group(tmp_path / "proc/self", cgroup="5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n0::/docker/a1")
    used = {"memory__usage_in_bytes": 700, "memory__stat": "cache 300\ntotal_inactive_file 200"}
    group(tmp_path / "sys/fs/cgroup/memory", memory__limit_in_bytes=1_000, **used)
    assert room.group_limits(tmp_path) == [500]


@pytest.mark.parametrize(
    ("allocate", "told"),
    [
        (lambda: torch.ones(10**9), "you tried to allocate 4000000000 bytes"),
        (lambda: np.ones(10**9), "Unable to allocate 7.45 GiB"),
        (lambda: bytearray(10**10), "no more could be had"),
    ],
)
def test_an_allocation_that_fails_is_told_as_what_does_not_fit(allocate: Callable[[], object], told: str) -> None:
    wanted = pytest.raises(room.RoomError, match=rf"memory is used up: .*{told}.*; a smaller")
    with at_most(64 * MIB), wanted, room.told():
        allocate()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as other, room.told():
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not isinstance(other.value, room.RoomError)
    first = room.RoomError("first")
    with pytest.raises(room.RoomError) as same, room.told():
        raise first
    assert same.value is first


def test_processes_beside_each_other_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build(make_config("laptop", None, ["model.name=cnn", "model.n_layer=1"]).model)
    needed = room.needed_bytes(model, 2_048, 64)
    monkeypatch.setattr(room, "_beside", 1)  # and as it was when the test ends
    with at_most(2 * needed):
        room.check(model, 2_048, 32)
        room.share(8)
        with pytest.raises(room.RoomError, match=r"GiB are free to each of 8 processes; a batch of \d+ would fit"):
            room.check(model, 2_048, 32)
    room.share(1)
    with pytest.raises(room.RoomError, match=r"not even one sample fits: windows of about [\d,]+ bases would"):
        room.check(model, 10**12, 2)
