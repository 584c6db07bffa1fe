"""The encoder of bands: files, states, fusion of instruments, saving, and real cutouts."""

from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor

import mmfuse
from mmfuse import FusionRegressor, Presence
from mmfuse.encoders import MultiBandEncoder
from mmfuse.exceptions import EncodingError, WeightsNotFoundError
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import nmad

ONE = {"bands": ["g", "r"], "pixel_scale": 0.2, "noise": 1.0}
TWO = {
    "optical": {"bands": ["g", "r"], "pixel_scale": 0.2, "noise": 1.0, "empty_value": -99.9},
    "infrared": {"bands": ["W1"], "pixel_scale": 0.5, "noise": 1.0},
}


def cubes(n=4, bands=2, side=20, seed=0, scale=0.2):
    """Round galaxies in noise."""
    rng = np.random.default_rng(seed)
    x = (np.arange(side) - (side - 1) / 2) * scale
    shape = np.exp(-0.5 * (x[:, None] ** 2 + x**2) / 0.6**2)
    flux = rng.uniform(20, 60, (n, bands, 1, 1))
    return (flux * shape + rng.normal(size=(n, bands, side, side))).astype(np.float32)


def both(n=4):
    return [
        {"optical": a, "infrared": b} for a, b in zip(cubes(n), cubes(n, 1, 8, 1, 0.5), strict=True)
    ]


def make(instruments=ONE, **params):
    return MultiBandEncoder(instruments, cache=False, device="cpu", n_jobs=1, **params)


def write_fits(path, cube, scale=0.2, names=None):
    fits = pytest.importorskip("astropy.io.fits")
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CDELT1"], header["CDELT2"] = -scale / 3600, scale / 3600
    if names is None:
        fits.PrimaryHDU(cube, header).writeto(path)
    else:
        parts = [fits.ImageHDU(c, header, name=n) for c, n in zip(cube, names, strict=True)]
        fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)
    return path


def write_tiff(path, cube, scale=10.0, nodata=None, geographic=False):
    tifffile = pytest.importorskip("tifffile")
    keys = (1, 1, 0, 1, 1024, 0, 1, 2 if geographic else 1)
    tags = [(33550, "d", 3, (scale, scale, 0.0), True), (34735, "H", 8, keys, True)]
    if nodata is not None:
        tags.append((42113, "s", 0, str(nodata), True))
    tifffile.imwrite(
        path,
        np.moveaxis(cube, 0, 2),
        extratags=tags,
        photometric="minisblack",
        planarconfig="contig",
    )
    return path


def test_files_give_what_arrays_give(tmp_path):
    cube = cubes(1)[0]
    np.save(tmp_path / "a.npy", cube)
    np.savez(tmp_path / "bands.npz", g=cube[0], r=cube[1])
    np.savez(tmp_path / "one.npz", cube=cube)
    files = [
        tmp_path / "a.npy",
        tmp_path / "bands.npz",
        str(tmp_path / "one.npz"),
        write_fits(tmp_path / "a.fits", cube),
        write_fits(tmp_path / "bands.fits", cube, names=["G", "R"]),
        write_tiff(tmp_path / "a.tif", cube, scale=0.2),
        (tmp_path / "a.npy").read_bytes(),
        {"bytes": None, "path": str(tmp_path / "a.fits")},
        np.moveaxis(cube, 0, 2),
        torch.as_tensor(cube),
        cube.tolist(),
    ]
    encoder = make().fit(cube[None])
    expected = encoder.transform(cube[None])
    values = encoder.transform(files)
    for file, row in zip(files, values, strict=True):
        np.testing.assert_allclose(row, expected[0], rtol=1e-6, err_msg=str(file)[:80])


@pytest.mark.parametrize("write", [write_fits, write_tiff])
def test_the_pixel_scale_comes_from_the_file(write, tmp_path):
    path = write(tmp_path / "a", cubes(1)[0], scale=0.4)
    encoder = make({"bands": ["g", "r"]}).fit([path])
    assert encoder.pixel_scales_[""] == pytest.approx(0.4)
    assert encoder.grids_[0].n_pixels == 20
    other = write(tmp_path / "b", cubes(1)[0], scale=0.3)
    with pytest.raises(EncodingError, match="pixels of 0.3, and pixel_scale is 0.4"):
        encoder.encode([other])
    with pytest.raises(EncodingError, match="row 0 .*pixels of 0.4, and pixel_scale is 0.2; corr"):
        make().fit(cubes()).encode([path])


