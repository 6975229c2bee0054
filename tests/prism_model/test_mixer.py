"""The compiled backbone equals its parts in plain torch, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prism_model import cpu_backbone
from prism_model.backbone import Backbone, Mixer
from prism_model.cpu_products import gram, product


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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("batch", "length", "width"), [(2, 2, 32), (1, 70, 64), (3, 32, 160), (1, 1_500, 32)])
def test_backbone(threads: int, bidirectional: bool, batch: int, length: int, width: int) -> None:
    torch.manual_seed(0)
    made = (Backbone(width, 3, d_state=3, bidirectional=bidirectional, scan=s) for s in ("cpu", "reference"))
    ours, theirs = made
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if "norm" in name:
                weight.uniform_()
    torch.set_num_threads(threads)
    try:
        assert_same(ours, theirs, torch.randn(batch, length, width))
    finally:
        torch.set_num_threads(1)


def test_mixer_alone() -> None:
    torch.manual_seed(0)
    ours, theirs = (Mixer(32, d_state=4, scan=s) for s in ("cpu", "reference"))
    assert_same(ours, theirs, torch.randn(3, 70, 32))


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 16, 16), (7, 48, 80), (203, 144, 64), (98, 16, 144)])
def test_products(rows: int, depth: int, columns: int) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.randn(rows, depth), torch.randn(columns, depth), torch.randn(rows, columns)
    whole = np.array([[0, rows]])
    out = torch.empty(rows, columns)
    product(x.numpy(), weight.numpy(), True, False, out.numpy(), whole)
    torch.testing.assert_close(out, x @ weight.t(), rtol=1e-5, atol=1e-4)
    back = x.clone()
    product(grad.numpy(), weight.numpy(), False, True, back.numpy(), whole)
    torch.testing.assert_close(back, x + grad @ weight, rtol=1e-5, atol=1e-4)
    dweight = torch.empty(1, columns, depth)
    gram(grad[None].numpy(), x[None].numpy(), dweight.numpy(), np.array([[0, 0, columns]]))
    torch.testing.assert_close(dweight[0], grad.t() @ x, rtol=1e-5, atol=1e-4)


def test_it_is_one_operator_and_keeps_nothing_for_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    operator = cpu_backbone.backbone

    def watched(*arguments: object) -> tuple[torch.Tensor, ...]:
        result = operator(*arguments)
        kept.append(sum(t.numel() for t in result[1:]))
        return result

    monkeypatch.setattr(cpu_backbone, "backbone", watched)
    backbone, x = Backbone(32, 3), torch.randn(1, 40, 32)
    with torch.no_grad():
        alone = backbone(x)
    assert torch.equal(backbone(x), alone)
    states, projections, convolved = 2 * 2 * 16 * 64, 2 * 40 * 48, 2 * 40 * 64
    assert kept == [0, 3 * (2 * 40 * 32 + 40 * 128 + convolved + projections + states + 40 * 64)]


class Louder(nn.Module):
    """A layer of one's own."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * x, residual


def test_hooks_see_what_passes_and_layers_can_be_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone, x = Backbone(32, 3), torch.randn(2, 40, 32)
    expected = backbone(x)
    monkeypatch.delattr(cpu_backbone, "backbone")  # what follows goes through the layers
    seen: list[torch.Size] = []
    hook = backbone.layers[1].mixer.out_proj.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    torch.testing.assert_close(backbone(x), expected, rtol=1e-4, atol=1e-5)
    assert seen == [x.shape]
    hook.remove()
    backbone.layers[1] = Louder()
    assert not torch.allclose(backbone(x), expected, atol=1e-3)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    backbone, x = Backbone(32, 2), torch.randn(5, 40, 32)
    together = backbone(x)
    for i in range(5):
        assert torch.equal(backbone(x[i : i + 1]), together[i : i + 1])


def test_autocast_mixes_in_half_precision_and_scans_in_float32() -> None:
    torch.manual_seed(0)
    backbone, x = Backbone(32, 2), torch.randn(2, 40, 32)
    expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = backbone(x)
        got.sum().backward()
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_compiles_with_a_full_graph() -> None:
    torch.manual_seed(0)
    backbone, x = Backbone(32, 1), torch.randn(2, 40, 32)
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), backbone(x), rtol=1e-4, atol=1e-5)
    compiled(x).square().sum().backward()
    ours = [p.grad.clone() for p in backbone.parameters()]
    backbone.zero_grad()
    backbone(x).square().sum().backward()
    for a, p in zip(ours, backbone.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-4)
