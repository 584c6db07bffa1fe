"""Parts of the encoder of bands against closed forms: resampling, filling, apertures, shapes."""

from __future__ import annotations

from math import erf, log, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse.encoders._band_grid import fill_missing, regrid, shared_lengths
from mmfuse.encoders._band_instruments import Grid
from mmfuse.encoders._band_networks import (
    NetworkFeatures,
    SmallCNN,
    Symmetric,
    turned,
    widen_stem,
)
from mmfuse.encoders._band_photometry import (
    Photometry,
    asinh_magnitude,
    circle,
    photometry_names,
)


def grid(n_pixels=33, bands=("g", "r"), noise=1.0, apertures=(1.0, 2.0, 3.0), scale=0.2, **more):
    count = len(bands)
    fields = {"softening": (noise,) * count, "zero_point": (25.0,) * count}
    fields |= {"mean": (0.0,) * count, "sd": (1.0,) * count, **more}
    return Grid("", tuple(bands), scale, n_pixels, (noise,) * count, apertures=apertures, **fields)


def gaussian(n, sigma_x, sigma_y=None, angle=0.0, total=1.0):
    """An elliptical normal distribution, sampled at pixel centres; sums to `total`."""
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    sigma_y = sigma_x if sigma_y is None else sigma_y
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    shape = np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))
    return total * shape / (2 * pi * sigma_x * sigma_y)


def named(values, grid):
    return dict(zip(photometry_names(grid), np.asarray(values).T, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 30),
    st.floats(0.05, 4),
    st.floats(0.05, 4),
    st.integers(0, 10_000),
)
def test_flux_is_kept_where_the_new_grid_holds_the_old(n, scale_in, scale_out, seed):
    cube = np.random.default_rng(seed).normal(5, 1, (2, n, n + 2))
    n_out = int(np.ceil((n + 2) * scale_in / scale_out)) + 2
    rows = shared_lengths(n, scale_in, n_out, scale_out)
    columns = shared_lengths(n + 2, scale_in, n_out, scale_out)
    out = rows @ cube @ columns.T
    np.testing.assert_allclose(out.sum(axis=(1, 2)), cube.sum(axis=(1, 2)), rtol=1e-10)


def test_resampling_by_whole_factors_sums_and_divides():
    cube = np.random.default_rng(0).normal(size=(1, 12, 12))
    blocks = cube.reshape(1, 4, 3, 4, 3).sum(axis=(2, 4))
    np.testing.assert_allclose(regrid(cube, 0.1, 4, 0.3), blocks, atol=1e-12)
    np.testing.assert_allclose(regrid(cube, 0.1, 4, 0.3, brightness=True), blocks / 9, atol=1e-12)
    finer = regrid(cube, 0.3, 36, 0.1)
    np.testing.assert_allclose(finer, np.kron(cube[0], np.ones((3, 3)))[None] / 9, atol=1e-12)


@pytest.mark.parametrize("scale_out", [0.07, 0.31, 0.5])
def test_a_galaxy_keeps_its_flux_and_place(scale_out):
    cube = gaussian(41, 3.0, 2.0, 0.4, total=100.0)[None]
    n_out = int(41 * 0.2 / scale_out)
    out = regrid(cube, 0.2, n_out, scale_out)
    assert abs(np.nansum(out) / 100 - 1) < 1e-4
    place = (np.arange(n_out) - (n_out - 1) / 2) * scale_out
    assert abs((np.nan_to_num(out[0]).sum(axis=0) * place).sum()) < 1e-6


def test_constant_brightness_stays_constant_and_flux_follows_the_area():
    cube = np.full((1, 20, 20), 7.0)
    np.testing.assert_allclose(regrid(cube, 1.0, 11, 1.5, brightness=True), 7.0)
    np.testing.assert_allclose(regrid(cube, 1.0, 11, 1.5), 7 * 1.5**2)


def test_cropping_and_padding():
    cube = np.arange(25.0).reshape(1, 5, 5)
    np.testing.assert_allclose(regrid(cube, 1.0, 3, 1.0), cube[:, 1:4, 1:4])
    padded = regrid(cube, 1.0, 7, 1.0)
    np.testing.assert_allclose(padded[:, 1:6, 1:6], cube, atol=1e-12)
    assert np.isnan(padded[0, 0]).all() and np.isnan(padded).sum() == 49 - 25


def test_unobserved_pixels_stay_so_through_resampling():
    cube = np.ones((1, 8, 8))
    cube[0, :2, :2], cube[0, 6:, 6:] = np.nan, np.inf
    out = regrid(cube, 1.0, 4, 2.0)
    assert np.isnan(out[0, 0, 0]) and np.isposinf(out[0, 3, 3])
    np.testing.assert_allclose(out[np.isfinite(out)], 4.0)
    cube[0, 0, 0] = np.nan  # one pixel of four: filled from its neighbours
    cube[0, :2, :2] = [[np.nan, 1], [1, 1]]
    np.testing.assert_allclose(regrid(cube, 1.0, 4, 2.0)[0, 0, 0], 4.0)