def test_what_a_geotiff_marks_as_no_data_was_not_observed(tmp_path):
    cube = cubes(1)[0]
    marked = cube.copy()
    marked[0, :4], cube[0, :4] = -5, np.nan
    path = write_tiff(tmp_path / "a.tif", marked, scale=0.2, nodata=-5)
    encoder = make().fit(cubes())
    np.testing.assert_allclose(encoder.transform([path]), encoder.transform([cube]), rtol=1e-6)
    degrees = write_tiff(tmp_path / "b.tif", marked, scale=1e-4, geographic=True)
    encoder.transform([degrees])  # degrees are no pixel scale to compare
    with pytest.raises(ValueError, match="needs 'pixel_scale' in instruments: no training file"):
        make({"bands": ["g", "r"]}).fit([degrees])


@pytest.mark.filterwarnings("ignore:bands. 1 of")
def test_several_instruments_in_one_file(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    cell = both(1)[0]
    np.savez(tmp_path / "a.npz", **cell)
    parts = [fits.ImageHDU(cell[name], name=name) for name in cell]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(tmp_path / "a.fits")
    paths = {}
    for name in cell:
        paths[name] = str(tmp_path / f"{name}.npy")
        np.save(paths[name], cell[name])
    np.savez(tmp_path / "half.npz", optical=cell["optical"])
    np.savez(tmp_path / "other.npz", radio=cell["optical"])
    encoder = make(TWO).fit([cell])
    expected = encoder.transform([cell])
    for given in (tmp_path / "a.npz", tmp_path / "a.fits", paths):
        np.testing.assert_allclose(encoder.transform([given]), expected, rtol=1e-6)
    half = encoder.transform([tmp_path / "half.npz"])
    np.testing.assert_array_equal(half, encoder.transform([{"optical": cell["optical"]}]))
    np.savez(tmp_path / "dark.npz", **{name: np.nan * cell[name] for name in cell})
    assert encoder.encode([tmp_path / "dark.npz"]).presence.tolist() == [Presence.ABSENT]
    columns = encoder.split_column([tmp_path / "a.npz", tmp_path / "half.npz", tmp_path / "gone"])
    parts = encoder.split()
    values = [
        parts[n].fit(columns[n][:1]).set_params(on_error="mark").encode(columns[n]) for n in parts
    ]
    assert [part.presence.tolist() for part in values] == [[1, 1, 2], [1, 0, 2]]
    np.testing.assert_allclose(np.hstack([p.values[:1] for p in values]), expected, rtol=1e-5)
    with pytest.raises(EncodingError, match="optical .*no entry of this name, and none without a"):
        encoder.encode([{"optical": tmp_path / "other.npz"}])


def test_a_changed_file_in_a_dict_is_encoded_anew(tmp_path):
    encoder = make(TWO).fit(both()).set_params(cache=tmp_path / "cache")
    path = tmp_path / "a.npy"
    np.save(path, cubes(1)[0])
    first = encoder.transform([{"optical": str(path)}])
    np.save(path, 2 * cubes(1)[0])
    assert not np.array_equal(first, encoder.transform([{"optical": str(path)}]), equal_nan=True)


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_bad_samples_name_row_and_file(tmp_path):
    (tmp_path / "odd").write_bytes(b"neither")
    np.savez(tmp_path / "other.npz", a=np.ones((4, 4)), b=np.ones((4, 4)))
    whole = write_fits(tmp_path / "a.fits", cubes(1)[0])
    (tmp_path / "cut.fits").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    write_fits(tmp_path / "long.fits", cubes(1)[0])
    infinite = cubes(1)[0]
    infinite[0, 0, 0] = np.inf
    encoder = make().fit(cubes())
    for sample, message in {
        tmp_path / "odd": r"\(.*odd\): not a FITS, npy, npz or TIFF file",
        tmp_path / "other.npz": "must hold one array, or the bands g, r; it holds a, b",
        tmp_path / "cut.fits": "cut.fits.*: cannot read this FITS file",
        tmp_path / "cut.npy": "cut.npy.*: cannot read this npy file",
    }.items():
        with pytest.raises(EncodingError, match=f"bands, row 1 .*{message}"):
            encoder.encode([None, sample])
    for sample, message in [
        (np.ones((3, 9, 9)), r"a cutout must have shape \(2, height, width\)"),
        (np.ones((2, 2, 9)), "at least 3 x 3 pixels"),
        (infinite, "pixels are infinite; mark what was not observed with NaN"),
        (np.ones((2, 9, 9), complex), "pixels must be real numbers, got complex128"),
        (np.ma.masked_invalid(cubes(1)[0]), "a masked array is not taken"),
        (7, "expected an array, a path or the bytes of a FITS, .*got an object of type int"),
        ({"hst": np.ones((2, 9, 9))}, "there is no instrument 'hst'"),
        ([[1.0, 2.0], [3.0]], "ValueError"),
    ]:
        with pytest.raises(EncodingError, match=f"bands, row 0: .*{message}"):
            encoder.encode([sample])


def test_bad_samples_of_several_instruments(tmp_path):
    encoder = make(TWO).fit(both())
    for sample, message in [
        (cubes(1)[0], "a cell must be a dict of optical, infrared, or a file with"),
        ({"optical": tmp_path / "gone.npy"}, r"optical \(.*gone.npy\): no such file|no such file"),
        ({"optical": np.ones((1, 9, 9))}, "optical: a cutout must have shape"),
        ({"radio": 1}, "there is no instrument 'radio'; instruments: 'optical', 'infrared'"),
    ]:
        with pytest.raises(EncodingError, match=message):
            encoder.encode([sample])
    np.savez(tmp_path / "no.npz", x=np.ones((4, 4)))
    with pytest.raises(EncodingError, match="no pixels under the names optical, infrared"):
        encoder.encode([tmp_path / "no.npz"])


def test_states_of_a_cell():
    gone, nothing = np.full((2, 20, 20), np.nan), np.full((2, 20, 20), -99.9, np.float32)
    cell = both(1)[0]
    part = nothing.copy()
    part[0] = cell["optical"][0]
    encoder = make(TWO, on_error="mark").fit(both())
    column = [
        cell,
        {"optical": gone, "infrared": None},
        {"optical": nothing},
        {"optical": Presence.EMPTY, "infrared": np.full((1, 8, 8), np.nan)},
        {"optical": np.ones(3)},
        {"optical": part},
        {"optical": gone, "infrared": cell["infrared"]},
        {"optical": nothing, "infrared": cell["infrared"]},
    ]
    with pytest.warns(UserWarning, match="1 of 8 cells"):
        encoded = encoder.encode(column, name="sky")
    assert encoded.presence.tolist() == [1, 0, 3, 3, 2, 1, 1, 1]
    assert "sky, row 4: optical: a cutout must have shape" in encoded.errors[4]
    found = pd.DataFrame(encoded.values, columns=encoder.get_feature_names_out())
    assert np.isfinite(found.loc[0]).all() and found.loc[[1, 2, 3, 4]].isna().all(axis=None)
    shares = found[[c for c in found if c.endswith("_coverage")]]
    assert shares.loc[[5, 6, 7]].to_numpy().tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 1]]
    optical = [c for c in found if "optical" in c and "coverage" not in c]
    assert found.loc[[6, 7], optical].isna().all(axis=None)
    assert np.isfinite(found.loc[6, "bands_infrared_ln_radius50"])
    assert found.loc[5, [c for c in optical if "_r_mag" in c or "colour" in c]].isna().all()
    assert found.loc[5, [c for c in optical if "_g_mag" in c]].notna().all()


