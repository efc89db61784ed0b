"""Room impulse responses simulated with image sources, in a shoebox room with frequency-independent reflection.

Source: Allen and Berkley, "Image method for efficiently simulating small-room acoustics", JASA 65(4), 1979, eq. 10.
"""

from collections.abc import Sequence

import numpy as np

from common.audio import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # m/s
MARGIN = 0.5  # smallest distance of source and microphone from the walls, metres
HIGH_PASS = 20  # Hz
T60 = (0.05, 0.8)  # seconds; the number of images, and thus the time, grows with the cube of t60


def image_response(size: Sequence, source: Sequence, microphone: Sequence, t60: float) -> np.ndarray:
    """Simulate a room impulse response, from the direct sound to t60.

    size, source, microphone: (3,) metres. t60: reverberation time in seconds by Eyring's formula; in flat rooms, the
    simulated decay is up to a third longer.
    Returns a float64 array (samples,) at 16 kHz. Arrival times are rounded to samples. All images have the same sign
    and add up to a constant part, which a high-pass filter removes; unlike Allen and Berkley's, its cutoff is below
    speech.
    """
    from scipy import signal  # imported here: it takes a second, at every start and in every loader process

    size, source, microphone = (np.asarray(point, dtype=np.float64) for point in (size, source, microphone))
    reach = SPEED_OF_SOUND * t60
    volume, surface = size.prod(), 2 * (size.prod() / size).sum()
    log_reflection = -12 * np.log(10) * volume / (SPEED_OF_SOUND * surface * t60)  # Eyring, for sound pressure
    squares, reflections = [], []
    for length, s, m in zip(size, source, microphone):
        n = np.arange(-int(reach / (2 * length)) - 1, int(reach / (2 * length)) + 2)
        offsets = np.concatenate([2 * n * length + s - m, 2 * n * length - s - m])
        squares.append(np.square(offsets, dtype=np.float32))
        reflections.append(np.concatenate([2 * np.abs(n), np.abs(n) + np.abs(n - 1)]).astype(np.float32))
    along = np.ix_(*squares)
    distances = np.sqrt(along[0] + along[1] + along[2])
    counts = np.ix_(*reflections)
    gains = np.exp(np.float32(log_reflection) * (counts[0] + counts[1] + counts[2])) / distances
    direct = np.linalg.norm(source - microphone)
    samples = np.rint((distances - direct) * (SAMPLE_RATE / SPEED_OF_SOUND)).astype(np.int32)
    is_heard = distances <= max(reach, direct)
    response = np.bincount(samples[is_heard], weights=gains[is_heard])
    return signal.sosfilt(signal.butter(2, HIGH_PASS, "highpass", fs=SAMPLE_RATE, output="sos"), response)


def random_response(
    rng: np.random.Generator, t60: tuple[float, float], side: tuple[float, float], height: tuple[float, float]
) -> np.ndarray:
    """Simulate the response of a random room between random places; see image_response.

    t60: seconds. side: length and width in metres; height: metres. All are drawn uniformly.
    """
    size = np.array([rng.uniform(*side), rng.uniform(*side), rng.uniform(*height)])
    source, microphone = (rng.uniform(MARGIN, size - MARGIN) for _ in range(2))
    return image_response(size, source, microphone, rng.uniform(*t60))
