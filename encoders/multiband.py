"""Cutouts in several bands, of one instrument or of several with pixel grids of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from mmfuse import weights as packaged
from mmfuse.encoders._band_cells import Cutout, files_as_paths, open_cell
from mmfuse.encoders._band_checks import check_band_parameters
from mmfuse.encoders._band_instruments import Grid, Instrument, parse_instruments
from mmfuse.encoders._band_modules import make_network, network_width
from mmfuse.encoders._band_networks import Branches, NetworkFeatures
from mmfuse.encoders._band_photometry import Photometry, photometry_names
from mmfuse.encoders._band_setup import ROWS, bring_to_grid, make_grids
from mmfuse.encoders._band_split import split_cell
from mmfuse.encoders._columns import as_cells
from mmfuse.encoders._modules import state_hash
from mmfuse.encoders.base import BaseEncoder, Encoded
from mmfuse.presence import Presence
from mmfuse.table.cells import object_array

__all__ = ["MultiBandEncoder"]


class MultiBandEncoder(BaseEncoder):
    """Photometry or network features of cutouts in several bands, as in Mantis Shrimp.

    A cell of one instrument is an array or tensor (n_bands, height, width) or (height, width,
    n_bands) in linear flux, or a FITS, npy, npz or GeoTIFF file: a path (str or Path), its bytes,
    or ``{"bytes": ..., "path": ...}``. A cell of several is a dict of instrument names to any of
    these, or one npz or FITS file with entries or extensions of these names. Bands may lie in npz
    entries or FITS extensions of their own. The object is at the centre of the cutout.

    NaN is what was not observed. A band without a value in `min_coverage` of its pixels has NaN
    features, and a cell without any band is ABSENT. An instrument's `empty_value` marks pixels in
    which it observed nothing: they have no value either, but count as observed, and a cell with
    nothing else is EMPTY. The columns that end in ``_coverage`` are the share of a band that was
    observed, so that a head can tell an instrument that is absent (0) from one that found nothing
    (1, its other columns NaN).

    Parameters
    ----------
    instruments : dict
        Of one instrument, ``{"bands": [...], ...}``, or of names to such dicts. Keys:

        - ``bands`` : list of str, the order of the bands in a cutout.
        - ``pixel_scale`` : float, side of a pixel in arcsec or metres, the same unit for all. By
          default what the first training file states; a file that states another is an error.
        - ``noise`` : float or list, standard deviation of a pixel in each band. By default the
          median over training cutouts of the robust deviation of the border.
        - ``softening`` : float or list, flux at which the stretch turns from linear to
          logarithmic, per pixel. By default the noise.
        - ``zero_point`` : float or list, magnitude of flux 1, by default 0.
        - ``quantity`` : ``"flux"`` (per pixel; resampling keeps sums) or ``"brightness"`` (per
          area, such as reflectance; it keeps means). By default flux.
        - ``background`` : None, or ``"border"`` to subtract the median of each band's border.
        - ``empty_value`` : float that marks a pixel in which nothing was observed.
        - ``hdu`` : name or number of the FITS extension. By default the one of the instrument's
          name, or the first image (without a name, where the instrument has one).
    features : str, default="photometry"
        "photometry" measures asinh magnitudes in apertures, colours, size, concentration,
        asymmetry and ellipticity, and learns nothing. "cnn" is a small network with random
        weights, to be trained (``trainable=True``) or used as it is. Any other is the name of a
        timm model; see ``timm.list_models()``.
    fusion : {"late", "early"}, default="late"
        "late" treats each instrument on its own grid and puts the features side by side: the
        columns are those of one encoder per instrument, as `split` makes them. "early" resamples
        all to one grid and stacks the bands, so that colours across instruments have equal
        apertures. Point spread functions are not matched.
    apertures : sequence of float, optional
        Radii, rising, in the unit of `pixel_scale`; the middle one is for colours. By default 15,
        30 and 60 % of half the field.
    field : float, optional
        Side of the square about the centre that is used, in the unit of `pixel_scale`. By default
        the smallest of the training cutouts. What lies outside of a cutout was not observed.
    pixel_scale : float, optional
        Of the common grid of ``fusion="early"``. By default the finest of the instruments.
    min_coverage : float, default=0.5
        Share of the pixels of a band that must have a value.
    weights : "auto", str, Path or None, default="auto"
        Of a timm model, as in `ImageEncoder`; weights for three colours are spread over the bands.
        "cnn" always has random weights.
    image_size : int, optional
        Side to which networks see cutouts resized. By default the size that the timm model was
        trained with, and the grid as it is for "cnn".
    symmetric : bool, default=True
        Average a network over the eight turned and mirrored views; in training mode, turn each
        sample at random. Photometry is the same for all eight.
    random_state : int, default=0
        Seed of random weights.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.
    trainable : bool, "head" or "lora", default=False
        See `BaseEncoder`. True for "cnn", any for timm models, of which the network of every
        instrument has a last block and adapters of its own; never for "photometry".

    Attributes
    ----------
    grids_ : list of Grid
        The grid of each instrument, or the common one.
    pixel_scales_ : dict of str to float
    n_features_out_ : int

    Notes
    -----
    After Engel et al. 2025 (Mantis Shrimp, arXiv 2501.09112). Different from there: negative flux
    is kept, an absent instrument is missing instead of zero, resampling keeps flux, evaluation
    averages over eight fixed views instead of turning at random, and classical photometry is
    offered. `fit` looks at 64 evenly spaced training rows for what is not given.

    A GeoTIFF's value for no data is NaN. Those with LZW compression need the package imagecodecs.

    In a dict, one instrument that cannot be read fails the whole cell. With one encoder per
    instrument (`split`) only that modality is FAILED, and a head learns what its absence means. A
    model of one block learns that only from training rows with gaps: where instruments may be
    missing later, `add_instrument_gaps` makes copies of training rows without them.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import MultiBandEncoder
    >>> cutouts = np.random.default_rng(0).normal(size=(3, 2, 32, 32))
    >>> encoder = MultiBandEncoder({"bands": ["g", "r"], "pixel_scale": 0.2}, cache=False)
    >>> encoder.fit_transform(cutouts).shape
    (3, 13)
    >>> encoder.get_feature_names_out()[[0, 6, 7, 12]].tolist()
    ['bands_g_mag_0.48', 'bands_g-r_colour_0.96', 'bands_ln_radius50', 'bands_r_coverage']
    """

    modality: ClassVar[str] = "bands"
    libraries: ClassVar[tuple[str, ...]] = ("astropy", "tifffile", "timm")
    nan_features: ClassVar[bool] = True

    grids_: list[Grid]
    pixel_scales_: dict[str, float]

    def __init__(
        self,
        instruments: Mapping[str, Any],
        *,
        features: str = "photometry",
        fusion: str = "late",
        apertures: Sequence[float] | None = None,
        field: float | None = None,
        pixel_scale: float | None = None,
        min_coverage: float = 0.5,
        weights: str | Path | None = "auto",
        image_size: int | None = None,
        symmetric: bool = True,
        random_state: int = 0,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            trainable=trainable,
        )
        self.instruments = instruments
        self.features = features
        self.fusion = fusion
        self.apertures = apertures
        self.field = field
        self.pixel_scale = pixel_scale
        self.min_coverage = min_coverage
        self.weights = weights
        self.image_size = image_size
        self.symmetric = symmetric
        self.random_state = random_state

    def fit(self, column: Any, y: Any = None) -> MultiBandEncoder:
        """Check the arguments, and learn grids, noise and stretch where they are not given.

        Parameters
        ----------
        column : list, Series or ndarray with one cutout per row
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If something is neither given nor to be learned from the training cutouts.
        """
        self._check_params()
        instruments = parse_instruments(self.instruments)
        cells, states = as_cells(column, caller=type(self).__name__)
        rows = np.flatnonzero(states == Presence.PRESENT)
        if len(rows) > ROWS:
            rows = rows[np.linspace(0, len(rows) - 1, ROWS).astype(int)]
        opened: list[dict[str, Cutout]] = []
        problems: list[str] = []
        for row in rows:
            try:
                opened.append(open_cell(files_as_paths(cells[row]), instruments))
            except ValueError as exc:  # `encode` says which row and file
                problems.append(f"row {row}: {exc}")
        if problems and not opened:
            raise ValueError(
                f"MultiBandEncoder: none of the {len(rows)} training cutouts that were looked at "
                f"can be read; first: {problems[0]}."
            )
        self.pixel_scales_, self.grids_ = make_grids(instruments, opened, self)
        self.n_features_out_ = self._width()
        return self

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a column; see `BaseEncoder.encode`.

        Columns of an instrument or band that was not observed, or cannot be measured, are NaN.
        """
        check_is_fitted(self)
        if not (isinstance(column, np.ndarray) and column.ndim > 1):
            cells, states = as_cells(column, caller=type(self).__name__)
            column = object_array(
                files_as_paths(cell) if state == Presence.PRESENT else Presence(int(state))
                for cell, state in zip(cells, states, strict=True)
            )
        return super().encode(column, presence, name=name)

    def preprocess(self, sample: Any) -> Tensor | dict[str, Tensor] | None:
        """Read one cell and bring it to the grid.

        Returns
        -------
        Tensor of shape (n_bands, n_pixels, n_pixels), dict of such, or None
            A dict of instruments with ``fusion="late"`` and more than one instrument. NaN where
            not observed, +inf where nothing was observed. None if nothing else was observed.
        """
        instruments = [
            replace(one, pixel_scale=self.pixel_scales_[one.name])
            for one in parse_instruments(self.instruments)
        ]
        cuts = open_cell(files_as_paths(sample), instruments)
        arrays = [
            bring_to_grid(cuts, members, grid, self.pixel_scales_, self.min_coverage)
            for members, grid in zip(self._groups(), self.grids_, strict=True)
        ]
        if not any(np.isfinite(a).any() for a in arrays) and any(np.isinf(a).any() for a in arrays):
            return None
        tensors = [torch.from_numpy(array) for array in arrays]
        if len(tensors) == 1:
            return tensors[0]
        return dict(zip((grid.name for grid in self.grids_), tensors, strict=True))

    def collate(self, items: list[Any]) -> Any:
        """Stack samples; a dict of instruments becomes a dict of batches."""
        if isinstance(items[0], dict):
            return {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return torch.stack(items)

    def split(self) -> dict[str, MultiBandEncoder]:
        """Return one unfitted encoder per instrument, for use as modalities of their own.

        Fitted on the columns that `split_column` gives, their blocks side by side are the block
        of this encoder with ``fusion="late"``.

        Returns
        -------
        dict of str to MultiBandEncoder
        """
        named = parse_instruments(self.instruments)
        if len(named) == 1:
            raise ValueError("MultiBandEncoder: split needs an encoder of several instruments.")
        return {
            one.name: clone(self).set_params(
                instruments={one.name: self.instruments[one.name]}, fusion="late", pixel_scale=None
            )
            for one in named
        }

    def split_column(self, column: Any) -> dict[str, np.ndarray]:
        """Return the cells of each instrument, as columns for the encoders of `split`.

        Parameters
        ----------
        column : list, Series or ndarray with one cell per row

        Returns
        -------
        dict of str to ndarray of shape (n_samples,), object
        """
        instruments = parse_instruments(self.instruments)
        cells, states = as_cells(column, caller=type(self).__name__)
        rows = [
            split_cell(cell, instruments)
            if state == Presence.PRESENT
            else dict.fromkeys((one.name for one in instruments), Presence(int(state)))
            for cell, state in zip(cells, states, strict=True)
        ]
        return {one.name: object_array(row[one.name] for row in rows) for one in instruments}

    def weights_hash(self) -> str | None:
        """Return a digest of the network's tensors, or None for photometry."""
        return None if self.features == "photometry" else state_hash(self.module())

    def get_state(self) -> dict[str, Any]:
        """Return grids and pixel scales as a JSON-able dict."""
        return {
            **super().get_state(),
            "pixel_scales": dict(self.pixel_scales_),
            "grids": [grid.to_dict() for grid in self.grids_],
        }

    def set_state(self, state: Mapping[str, Any]) -> MultiBandEncoder:
        """Take over what `get_state` returned; the encoder is then fitted."""
        super().set_state(state)
        self.pixel_scales_ = dict(state["pixel_scales"])
        self.grids_ = [Grid.from_dict(grid) for grid in state["grids"]]
        return self

    def _groups(self) -> list[list[Instrument]]:
        instruments = parse_instruments(self.instruments)
        return [[one] for one in instruments] if self.fusion == "late" else [list(instruments)]

    def _cache_params(self) -> dict[str, Any]:
        return {**super()._cache_params(), "fitted": self.get_state()}

    def _module_identity(self) -> dict[str, Any]:
        weights = self.weights
        if weights is not None and weights != "auto":
            weights = packaged.file_hash(weights)
        return {**super()._module_identity(), "weights": weights}

    def _part(self, grid: Grid) -> nn.Module:
        if self.features == "photometry":
            return Photometry(grid)
        network, side = make_network(
            len(grid.bands),
            self.features,
            weights=self.weights,
            image_size=self.image_size,
            symmetric=self.symmetric,
            random_state=self.random_state,
        )
        return NetworkFeatures(grid, network, side)

    def _build_module(self) -> nn.Module:
        parts = {grid.name: self._part(grid) for grid in self.grids_}
        return Branches(parts) if len(parts) > 1 else next(iter(parts.values()))

    def _width(self) -> int:
        return len(self._feature_names())

    def _feature_names(self) -> list[str]:
        names: list[str] = []
        for grid in self.grids_:
            if self.features == "photometry":
                names += photometry_names(grid)
            else:
                label = "cnn" if self.features == "cnn" else "net"
                prefix = f"{grid.name}_" if grid.name else ""
                width = network_width(self.features, self.image_size)
                names += [f"{prefix}{label}_{i:0{len(str(width - 1))}d}" for i in range(width)]
                names += [f"{band}_coverage" for band in grid.bands]
        return [f"{self.modality}_{name}" for name in names]

    def _check_params(self) -> None:
        super()._check_params()
        parse_instruments(self.instruments)
        check_band_parameters(self)