@pytest.mark.parametrize("features", ["photometry", "cnn"])
def test_a_file_without_a_single_value_is_absent(features, tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 20, 20), np.nan))
    encoder = make(features=features).fit(cubes()).set_params(cache=tmp_path / "cache")
    for _ in range(2):  # read, then from the cache
        encoded = encoder.encode([tmp_path / "a.npy"])
        assert encoded.presence.tolist() == [0] and np.isnan(encoded.values).all()


def test_how_much_of_a_band_must_be_observed():
    cube = cubes(1)[0]
    cube[0, :8] = np.nan  # 60 % are left
    names = make().fit(cubes()).get_feature_names_out()
    for least, kept in ((0.5, True), (0.7, False)):
        encoder = make(min_coverage=least).fit(cubes())
        found = dict(zip(names, encoder.transform([cube])[0], strict=True))
        assert np.isfinite(found["bands_g_mag_0.6"]) == kept
        assert found["bands_g_coverage"] == pytest.approx(0.6 if kept else 0)
        assert np.isfinite(found["bands_r_mag_0.6"])


@pytest.mark.parametrize("features", ["photometry", "cnn"])
def test_late_fusion_is_one_encoder_per_instrument(features):
    column = both()
    encoder = make(TWO, features=features).fit(column)
    parts, columns = encoder.split(), encoder.split_column([*column, None, Presence.FAILED])
    early = make(TWO, features=features, fusion="early", pixel_scale=0.25)
    assert early.split()["optical"].get_params() == parts["optical"].get_params()
    assert list(parts) == list(columns) == ["optical", "infrared"]
    fitted = {name: part.fit(columns[name]) for name, part in parts.items()}
    values = np.hstack([fitted[name].transform(columns[name]) for name in parts])
    np.testing.assert_allclose(values[:4], encoder.transform(column), rtol=1e-5, atol=1e-5)
    names = [n for part in fitted.values() for n in part.get_feature_names_out()]
    assert names == encoder.get_feature_names_out().tolist()
    states = fitted["optical"].encode(columns["optical"]).presence
    assert states.tolist() == [1, 1, 1, 1, 0, 2]
    with pytest.raises(ValueError, match="split needs an encoder of several"):
        make().split()


