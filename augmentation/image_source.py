"""Room responses simulated by image sources, in a shoebox room whose walls reflect alike at all frequencies.

Source: Allen and Berkley, "Image method for efficiently simulating small-room acoustics", JASA 65(4), 1979, eq. 10.
"""

from collections.abc import Sequence

import numpy as np

from common.audio import SAMPLE_RATE

SPEED_OF_SOUND = 343.0  # m/s
MARGIN = 0.5  # metres that source and microphone keep from the walls
HIGH_PASS = 20  # Hz
T60 = (0.05, 0.8)  # seconds; the images' number, and the time for them, grow with its cube


def image_response(size: Sequence, source: Sequence, microphone: Sequence, t60: float) -> np.ndarray:
    """The response of a room from its direct sound on, up to t60.

    size, source, microphone: (3,) metres. t60: seconds in which the sound falls by 60 dB, by Eyring's formula; in flat
    rooms image sources take up to a third longer.
    Returns a float64 array (samples,) at 16 kHz. Images arrive at the nearest sample. A high-pass filter removes the
    constant part, in which images, all of one sign, pile up; it lies below speech, unlike Allen and Berkley's.
    """
    from scipy import signal  # a second to import, which every start and every loader process would wait for

    size, source, microphone = (np.asarray(point, dtype=np.float64) for point in (size, source, microphone))
    reach = SPEED_OF_SOUND * t60
    volume, surface = size.prod(), 2 * (size.prod() / size).sum()
    log_reflection = -12 * np.log(10) * volume / (SPEED_OF_SOUND * surface * t60)  # Eyring, of pressure
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
    """The response of a random room, between random places in it: see image_response.

    t60: seconds. side, height: metres of the room's length and width, and of its height. Each drawn evenly.
    """
    size = np.array([rng.uniform(*side), rng.uniform(*side), rng.uniform(*height)])
    source, microphone = (rng.uniform(MARGIN, size - MARGIN) for _ in range(2))
    return image_response(size, source, microphone, rng.uniform(*t60))