def test_filling_keeps_constants_and_turns_with_the_image():
    rng = np.random.default_rng(1)
    flat = torch.full((1, 1, 40, 40), 3.0, dtype=torch.float64)
    flat[0, 0, :30, :30] = torch.nan
    np.testing.assert_allclose(fill_missing(flat).numpy(), 3.0)
    image = torch.as_tensor(rng.normal(size=(1, 2, 15, 15)))
    image[0, 0, 3:6, 2:9], image[0, 1] = torch.nan, torch.nan
    filled = fill_missing(image)
    good = torch.isfinite(image)
    assert torch.equal(filled[good], image[good]) and torch.isfinite(filled[0, 0]).all()
    assert torch.isnan(filled[0, 1]).all()
    for which in range(8):
        again = fill_missing(turned(image, which))
        np.testing.assert_allclose(again[0, 0], turned(filled, which)[0, 0], atol=1e-12)


def test_what_a_batch_holds_does_not_change_a_filling():
    image = torch.randn(2, 1, 30, 30, generator=torch.Generator().manual_seed(0))
    image[0, 0, :25, :25], image[1, 0, 0, 0] = torch.nan, torch.nan
    np.testing.assert_array_equal(fill_missing(image)[1:], fill_missing(image[1:]))


@pytest.mark.parametrize("n", [20, 21])
@pytest.mark.parametrize("radius", [0.4, 2.0, 7.3])
def test_the_area_of_a_circle(n, radius):
    part = circle(n, radius)
    np.testing.assert_allclose(part.sum(), pi * radius**2)
    assert part.min() > -1e-12 and part.max() < 1 + 1e-12
    np.testing.assert_allclose(part, np.rot90(part), atol=1e-12)
    np.testing.assert_allclose(part, part[::-1], atol=1e-12)


def test_magnitudes_are_pogsons_when_bright_and_linear_when_faint():
    noise, zero = torch.tensor(2.0, dtype=torch.float64), torch.tensor(27.0)
    bright = torch.tensor([1e4, 1e6], dtype=torch.float64)
    expected = 27 - 2.5 * torch.log10(bright)
    np.testing.assert_allclose(asinh_magnitude(bright, noise, zero), expected, atol=1e-6)
    faint = torch.tensor([-0.02, 0.0, 0.02], dtype=torch.float64)
    a, b = 2.5 / log(10), sqrt(2.5 / log(10)) * 2.0
    np.testing.assert_allclose(
        asinh_magnitude(faint, noise, zero), 27 - a * (faint / (2 * b) + log(b)), atol=1e-8
    )


def test_aperture_magnitudes_of_a_gaussian():
    setup = grid(n_pixels=65, scale=1.0, apertures=(4.0, 8.0, 30.0), noise=1e-3)
    image = torch.as_tensor(np.stack([gaussian(65, 6, total=1e3), gaussian(65, 6, total=500)]))
    found = named(Photometry(setup)(image[None]), setup)
    for radius in (4, 8, 30):
        flux = 1e3 * (1 - np.exp(-(radius**2) / (2 * 36)))
        mag = 25 - 2.5 * np.log10(flux)
        assert abs(found[f"g_mag_{radius}"][0] - mag) < 4e-3  # pixels are not small
    assert abs(found["g-r_colour_8"][0] + 2.5 * np.log10(2)) < 1e-3
    assert abs(found["ln_radius50"][0] - log(6 * sqrt(2 * log(2)))) < 0.01
    wanted = 5 * np.log10(sqrt(log(5) / -log(0.8)))  # r80 / r20 of a Gaussian
    assert abs(found["concentration"][0] - wanted) < 0.05
    assert found["g_coverage"][0] == 1


@pytest.mark.parametrize("which", range(8))
def test_photometry_of_a_turned_cutout_is_the_same(which):
    rng = np.random.default_rng(2)
    image = torch.as_tensor(rng.normal(0, 1, (3, 2, 24, 24)) + gaussian(24, 4, 2, 0.3, 400.0))
    image[0, 0, :5, 3:9], image[1, 1] = torch.nan, torch.nan
    measure = Photometry(grid(24, apertures=(0.5, 1.0, 2.0)))
    np.testing.assert_allclose(measure(turned(image, which)), measure(image), rtol=2e-5, atol=2e-5)