@pytest.mark.parametrize("features", ["photometry", "cnn"])
def test_early_fusion_stacks_on_one_grid(features):
    encoder = make(TWO, fusion="early", features=features).fit(both())
    (grid,) = encoder.grids_
    assert grid.bands == ("optical_g", "optical_r", "infrared_W1")
    assert (grid.pixel_scale, grid.n_pixels) == (0.2, 20)
    assert grid.noise == pytest.approx((1, 1, 0.4))
    full, half = encoder.transform([both()[0], {"optical": both()[0]["optical"]}])
    found = dict(zip(encoder.get_feature_names_out(), half, strict=True))
    assert np.isfinite(full).all() and found["bands_infrared_W1_coverage"] == 0
    if features == "photometry":
        assert np.isnan(found["bands_infrared_W1_mag_0.6"])
        assert np.isnan(found["bands_optical_r-infrared_W1_colour_0.6"])
        assert found["bands_optical_g_mag_0.6"] == full[1]
    else:
        assert np.isfinite(half).all() and not np.allclose(full[:-3], half[:-3])


def test_early_fusion_measures_the_same_flux_in_coarse_and_fine_pixels():
    fine = cubes(1, 1, 40, scale=0.2)[0] * 100
    coarse = fine.reshape(1, 20, 2, 20, 2).sum(axis=(2, 4))
    spec = {
        "a": {"bands": ["x"], "pixel_scale": 0.2, "noise": 1.0},
        "b": {"bands": ["x"], "pixel_scale": 0.4, "noise": 2.0},
    }
    encoder = make(spec, fusion="early", apertures=(2.0, 3.0)).fit([{"a": fine, "b": coarse}])
    found = encoder.transform([{"a": fine, "b": coarse}])[0]
    np.testing.assert_allclose(found[:2], found[2:4], atol=2e-3)
    assert abs(found[4]) < 2e-3  # the colour


