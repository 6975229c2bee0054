"""The model's behaviour: branches, averaging, independence of the batch, initialisation, clear refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prism_model import Prism, PrismConfig, prism_loss
from prism_model.losses import uniformity

CONFIG = PrismConfig(feature_size=4, center_length=100, d_model=16, n_layer=2, d_state=4, n_context=2)


def inputs(batch: int = 3, length: int = 128, config: PrismConfig = CONFIG) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    sequence = torch.eye(5, 4)[torch.randint(0, 5, (batch, length), generator=g)]
    return (
        sequence,
        torch.randn(batch, length, config.signal_size, generator=g),
        torch.randn(batch, config.feature_size, generator=g),
    )


def model(config: PrismConfig = CONFIG) -> Prism:
    torch.manual_seed(0)
    return Prism(config).eval()


@torch.no_grad()
def test_predictions_do_not_depend_on_the_batch() -> None:
    prism, given = model(), inputs(5)
    together = prism(*given)
    for i in range(5):
        alone = prism(*(t[i : i + 1] for t in given))
        torch.testing.assert_close(alone.original, together.original[i : i + 1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.adjusted, together.adjusted[i : i + 1], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_one_branch_alone_is_the_same() -> None:
    prism, given = model(), inputs()
    both = prism(*given)
    original, adjusted = prism(*given, branches="original"), prism(*given, branches="adjusted")
    assert original.adjusted is None
    assert original.contexts is None
    assert adjusted.original is None
    torch.testing.assert_close(original.original, both.original)
    torch.testing.assert_close(adjusted.adjusted, both.adjusted)
    assert both.contexts.shape == (3, 16, 2)


@torch.no_grad()
def test_averaging() -> None:
    """The head is not linear, so the two averages differ; with one context they do not."""
    prism, given = model(), inputs()
    for layer in (prism.encoder.projection, prism.signal_in, *prism.head[::2]):
        layer.weight *= 10  # far enough from linear to tell
    hidden, prediction = (prism(*given, averaging=a).adjusted for a in ("hidden", "prediction"))
    assert not torch.allclose(hidden, prediction, rtol=1e-3)
    one = model(replace(CONFIG, n_context=1))
    torch.testing.assert_close(*(one(*given, averaging=a).adjusted for a in ("hidden", "prediction")))


@torch.no_grad()
def test_the_adjusted_prediction_is_the_average_over_contexts() -> None:
    """By definition: weight the signal embedding by each context and run the original branch."""
    prism, (sequence, signals, features) = model(), inputs()
    out = prism(sequence, signals, features, averaging="prediction")
    each = []
    for i in range(2):
        embedded = prism.sequence_in(sequence) + prism.signal_in(signals) * out.contexts[:, None, :, i]
        pooled = prism.backbone(embedded)[:, 14:114].mean(1)
        each.append(prism.head(torch.cat([pooled, features], 1))[:, 0])
    torch.testing.assert_close(out.adjusted, torch.stack(each).mean(0), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_encoder_signals() -> None:
    prism, (sequence, signals, features) = model(replace(CONFIG, encoder_signals=(1, 2))), inputs()
    before = prism(sequence, signals, features)
    signals = signals.clone()
    signals[..., 0] += 1
    after = prism(sequence, signals, features)
    assert torch.equal(before.contexts, after.contexts)
    assert not torch.equal(before.original, after.original)
    for bad in ((3,), (), (1, 0)):
        with pytest.raises(ValueError, match="must name channels of 0 to 2"):
            Prism(replace(CONFIG, encoder_signals=bad))
    with pytest.raises(ValueError, match="roles of a store's tracks"):
        Prism(replace(CONFIG, encoder_signals="background"))


def test_without_contexts_signals_or_features() -> None:
    sequence, signals, features = inputs()
    out = model(replace(CONFIG, n_context=0))(sequence, signals, features)
    assert out.adjusted is None
    terms = prism_loss(out, torch.zeros(3))
    assert terms.intervention is None
    assert torch.equal(terms.total, terms.prediction)
    alone = model(replace(CONFIG, n_context=0, signal_size=0, feature_size=0, bidirectional=False))
    assert alone(sequence).original.shape == (3,)
    with pytest.raises(ValueError, match="nothing to learn contexts from"):
        replace(CONFIG, signal_size=0)


def test_the_mamba_of_one_direction_is_causal() -> None:
    from prism_model.backbone import Mixer

    torch.manual_seed(0)
    for bidirectional in (False, True):
        mixer = Mixer(8, d_state=4, bidirectional=bidirectional)
        x = torch.randn(1, 30, 8)
        changed = x.clone()
        changed[:, 20] += 1
        with torch.no_grad():
            same = torch.isclose(mixer(x), mixer(changed), atol=1e-7).all(-1)[0]
        assert same[:20].all() == (not bidirectional)
        assert not same[20]


def test_initialisation() -> None:
    prism = Prism()
    for name, module in prism.named_modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            assert bool((module.bias == 0).all()) == (not name.endswith("dt_proj")), name
    direction = prism.backbone.layers[0].mixer.directions[0]
    torch.testing.assert_close(direction.A_log.exp(), torch.arange(1.0, 17).expand(256, 16))
    assert (direction.D == 1).all()
    step = torch.nn.functional.softplus(direction.dt_proj.bias)
    assert step.min() >= 0.99e-3
    assert step.max() <= 0.101
    # Kaiming uniform with a = sqrt(5) over 256 inputs is uniform within 1/16; divided by sqrt(4 layers).
    for layer in prism.backbone.layers:
        assert 0.9 / 32 < layer.mixer.out_proj.weight.abs().max() <= 1 / 32
        assert 0.9 * 128**-0.5 < layer.mixer.in_proj.weight.abs().max() <= 128**-0.5


def test_loss_terms_by_hand() -> None:
    from prism_model import PrismOutput

    contexts = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])  # two orthogonal vectors of one sample
    out = PrismOutput(torch.tensor([0.5]), torch.tensor([3.0]), contexts)
    terms = prism_loss(out, torch.tensor([1.0]), alpha=2.0, beta=0.5)
    assert float(terms.prediction) == pytest.approx(0.5 * 0.5**2)
    assert float(terms.intervention) == pytest.approx(2.0 - 0.5)
    expected = math.log(2 * math.exp(0.0) + 2 * math.exp(-4.0))
    assert float(terms.uniformity) == pytest.approx(expected, rel=1e-5)
    assert float(terms.total) == pytest.approx(0.125 + 2 * 1.5 + 0.5 * expected, rel=1e-5)
    assert float(uniformity(torch.ones(1, 2, 2))) == pytest.approx(math.log(4), rel=1e-5)
    with pytest.raises(ValueError, match=r"target has shape \(2,\)"):
        prism_loss(out, torch.zeros(2))
    with pytest.raises(ValueError, match="branches='both'"):
        prism_loss(PrismOutput(None, out.adjusted, contexts), torch.zeros(1))


def test_wrong_inputs_are_named() -> None:
    prism, (sequence, signals, features) = model(), inputs()
    with pytest.raises(ValueError, match=r"signals must be \(3, 128, 3\).*is \(3, 128, 2\)"):
        prism(sequence, signals[..., :2], features)
    with pytest.raises(ValueError, match=r"features must be \(3, 4\).*is None"):
        prism(sequence, signals)
    with pytest.raises(ValueError, match="fewer than the 100 central ones"):
        prism(sequence[:, :90], signals[:, :90], features)
    with pytest.raises(ValueError, match="too short"):
        Prism(replace(CONFIG, center_length=20))(sequence[:, :40], signals[:, :40], features)
    with pytest.raises(ValueError, match="one-hot"):
        prism(sequence[..., 0], signals, features)
    with pytest.raises(ValueError, match="no adjusted branch"):
        model(replace(CONFIG, n_context=0))(sequence, signals, features, branches="adjusted")


def test_bf16_is_close_to_float32() -> None:
    prism, given = model(), inputs()
    expected = prism(*given)
    with torch.autocast("cpu", torch.bfloat16):
        out = prism(*given)
    assert out.original.dtype == torch.float32
    torch.testing.assert_close(out.original, expected.original, rtol=0.05, atol=0.02)
    out.adjusted.sum().backward()


def test_importing_the_package_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, prism_model; assert 'torch' not in sys.modules; prism_model.Prism; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