def test_photometry_hardly_changes_under_any_rotation():
    setup = grid(65, ("g",), scale=1.0, apertures=(6.0, 12.0, 30.0), noise=1e-3)
    measure = Photometry(setup)
    values = [
        measure(torch.as_tensor(gaussian(65, 6, 3, angle, 100.0))[None, None])[0].numpy()
        for angle in (0.0, 0.3, 0.8)
    ]
    np.testing.assert_allclose(values[1], values[0], atol=5e-3)
    np.testing.assert_allclose(values[2], values[0], atol=5e-3)


def test_shapes_of_known_images():
    setup = grid(41, ("g",), scale=1.0, apertures=(5.0, 10.0, 20.0), noise=1e-6)
    round_, long = gaussian(41, 4, total=100.0), gaussian(41, 6, 2, 0.5, 100.0)
    moved = np.roll(round_, 6, axis=1)
    images = torch.as_tensor(np.stack([round_, long, moved]))[:, None]
    found = named(Photometry(setup)(images), setup)
    assert abs(found["ellipticity"][0]) < 1e-6
    # a Gaussian under a Gaussian weight: 1/s'^2 = 1/s^2 + 1/w^2
    a, b = 1 / (1 / 36 + 1 / 100), 1 / (1 / 4 + 1 / 100)
    assert abs(found["ellipticity"][1] - (a - b) / (a + b)) < 1e-3
    assert abs(found["asymmetry"][0]) < 1e-3 and abs(found["asymmetry"][1]) < 1e-3
    # two equal Gaussians 12 apart, one of them negative: 2 erf(d / (2 sqrt 2 s))
    assert abs(found["asymmetry"][2] - 2 * erf(12 / (2 * sqrt(2) * 4))) < 0.05


def test_noise_alone_has_no_asymmetry():
    setup = grid(32, ("g", "r"), apertures=(0.5, 1.0, 3.0))
    noise = torch.randn(400, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    found = named(Photometry(setup)(noise), setup)
    assert abs(np.nanmean(found["asymmetry"])) < 0.01
    assert np.isnan(found["ln_radius50"]).any()  # no flux, no size
    assert np.isfinite(found["g_mag_3"]).all()  # negative flux has a magnitude


def test_network_input_is_the_stretch_in_closed_form():
    class Pixels(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    setup = grid(3, ("g",), softening=(2.0,), mean=(0.5,), sd=(3.0,))
    image = torch.linspace(-50, 50, 9).reshape(1, 1, 3, 3)
    out = NetworkFeatures(setup, Pixels(), None)(image)
    expected = (np.arcsinh(image.numpy() / 2) - 0.5) / 3
    np.testing.assert_allclose(out[0, :9], expected.ravel(), rtol=1e-5)
    assert out[0, 0] < 0 and out[0, 9] == 1


def test_a_network_averaged_over_the_symmetries():
    torch.manual_seed(0)
    network = Symmetric(SmallCNN(2)).eval()
    image = torch.randn(2, 2, 13, 13)
    expected = network(image)
    for which in range(8):
        np.testing.assert_allclose(
            network(turned(image, which)).detach(), expected.detach(), atol=1e-5
        )
    bare = network.network
    assert (bare(turned(image, 1)) - bare(image)).abs().max() > 1e-3
    assert len({turned(image, w).numpy().tobytes() for w in range(8)}) == 8


def test_training_turns_every_sample_by_itself_and_learns():
    torch.manual_seed(0)
    y, x = np.mgrid[:12, :12]
    bar = torch.as_tensor(np.stack([y == 5, x == 2]), dtype=torch.float32)[:, None]
    bars = bar.repeat(8, 1, 1, 1)
    model = Symmetric(SmallCNN(1))
    assert len({row.tobytes() for row in model(bars).detach().numpy().round(3)}) > 4
    images = torch.randn(32, 1, 8, 8)
    target = (images.mean(dim=(1, 2, 3)) > 0).float()
    whole = torch.nn.Sequential(model, torch.nn.Linear(SmallCNN.width, 1))
    steps = torch.optim.Adam(whole.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(whole(images)[:, 0], target)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_are_finite_where_pixels_are_missing():
    torch.manual_seed(0)
    module = NetworkFeatures(grid(12), SmallCNN(2), None).train()
    image = torch.randn(2, 2, 12, 12)
    image[0, 0], image[1, 1, :4, :4] = torch.nan, torch.nan
    module(image).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_a_widened_stem_sees_a_grey_cutout_as_the_picture(backbone):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": 32} if backbone.startswith("vit") else {}
    model = timm.create_model(backbone, pretrained=False, num_classes=0, **size).eval()
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        expected = model(grey.repeat(1, 3, 1, 1))
        widen_stem(model, 7)
        np.testing.assert_allclose(model(grey.repeat(1, 7, 1, 1)), expected, atol=1e-4)


def test_a_model_without_a_known_stem():
    with pytest.raises(ValueError, match="features must be a backbone whose first layer timm nam"):
        widen_stem(torch.nn.Linear(2, 2), 4)