def test_a_backbone_of_timm(tmp_path):
    pytest.importorskip("timm")
    encoder = make(features="resnet10t", weights=None, image_size=32).fit(cubes())
    values = encoder.transform(cubes(2))
    assert values.shape == (2, 514) and np.isfinite(values).all()
    turned = np.rot90(cubes(2), 1, axes=(2, 3)).copy()
    np.testing.assert_allclose(encoder.transform(turned), values, rtol=1e-3, atol=1e-4)
    assert not np.allclose(
        clone(encoder).set_params(random_state=1).fit(cubes()).transform(cubes(2)), values
    )
    with pytest.raises(ValueError, match="features must be 'photometry', 'cnn' or a model of timm"):
        make(features="resnet10").fit(cubes())
    with pytest.raises(WeightsNotFoundError, match="there is no weight file .*no.pth"):
        make(features="resnet10t", weights=tmp_path / "no.pth").fit(cubes())
    with pytest.raises(ValueError, match="weights must be 'auto', None or a file .* got 3"):
        make(features="resnet10t", weights=3).fit(cubes())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "instruments must be a dict such as"),
        ({"hsc": ["g"]}, r"instruments\['hsc'\] must be a dict with the key 'bands'"),
        ({"path": ONE}, "name of an instrument must be a string and none of array, bytes, path"),
        ({"bands": "gr"}, "bands must be a list of different names, such as"),
        ({"bands": ["g", "g"]}, "bands must be a list of different names"),
        ({**ONE, "scale": 1}, "has the key 'scale'; known keys: bands, pixel_scale"),
        ({**ONE, "pixel_scale": 0}, "pixel_scale must be a finite number above 0 or None, got 0"),
        ({**ONE, "noise": [1]}, "noise must be one finite number above 0 or a list with one for"),
        ({**ONE, "softening": -1}, "softening must be one finite number above 0"),
        ({**ONE, "quantity": "mag"}, r"quantity must be 'flux' .* or 'brightness' .*got 'mag'"),
        ({**ONE, "background": "sky"}, "background must be None .* or 'border' .*got 'sky'"),
        ({**ONE, "hdu": 1.5}, "hdu must be the name or number of a FITS extension or None"),
    ],
)
def test_bad_instruments(spec, message):
    with pytest.raises((TypeError, ValueError), match=f"MultiBandEncoder: .*{message}"):
        make(spec).fit(cubes())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fusion": "middle"}, "fusion must be one of 'late', 'early'"),
        ({"min_coverage": 1.5}, r"min_coverage must lie in \(0, 1\], got 1.5"),
        ({"pixel_scale": 0.1}, "pixel_scale is that of the common grid .* got 0.1"),
        ({"apertures": (2, 1)}, r"apertures must be rising positive numbers or None, got \(2, 1\)"),
        ({"apertures": (1.0, 9.0)}, "apertures must be at most half of the field, 2, got 9"),
        ({"field": 0.3}, "field=0.3 must be at least three pixels of 0.2"),
        ({"weights": "x.pth"}, "weights must be 'auto' or None with features='photometry'"),
        ({"image_size": 4}, "image_size must be an integer of at least 8"),
        ({"symmetric": 1}, "symmetric must be True or False"),
    ],
)
def test_bad_arguments(params, message):
    with pytest.raises((TypeError, ValueError), match=f"MultiBandEncoder: {message}"):
        make(**params).fit(cubes())


def test_what_cannot_be_learned_from_the_training_rows(tmp_path):
    with pytest.raises(ValueError, match="'b' needs 'noise' in .*band 'x' has no pixels, or const"):
        make({"b": {"bands": ["x"], "pixel_scale": 1.0}}).fit(np.ones((3, 1, 9, 9)))
    with pytest.raises(ValueError, match="'infrared' has no cutout in the training rows"):
        make(TWO).fit([{"optical": cubes(1)[0]}])
    with pytest.raises(ValueError, match="none of the 1 training cutouts .*row 0: no such file"):
        make().fit([tmp_path / "gone.npy"])
    rows = cubes(200, 1, 24)
    encoder = make({"bands": ["g"], "pixel_scale": 0.2}).fit(rows)
    assert encoder.grids_[0].noise[0] == pytest.approx(1, rel=0.03)


def test_a_hdu_and_the_background(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    cube = cubes(1)[0]
    parts = [fits.ImageHDU(0 * cube, name="mask"), fits.ImageHDU(cube + 50, name="sci")]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(tmp_path / "a.fits")
    found = []
    for hdu in ("sci", 2):
        encoder = make({**ONE, "hdu": hdu, "background": "border"}).fit(cubes())
        found.append(encoder.transform([tmp_path / "a.fits"])[0])
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0], make().fit(cubes()).transform([cube])[0], atol=0.2)
    with pytest.raises(EncodingError, match=r"has no image extension 'x'; it has numbers \[1, 2\]"):
        make({**ONE, "hdu": "x"}).fit(cubes()).encode([tmp_path / "a.fits"])


