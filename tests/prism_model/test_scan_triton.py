"""The Triton kernel: on a GPU where there is one, elsewhere by Triton's interpreter, at small sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from prism_model.scan import BACKENDS, choose, selective_scan

from .test_scan import arguments, assert_same

pytestmark = pytest.mark.skipif(not BACKENDS["triton"].available, reason="triton is not installed (Linux alone has it)")
CUDA = torch.cuda.is_available()
on_gpu = pytest.mark.skipif(not CUDA, reason="needs a GPU: torch.cuda.is_available() is False")


@pytest.fixture(scope="module", autouse=True)
def _interpreter() -> Iterator[None]:
    """The interpreter (see tests/conftest.py) is slow, so chunks are short."""
    with pytest.MonkeyPatch.context() as patch:
        from prism_model import triton_ops

        patch.setattr(triton_ops, "CHUNK", 4)
        yield


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(2, 6, 17, 3), (1, 1, 3, 1), (1, 8, 16, 16)])
def test_equals_the_reference(reverse: bool, sizes: tuple[int, int, int, int]) -> None:
    assert_same(sizes, "triton", reverse=reverse)


@pytest.mark.parametrize("leave_out", [("z",), ("D", "delta_bias")])
def test_optional_parts(leave_out: tuple[str, ...]) -> None:
    assert_same((1, 9, 5, 4), "triton", leave_out)
    assert_same((1, 5, 3, 2), "triton", leave_out, delta_softplus=False)


def test_extreme_steps() -> None:
    given = arguments((1, 12, 4, 3))
    with torch.no_grad():
        given["delta"] *= 60
    expected = selective_scan(**given, backend="reference")
    torch.testing.assert_close(selective_scan(**given, backend="triton"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is_and_summed_in_float32(dtype: torch.dtype) -> None:
    half = ("u", "delta", "B", "C", "z")
    given = {k: v.detach().to(dtype) if k in half else v.detach() for k, v in arguments((1, 9, 6, 4)).items()}
    exact = {k: v.float().requires_grad_() for k, v in given.items()}
    given = {k: v.requires_grad_() for k, v in given.items()}
    y, expected = selective_scan(**given, backend="triton"), selective_scan(**exact, backend="reference")
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), expected, rtol=step, atol=step)  # rounded once, at the end
    y.float().sum().backward()
    expected.sum().backward()
    for name, tensor in given.items():
        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        scale = exact[name].grad.abs().max()
        torch.testing.assert_close(tensor.grad.float() / scale, exact[name].grad / scale, rtol=step, atol=step)


def test_operator_passes_opcheck() -> None:
    from prism_model import triton_ops

    given = arguments((1, 3, 2, 2))
    tensors = [given[k] for k in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")
    torch.library.opcheck(triton_ops._scan, (*tensors, True, True), test_utils=tests)


def test_a_model_trains_with_it() -> None:
    from prism_model.backbone import Backbone

    torch.manual_seed(0)
    ours = Backbone(4, 1, d_state=2, scan="triton")
    theirs = Backbone(4, 1, d_state=2, scan="reference")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 5, 4)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_processor_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(TypeError, match="triton backend of the scan takes tensors on a GPU, not on cpu"):
        selective_scan(**arguments((1, 4, 3, 2)), backend="triton")


@on_gpu
def test_a_gpu_chooses_it() -> None:
    assert choose(torch.zeros(1, device="cuda")) == "triton"


@on_gpu
@pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is None, reason="mamba_ssm is not installed")
@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm_agrees(reverse: bool) -> None:
    given = {k: v.detach().cuda() for k, v in arguments((2, 100, 32, 16)).items()}
    expected = selective_scan(**given, backend="reference", reverse=reverse)
    for backend in ("triton", "mamba_ssm"):
        got = selective_scan(**given, backend=backend, reverse=reverse)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
