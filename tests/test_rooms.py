"""Simulated rooms against single images, counted one by one, and against Eyring's formula."""

import itertools

import numpy as np
import pytest
from scipy import signal
from test_codecs import speech_like

from augmentation.image_source import image_response, random_response
from augmentation.rooms import Room, reverberate


def images_one_by_one(size, source, microphone, t60, order):
    """Images up to `order` cells away, each by mirroring at the walls: a filtered response as in image_response."""
    volume, surface = np.prod(size), 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorption = 1 - np.exp(-24 * np.log(10) * volume / (343 * surface * t60))  # Eyring
    reflection = np.sqrt(1 - absorption)
    direct = np.linalg.norm(np.subtract(source, microphone))
    response = np.zeros(40_000)
    for cell in itertools.product(range(-order, order + 1), repeat=3):
        # In cell n of an axis the source is mirrored |n| times: in odd ones it stands the other way around.
        image = [n * a + (s if n % 2 == 0 else a - s) for n, a, s in zip(cell, size, source)]
        distance = np.linalg.norm(np.subtract(image, microphone))
        if distance <= 343 * t60:
            response[round((distance - direct) / 343 * 16000)] += reflection ** sum(map(abs, cell)) / distance
    return signal.sosfilt(signal.butter(2, 20, "highpass", fs=16000, output="sos"), response)


@pytest.mark.slow
@pytest.mark.parametrize("size, t60", [((4, 5, 3), 0.15), ((9, 4, 2.5), 0.2)])
def test_a_response_is_that_of_all_images(size, t60):
    source, microphone = (1, 1.25, 1.5), (2.5, 3, 1)
    found = image_response(size, source, microphone, t60)
    expected = images_one_by_one(size, source, microphone, t60, 30)
    # Distances are in single precision here: an image midway between two samples may fall on the other.
    error = found - expected[: len(found)]
    assert np.sum(error**2) < 0.01 * np.sum(expected**2) and not np.any(np.abs(error[:300]) > 1e-5)
    assert len(found) <= t60 * 16000


@pytest.mark.parametrize("t60", [0.2, 0.35, 0.5])
def test_sound_falls_by_60_db_in_the_time_that_is_asked_for(t60):
    response = image_response((4, 5, 3.5), (1, 1.2, 1.3), (2.1, 3.3, 1.5), t60)
    energy = np.cumsum(response[::-1] ** 2)[::-1]  # Schroeder
    decibels = 10 * np.log10(energy / energy[0])
    fall = np.argmax(decibels < -25) - np.argmax(decibels < -5)
    assert 3 * fall / 16000 == pytest.approx(t60, rel=0.15)


def test_a_near_wall_less_room_is_its_direct_sound_and_is_not_delayed():
    x = np.random.default_rng(0).standard_normal(6000)
    response = image_response((10, 9, 8), (5, 4, 4), (5, 5, 4), 0.05)
    assert np.argmax(np.abs(response)) == 0
    assert np.corrcoef(x, reverberate(x, response))[0, 1] > 0.9


def test_random_rooms_differ_within_their_ranges():
    lengths = {len(random_response(np.random.default_rng(seed), (0.1, 0.2), (3, 10), (2.5, 4))) for seed in range(20)}
    assert len(lengths) == 20 and max(lengths) <= 3200
    x = speech_like(4000)
    augment = Room(t60=(0.1, 0.2))
    assert augment.files() == {}
    np.testing.assert_array_equal(
        augment(x, np.random.default_rng(3)),
        reverberate(x, random_response(np.random.default_rng(3), (0.1, 0.2), (3, 10), (2.5, 4))),
    )
