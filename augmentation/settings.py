"""Settings of augmentations: ranges from which numbers are drawn uniformly."""

import numpy as np

Range = tuple[float, float]  # lowest and highest
Counts = tuple[int, int]


def check_range(name: str, value: Range | Counts, low: float, high: float) -> None:
    """Raise ValueError if a range is reversed or exceeds low to high."""
    if not low <= value[0] <= value[1] <= high:
        raise ValueError(f"{name}: expected LOWEST..HIGHEST within {low:g}..{high:g}, found {value[0]}..{value[1]}")


def draw(value: Range | Counts, rng: np.random.Generator) -> float | int:
    """Draw a number uniformly from a range, ends included; an integer if both ends are integers."""
    if all(isinstance(end, int) for end in value):
        return int(rng.integers(*value, endpoint=True))
    return float(rng.uniform(*value))


def waveform(x: np.ndarray) -> np.ndarray:
    """x as a float64 array. Raises ValueError if it is not one waveform, (samples,), or is empty."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"x must be one waveform, (samples,), found shape {x.shape}")
    return x
