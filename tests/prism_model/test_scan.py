"""The selective scan: the reference is right, and the other backends equal it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from genostore.errors import NotFoundError
from prism_model.convolution import causal_convolution
from prism_model.scan import BACKENDS, choose, selective_scan

SIZES = [(2, 37, 19, 5), (1, 1, 3, 1), (3, 16, 300, 16), (2, 33, 64, 8), (1, 100, 2, 3)]


def arguments(sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Any]:
    batch, length, channels, state = sizes
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype).requires_grad_()

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": (-torch.rand(channels, state, generator=g, dtype=dtype) * 3).requires_grad_(),
        "B": normal(batch, length, state),
        "C": normal(batch, length, state),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
    }


def assert_same(sizes: tuple[int, int, int, int], backend: str, leave_out: tuple[str, ...] = (), **flags: bool) -> None:
    expected, got = arguments(sizes), arguments(sizes)
    for name in leave_out:
        del expected[name], got[name]
    a = selective_scan(**expected, backend="reference", **flags)
    b = selective_scan(**got, backend=backend, **flags)
    torch.testing.assert_close(b, a, rtol=2e-4, atol=2e-5)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for name, tensor in expected.items():
        scale = float(tensor.grad.abs().max()) or 1.0
        torch.testing.assert_close(got[name].grad / scale, tensor.grad / scale, rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("reverse", [False, True])
def test_reference_is_differentiable(reverse: bool) -> None:
    given = arguments((2, 5, 3, 2), torch.float64)
    names = list(given)
    assert torch.autograd.gradcheck(
        lambda *values: selective_scan(**dict(zip(names, values, strict=True)), backend="reference", reverse=reverse),
        tuple(given.values()),
    )


def test_reference_by_hand() -> None:
    # One channel, one state, no softplus: h1 = d1 B1 u1; h2 = exp(d2 A) h1 + d2 B2 u2; y = C h + D u.
    one = torch.tensor
    y = selective_scan(
        one([[[2.0], [3.0]]]),
        one([[[0.5], [0.25]]]),
        one([[-1.0]]),
        one([[[1.0], [4.0]]]),
        one([[[1.0], [2.0]]]),
        D=one([10.0]),
        delta_softplus=False,
        backend="reference",
    )
    h1 = 0.5 * 1 * 2
    h2 = torch.exp(one(-0.25)) * h1 + 0.25 * 4 * 3
    torch.testing.assert_close(y, one([[[h1 + 20], [2 * float(h2) + 30]]]))


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_backends_equal_the_reference(backend: str, reverse: bool, sizes: tuple[int, int, int, int]) -> None:
    assert_same(sizes, backend, reverse=reverse)


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
@pytest.mark.parametrize("leave_out", [("z",), ("D",), ("delta_bias",), ("z", "D", "delta_bias")])
def test_optional_parts(backend: str, leave_out: tuple[str, ...]) -> None:
    assert_same((2, 21, 9, 4), backend, leave_out)
    if "delta_bias" in leave_out and "z" in leave_out:
        assert_same((1, 9, 4, 2), backend, leave_out, delta_softplus=False)


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_extreme_steps(backend: str) -> None:
    given = arguments((1, 12, 4, 3))
    with torch.no_grad():
        given["delta"] *= 60
    expected = selective_scan(**given, backend="reference")
    torch.testing.assert_close(selective_scan(**given, backend=backend), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "chunked", "reference"])
def test_causal(backend: str) -> None:
    given = {k: v.detach() for k, v in arguments((2, 40, 6, 4)).items()}
    before = selective_scan(**given, backend=backend)
    back = selective_scan(**given, backend=backend, reverse=True)
    for name in ("u", "delta", "B", "C", "z"):
        given[name] = given[name].clone()
        given[name][:, 25] += 1
    after = selective_scan(**given, backend=backend)
    assert torch.equal(before[:, :25], after[:, :25])
    assert not torch.equal(before[:, 25:], after[:, 25:])
    after = selective_scan(**given, backend=backend, reverse=True)
    assert torch.equal(back[:, 26:], after[:, 26:])
    assert not torch.equal(back[:, :26], after[:, :26])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    given = {k: v.detach() for k, v in arguments((5, 40, 70, 8)).items()}
    together = selective_scan(**given, backend="cpu")
    for i in range(5):
        alone = {k: v[i : i + 1] if v.ndim == 3 else v for k, v in given.items()}
        assert torch.equal(selective_scan(**alone, backend="cpu"), together[i : i + 1])


def test_threads_share_the_work_without_changing_it() -> None:
    alone, shared = arguments((3, 50, 300, 8)), arguments((3, 50, 300, 8))
    selective_scan(**alone, backend="cpu").sum().backward()
    torch.set_num_threads(3)
    try:
        selective_scan(**shared, backend="cpu").sum().backward()
    finally:
        torch.set_num_threads(1)
    for name, tensor in alone.items():
        assert torch.equal(tensor.grad, shared[name].grad), name


def test_threads_that_scan_at_once_get_what_one_gets() -> None:
    """Forward and backward, each sharing its work among threads of its own; as a loader beside a training step does."""
    shapes = [
        (3, 50, 300, 8),
        (4, 70, 64, 4),
        (3, 33, 96, 16),
        (5, 20, 32, 8),
    ]  # samples for all threads: the same sums
    expected = []
    for shape in shapes:
        given = arguments(shape)
        selective_scan(**given, backend="cpu").sum().backward()
        expected.append(given)

    def work(turn: int) -> None:
        torch.set_num_threads(1 + turn % 3)  # pools of several sizes, made and dropped under each other
        given, wanted = arguments(shapes[turn % 4]), expected[turn % 4]
        selective_scan(**given, backend="cpu").sum().backward()
        for name, tensor in wanted.items():
            assert torch.equal(tensor.grad, given[name].grad), name

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(48)))
    torch.set_num_threads(1)


def test_operators_pass_opcheck() -> None:
    from prism_model import cpu_backbone, cpu_ops

    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape).requires_grad_()

    u, delta, z = (normal(2, 40, 32) for _ in range(3))
    A, D, bias = (-torch.rand(3, 32)).requires_grad_(), normal(32), normal(32)
    torch.library.opcheck(cpu_ops._scan, (u, delta, normal(2, 40, 6), A, D, bias, True, False), test_utils=tests)
    torch.library.opcheck(cpu_ops._gate, (u, z), test_utils=tests)
    torch.library.opcheck(cpu_ops._convolution, (u, normal(4, 32), bias, True), test_utils=tests)
    for n in (1, 3):  # layers
        weights = [normal(n, 2, *shape) for shape in ((4, 64), (64,), (8, 64), (2, 64), (64,))]
        weights += [(-torch.rand(n, 2, 3, 64)).requires_grad_(), normal(n, 2, 64)]
        weights = [normal(n + 1, 32), normal(n, 128, 32), *weights, normal(n, 32, 64)]
        arguments = normal(2, 40, 32), *weights, 1e-5, True
        torch.library.opcheck(cpu_backbone.backbone, arguments, test_utils=tests)


def test_gates_far_from_zero() -> None:
    from prism_model import cpu_ops

    z = torch.linspace(-300, 300, 32).view(1, 1, 32).requires_grad_()
    out = cpu_ops._gate(torch.ones(1, 1, 32), z)
    out.sum().backward()
    torch.testing.assert_close(out, torch.nn.functional.silu(z))
    assert z.grad is not None
    torch.testing.assert_close(z.grad, (z > 0).float(), rtol=1e-2, atol=1e-2)


def test_autocast_keeps_the_scan_in_float32() -> None:
    given = {k: v.detach() for k, v in arguments((1, 30, 4, 3)).items()}
    expected = selective_scan(**given)
    half = {k: v.bfloat16() if v.ndim == 3 else v for k, v in given.items()}
    with torch.autocast("cpu", torch.bfloat16):
        got = selective_scan(**half)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


def test_compiles_with_a_full_graph() -> None:
    given = arguments((1, 20, 4, 3))

    def loss(**tensors: Tensor) -> Tensor:
        return selective_scan(**tensors, backend="cpu").square().sum()

    torch.compile(loss, backend="aot_eager", fullgraph=True)(**given).backward()
    other = arguments((1, 20, 4, 3))
    selective_scan(**other, backend="reference").square().sum().backward()
    torch.testing.assert_close(given["u"].grad, other["u"].grad, rtol=1e-4, atol=1e-4)


def test_the_backend_follows_device_and_dtype() -> None:
    assert choose(torch.zeros(1)) == choose(torch.zeros(1, dtype=torch.bfloat16)) == "cpu"
    assert choose(torch.zeros(1, dtype=torch.float64)) == "chunked"
    on_gpu = next(n for n in ("triton", "mamba_ssm", "chunked") if BACKENDS[n].available)
    with FakeTensorMode():
        assert choose(torch.zeros(1, device="cuda")) == on_gpu


def test_bad_calls() -> None:
    given = arguments((1, 4, 3, 2))
    with pytest.raises(NotFoundError, match="scan backend 'cup' is unknown: did you mean 'cpu'"):
        selective_scan(**given, backend="cup")
    if not BACKENDS["mamba_ssm"].available:
        with pytest.raises(NotFoundError, match="'mamba_ssm' needs the package mamba_ssm, which is not installed"):
            selective_scan(**given, backend="mamba_ssm")
    with pytest.raises(ValueError, match=r"B of the scan has shape \(1, 4, 3\).*needs \(1, 4, 2\)"):
        selective_scan(**{**given, "B": given["u"]})
    with pytest.raises(TypeError, match=r"float32 on a CPU, not torch\.float64"):
        selective_scan(**arguments((1, 4, 3, 2), torch.float64), backend="cpu")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("length", "width"), [(1, 4), (3, 4), (50, 4), (20, 7)])
def test_convolution_equals_torch(reverse: bool, length: int, width: int) -> None:
    g = torch.Generator().manual_seed(0)
    results = []
    for dtype in (torch.float32, torch.float64):  # only float32 takes the compiled path
        g.manual_seed(0)
        x, weight, bias = (
            torch.randn(*shape, generator=g).to(dtype).requires_grad_()
            for shape in ((2, length, 9), (9, 1, width), (9,))
        )
        y = causal_convolution(x, weight, bias, reverse=reverse)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append([t.double() for t in (y, x.grad, weight.grad, bias.grad)])
    for ours, expected in zip(*results, strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(ours / scale, expected / scale, rtol=1e-4, atol=1e-5)