@pytest.mark.parametrize("package", ["astropy", "tifffile"])
def test_a_missing_package_names_its_extra(package, tmp_path, monkeypatch):
    write, extra = (write_fits, "astro") if package == "astropy" else (write_tiff, "geo")
    path = write(tmp_path / "a", cubes(1)[0], scale=0.2)
    encoder = make().fit(cubes())

    def no(name):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(name, name=package)
        return import_module(name)

    monkeypatch.setattr("mmfuse._require.import_module", no)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'mmfuse\[{extra}\]'"):
        encoder.encode([path])


@pytest.mark.parametrize(("fusion", "features"), [("late", "photometry"), ("early", "cnn")])
def test_saving(fusion, features, tmp_path):
    column, y = both(12), np.linspace(0, 1, 12)
    encoder = make(TWO, fusion=fusion, features=features)
    head = EarlyFusion(C=1.0)
    model = FusionRegressor(head, encoders={"sky": encoder}, cv=3, random_state=0)
    X = mmfuse.ModalityTable({"sky": column})
    model.fit(X, y).save(tmp_path / "model")
    other = mmfuse.load(tmp_path / "model")
    np.testing.assert_allclose(other.predict(X), model.predict(X), rtol=1e-6)
    again = other.encoders_["sky"]
    assert again.instruments == TWO and again.grids_ == model.encoders_["sky"].grids_
    assert json.dumps(again.get_state())


def test_real_cutouts_of_two_telescopes():
    pytest.importorskip("astropy")
    folder = data_folder("galaxy_hsc")
    cell = {"hsc": folder / "Cut_HSC1.fits", "hst": folder / "Cut_HST1.fits"}
    spec = {"hsc": {"bands": list("grizy")}, "hst": {"bands": ["F814W"]}}
    late = make(spec).fit([cell])
    assert late.pixel_scales_ == pytest.approx({"hsc": 0.168, "hst": 0.03}, rel=1e-3)
    early = make(spec, fusion="early", pixel_scale=0.168).fit([cell])
    assert early.grids_[0].n_pixels == 44  # the 7.5 arcsec that HST has
    cube = early.preprocess(cell).numpy()
    fits = pytest.importorskip("astropy.io.fits")
    fine = fits.getdata(cell["hst"]).astype(float)
    n = 246  # of the 250 pixels lie in the grid in full
    assert cube[5].sum() == pytest.approx(fine[2 : 2 + n, 2 : 2 + n].sum(), rel=0.02)
    found = dict(zip(early.get_feature_names_out(), early.transform([cell])[0], strict=True))
    assert all(np.isfinite(value) for value in found.values())
    colours = [value for name, value in found.items() if "colour" in name]
    assert len(colours) == 5 and np.all(np.abs(colours[:4]) < 2)
    # F814W is about i: the two telescopes see the same outer light relative to the inner
    steps = [
        np.subtract(*(found[f"bands_{band}_mag_{radius}"] for radius in ("1.125", "2.25")))
        for band in ("hsc_i", "hst_F814W")
    ]
    assert abs(steps[0] - steps[1]) < 0.3


def test_redshifts_of_simulated_galaxies():
    folder = data_folder("galaxy_sim")
    images = np.load(folder / "cutouts.npz")["images"].astype(np.float32)
    y = pd.read_csv(folder / "catalog.csv")["redshift"].to_numpy()
    spec = {"bands": list("ugrizy"), "pixel_scale": 0.2, "zero_point": 27.0}
    test = np.arange(len(y)) % 3 == 0
    encoder = make(spec).fit(images[~test])
    # the noise that the cutouts were made with
    assert encoder.grids_[0].noise == pytest.approx((0.9, 1.1, 1.4, 1.7, 2.3, 3.5), rel=0.05)
    head = EarlyFusion(ExtraTreesRegressor(100, min_samples_leaf=2, random_state=0))
    model = FusionRegressor(head, encoders={"cutout": encoder}, random_state=0, cv=3)
    found = model.fit({"cutout": images[~test]}, y[~test]).predict({"cutout": images[test]})
    assert nmad(y[test], found) < 0.1
    assert nmad(y[test], np.full(test.sum(), y[~test].mean())) > 0.2
