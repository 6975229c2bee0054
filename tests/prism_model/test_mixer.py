"""The compiled mixer and normalisation equal their parts in plain torch, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prism_model import cpu_ops
from prism_model.backbone import Backbone, Mixer, Norm


def assert_same(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    theirs.load_state_dict(ours.state_dict())
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(ours(a).shape, generator=torch.Generator().manual_seed(1))
    for model, given in ((ours, a), (theirs, b)):
        (model(given) * weight).sum().backward()
    torch.testing.assert_close(ours(a), theirs(b), rtol=1e-4, atol=1e-5)
    pairs = {"x": (a, b)} | {n: (p, q) for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True)}
    for name, (p, q) in pairs.items():
        scale = q.grad.abs().max()
        torch.testing.assert_close(p.grad / scale, q.grad / scale, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("batch", "length", "width"), [(2, 2, 16), (1, 70, 32), (3, 32, 160)])
def test_mixer(bidirectional: bool, batch: int, length: int, width: int) -> None:
    torch.manual_seed(0)
    ours, theirs = (Mixer(width, d_state=4, bidirectional=bidirectional, scan=s) for s in ("cpu", "reference"))
    assert_same(ours, theirs, torch.randn(batch, length, width))


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 16, 16), (7, 48, 80), (203, 144, 64), (98, 16, 144)])
def test_products(rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, depth, requires_grad=True), torch.randn(columns, depth, requires_grad=True)
    grad = torch.randn(rows, columns)
    expected = torch.nn.functional.linear(x, weight)
    torch.testing.assert_close(cpu_ops.linear(x, weight), expected, rtol=1e-5, atol=1e-4)
    theirs = torch.autograd.grad(expected, (x, weight), grad)
    ours = torch.autograd.grad(cpu_ops.linear(x, weight), (x, weight), grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


class AddNorm(nn.Module):
    """Normalise a stream that something is added to or not; show it and what is normalised."""

    def __init__(self, scan: str, add: bool) -> None:
        super().__init__()
        self.norm = Norm(64, eps=1e-5, scan=scan)
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.norm(x, 2 * x.flip(0) if self.add else None))


@pytest.mark.parametrize("add", [False, True])
def test_norm(add: bool) -> None:
    ours, theirs = AddNorm("cpu", add), AddNorm("reference", add)
    with torch.no_grad():
        ours.norm.weight.uniform_()
    assert_same(ours, theirs, torch.randn(3, 700, 64))  # more rows than a block


def test_the_mixer_is_one_operator_and_keeps_nothing_for_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[int, ...]] = []
    mix = cpu_ops.mix

    def watched(*arguments: object) -> tuple[torch.Tensor, ...]:
        result = mix(*arguments)
        kept.append(tuple(result[i].numel() for i in (1, 2, 4)))
        return result

    monkeypatch.setattr(cpu_ops, "mix", watched)
    mixer, x = Mixer(16), torch.randn(1, 40, 16)
    with torch.no_grad():
        alone = mixer(x)
    assert torch.equal(mixer(x), alone)
    assert kept == [(0, 0, 0), (40 * 32, 2 * 40 * 32, 2 * 2 * 16 * 32)]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    mixer, x = Mixer(16), torch.randn(5, 40, 16)
    together = mixer(x)
    for i in range(5):  # close, not equal: matrix products of other sizes sum in another order
        torch.testing.assert_close(mixer(x[i : i + 1]), together[i : i + 1], rtol=1e-5, atol=1e-6)


def test_autocast_mixes_in_half_precision_and_scans_in_float32() -> None:
    torch.manual_seed(0)
    backbone, x = Backbone(16, 2), torch.randn(2, 40, 16)
    expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = backbone(x)
        got.sum().backward()
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_compiles_with_a_full_graph() -> None:
    torch.manual_seed(0)
    backbone, x = Backbone(16, 1), torch.randn(2, 40, 16)
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), backbone(x), rtol=1e-4, atol=1e-5)
    compiled(x).square().sum().backward()
    ours = [p.grad.clone() for p in backbone.parameters()]
    backbone.zero_grad()
    backbone(x).square().sum().backward()
    for a, p in zip(ours, backbone.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-4)
