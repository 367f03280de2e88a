"""Inputs that are made up where nobody gives any: pictures, noise and numbers.

A network answers to an input unlike those that it was trained for with features, and errors, unlike
those in use. What an input stands for is read off its shape: three channels or one are a picture,
of dead leaves in 0 to 1; other arrays of images are smooth noise of variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tensor_spec import TensorSpec
from .specs import as_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

CORRELATION = 0.9  # of neighbouring pixels of noise
NUMBER = 0.1  # a level of noise, a time or a strength, as likely as any
_PICTURE_CHANNELS = (1, 3)
_SMOOTH = 0.5  # correlation of neighbours below which an example is no picture

# Pictures. Radii in pixels of leaves; shares of 0 to 1 of the rest.
_SMALLEST, _LARGEST = 7.0, 1 / 3  # the latter of the picture's longer edge
_COVER = 5.0  # leaves over each other, on average: 0.7 % of the ground remains
_COLOUR = 0.3  # of a leaf's brightness varies between channels
_TEXTURE, _SENSOR_NOISE = 0.05, 0.02


def random_inputs(
    specs: Sequence[TensorSpec], seed: int = 0, span: tuple[float, float] = (0.0, 1.0)
) -> list[NDArray[Any]]:
    """Make up inputs, the same ones for the same seed.

    Floats of four axes with one or three channels, behind the batch or at the end, are pictures
    (``dead_leaves``), with black and white as ``span`` says; with other channels they are normally
    distributed, neighbouring pixels correlated by ``CORRELATION``. A single float is ``NUMBER``,
    other floats are white noise. Integers and booleans are 0 or 1, valid indices of nearly
    anything.
    """
    generator = np.random.default_rng(seed)
    return [np.asarray(_made_up(spec, generator, span), dtype=spec.dtype) for spec in specs]


def completed(
    specs: Sequence[TensorSpec],
    examples: Sequence[Any] | None,
    seed: int = 0,
    *,
    span: tuple[float, float] = (0.0, 1.0),
) -> list[NDArray[Any]]:
    """Inputs made up only where examples just stand for a shape.

    An example counts if it varies, or is a single number other than 0. One with three channels that
    looks like white noise does not: it is what stands for a picture in many programs.
    """
    made_up = random_inputs(specs, seed, span)
    if examples is None:
        return made_up
    return [
        as_array(example) if tells(example) else other
        for example, other in zip(examples, made_up, strict=True)
    ]


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether arrays of this shape may be pictures: four axes, and one or three channels."""
    return _channel_axis(shape) is not None


def dead_leaves(
    shape: tuple[int, int, int, int], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Pictures with the statistics of photographs, (image, row, column, channel) in 0 to 1.

    Discs that hide each other, their radii distributed by a power law (Lee, Mumford and Huang,
    "Occlusion models for natural images", IJCV 2001), under a texture whose amplitudes fall with
    the frequency, as seen by a sensor with a little noise.
    """
    return np.stack([_picture(shape[1:], generator) for _ in range(shape[0])])


def _made_up(
    spec: TensorSpec, generator: np.random.Generator, span: tuple[float, float]
) -> NDArray[Any]:
    shape = spec.shape
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        return generator.integers(0, 2, shape)
    if math.prod(shape) == 1:
        return np.full(shape, NUMBER)
    axis = _channel_axis(shape)
    if axis is not None:
        images, rows, columns = (size for i, size in enumerate(shape) if i != axis)
        pictures = dead_leaves((images, rows, columns, shape[axis]), generator)
        black, white = span
        return black + (white - black) * np.moveaxis(pictures, 3, axis)
    noise = generator.standard_normal(shape)
    return _smooth(_smooth(noise, 2), 3) if len(shape) == 4 else noise


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of a picture's channels; None if the shape is no picture's."""
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in _PICTURE_CHANNELS), None)


def tells(value: Any) -> bool:
    """Whether an example is taken for a real input, see ``completed``."""
    example = as_array(value)
    if example.size == 1:
        return bool(example.any())
    if (example == example.flat[0]).all():
        return False
    axis = _channel_axis(example.shape)
    if axis is None or example.shape[axis] != 3:
        return True
    rows, columns = (size for i, size in enumerate(example.shape[1:], 1) if i != axis)
    along = example.shape.index(max(rows, columns), 1)
    # White noise differs from its neighbour by twice its variance.
    steps = float(np.square(np.diff(example.astype(np.float64), axis=along)).mean())
    return 1 - steps / (2 * float(example.var())) >= _SMOOTH


def _picture(shape: tuple[int, int, int], generator: np.random.Generator) -> F64:
    rows, columns, channels = shape
    # Twice as large, then averages: a leaf's edge is as soft as a sensor's pixels make it.
    large = _leaves((2 * rows, 2 * columns, channels), generator)
    picture = large.reshape(rows, 2, columns, 2, channels).mean((1, 3))
    picture += _TEXTURE * _texture((rows, columns), generator)[..., None]
    picture += _SENSOR_NOISE * generator.standard_normal(shape)
    return np.asarray(picture.clip(0, 1))


def _leaves(shape: tuple[int, int, int], generator: np.random.Generator) -> F64:
    rows, columns, channels = shape
    edge = max(rows, columns)
    smallest, largest = min(2 * _SMALLEST, edge / 8), edge * _LARGEST
    # Of density r^-3, between the two: each octave of radii covers as much as any other.
    low, high = smallest**-2, largest**-2
    area = 2 * math.pi * math.log(largest / smallest) / (low - high)
    field = (rows + 2 * largest) * (columns + 2 * largest)
    count = math.ceil(_COVER * field / area)
    radii = (low - generator.random(count) * (low - high)) ** -0.5
    tops = generator.uniform(-largest, rows + largest, count)
    lefts = generator.uniform(-largest, columns + largest, count)
    colours = (1 - _COLOUR) * generator.random((count, 1))
    colours = colours + _COLOUR * generator.random((count, channels))
    picture = np.full(shape, 0.5)
    for radius, y, x, colour in zip(radii, tops, lefts, colours, strict=True):
        top, left = max(0, math.ceil(y - radius)), max(0, math.ceil(x - radius))
        part = picture[top : max(0, math.ceil(y + radius)), left : max(0, math.ceil(x + radius))]
        if part.size:
            down = np.arange(top, top + part.shape[0])[:, None] - y
            across = np.arange(left, left + part.shape[1]) - x
            part[down**2 + across**2 <= radius**2] = colour
    return picture


def _texture(shape: tuple[int, int], generator: np.random.Generator) -> F64:
    """Noise of variance 1 whose amplitudes are as 1 over the frequency."""
    rows, columns = shape
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal(shape)) / frequency
    texture = np.fft.irfft2(spectrum, shape)
    deviation = float(texture.std())
    return np.asarray(texture / deviation if deviation else texture)


def _smooth(noise: F64, axis: int) -> F64:
    """Turn white noise into an autoregressive process of first order and the same variance."""
    smooth = np.moveaxis(noise, axis, 0).copy()
    for i in range(1, len(smooth)):
        smooth[i] = CORRELATION * smooth[i - 1] + math.sqrt(1 - CORRELATION**2) * smooth[i]
    return np.moveaxis(smooth, 0, axis)
