"""Codecs in memory: what comes out is what another decoder makes of the file, not delayed, of the same length."""

import io
import signal
import struct

import av
import numpy as np
import pytest
import soundfile

from augmentation.codecs import FORMATS, LADDER, codec, delay, encoded

SEVERAL = {"mp3": (8, 32, 64, 160), "vorbis": (24, 64, 100), "opus": (6, 24, 256)}
CASES = [(kind, bitrate) for kind, one in FORMATS.items() for bitrate in SEVERAL.get(kind, one.bitrates[:1])]
TELEPHONE = [kind for kind, one in FORMATS.items() if one.rate == 8000]


def speech_like(n, seed=0):
    """Noise of a falling spectrum whose level rises and falls, (n,) at 16 kHz."""
    noise = np.random.default_rng(seed).standard_normal(n)
    tilted = np.convolve(noise, 0.9 ** np.arange(60))[:n]
    return 0.05 * tilted * (1 + np.sin(np.arange(n) / 900))


def decoded_by_ffmpeg(file):
    with av.open(io.BytesIO(file)) as container:
        (stream,) = container.streams.audio
        resampler = av.AudioResampler("flt", "mono", stream.rate)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
        return stream.rate, np.concatenate([frame.to_ndarray()[0] for frame in frames]), stream.codec_context.name


def lag(y, x):
    """Samples that y comes after x, by the largest of their products within 3,000."""
    products = np.correlate(np.pad(y, 3000), x, "valid")
    return int(np.argmax(products)) - 3000


@pytest.mark.parametrize("kind, bitrate", [case for case in CASES if case != ("opus", 6)])  # other delays at 8 kHz
def test_what_comes_out_is_what_ffmpeg_decodes(kind, bitrate):
    rate = FORMATS[kind].rate
    x = speech_like(20000)[:: 16000 // rate]
    file = encoded(x, kind, bitrate)
    found_rate, expected, _ = decoded_by_ffmpeg(file)
    ours = soundfile.read(io.BytesIO(file), dtype="float32")[0]
    if found_rate != rate:  # FFmpeg gives Opus at 48 kHz: the phase that falls on our samples
        expected = expected[:: found_rate // rate]
    shift = lag(expected[3000:9000], ours[3000:9000])
    assert abs(shift) <= 1105 if kind == "mp3" else abs(shift) <= 1
    expected = expected[max(shift, 0) :]
    n = min(len(expected), len(ours)) - 1500
    error = expected[1500:n] - ours[1500:n]
    exact = kind not in ("opus", "g721")
    assert np.mean(error**2) < (1e-5 if exact else 1e-2) * np.mean(ours[1500:n] ** 2)


@pytest.mark.parametrize("kind, bitrate", CASES)
def test_a_codec_keeps_length_and_place_and_says_the_same_twice(kind, bitrate):
    x = speech_like(16000)
    y = codec(x, kind, bitrate)
    assert y.shape == x.shape and y.dtype == np.float32
    np.testing.assert_array_equal(y, codec(x, kind, bitrate))
    assert lag(y[4000:12000], x[4000:12000]) == 0
    assert 0.7 < np.corrcoef(x, y)[0, 1] < 0.9999  # it is the same signal, and something was lost


@pytest.mark.parametrize("kind", FORMATS)
def test_short_loud_and_silent_waveforms(kind):
    for n in (1, 2, 100, 1153):
        assert codec(np.ones(n), kind).shape == (n,)
    assert np.abs(codec(np.zeros(4000), kind)).max() < 1e-3
    tone = np.sin(2 * np.pi * 700 * np.arange(8000) / 16000)
    clipped = codec(3 * tone, kind)
    assert np.corrcoef(clipped, np.clip(3 * tone, -1, 1))[0, 1] > 0.95


@pytest.mark.parametrize("bitrate", [8, 24, 64, 128, 160])
def test_mp3_has_the_bitrate_that_is_asked_for(bitrate):
    size = len(encoded(speech_like(64000), "mp3", bitrate))
    assert 8 * size / 4000 == pytest.approx(bitrate, rel=0.05)


@pytest.mark.parametrize("bitrate", [24, 32, 60, 64, 80, 100])
def test_vorbis_has_the_nominal_bitrate_that_is_asked_for(bitrate):
    """Its identification header says it: channels, rate, largest, nominal and least bitrate."""
    file = encoded(speech_like(16000), "vorbis", bitrate)
    at = file.index(b"\x01vorbis") + 11
    channels, rate, _, nominal, _ = struct.unpack("<BIiii", file[at : at + 17])
    assert (channels, rate) == (1, 16000) and nominal == pytest.approx(1000 * bitrate, abs=20)


@pytest.mark.parametrize("bitrate", [6, 24, 128])
def test_opus_has_about_the_bitrate_that_is_asked_for(bitrate):
    size = len(encoded(speech_like(64000), "opus", bitrate))
    assert 8 * size / 4000 == pytest.approx(bitrate + 1.5, rel=0.1)  # Ogg adds some


@pytest.mark.parametrize("kind", ["mulaw", "alaw"])
def test_mulaw_and_alaw_are_those_of_g711(kind):
    """FFmpeg's encoder takes the same step of the same 16-bit samples, or a neighbour where one lies between two."""
    samples = np.round(32767 * speech_like(16000)[::2]).astype(np.int16)
    encoder = av.CodecContext.create(f"pcm_{kind}", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 8000, "mono", "s16"
    frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
    frame.sample_rate = 8000
    expected = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    found = encoded(samples / np.float32(32768), kind, 64)[-len(expected) :]
    mask = {"mulaw": 0x7F, "alaw": 0x55}[kind]  # of the bits that are sent inverted
    found, expected = (np.frombuffer(codes, np.uint8).astype(int) ^ mask for codes in (found, expected))
    signed = [np.where(codes & 0x80, 1, -1) * (codes & 0x7F) for codes in (found, expected)]
    assert len(signed[0]) == 8000 and np.mean(signed[0] == signed[1]) > 0.8
    assert np.abs(signed[0] - signed[1]).max() <= 1


@pytest.mark.parametrize("kind", TELEPHONE)
def test_telephone_codecs_leave_nothing_above_4_khz(kind):
    assert TELEPHONE == ["mulaw", "alaw", "gsm", "g721"]
    powers = np.abs(np.fft.rfft(codec(speech_like(32000), kind))) ** 2
    assert powers[8400:].sum() < 1e-5 * powers.sum()
    assert powers[6000:7400].sum() > 1e-5 * powers.sum()


def test_the_delay_of_mp3_is_measured_not_assumed():
    """At low bitrates no frame has room for the tag that says the delay; the decoder then leaves it in."""
    assert delay("mp3", 8) > 500
    assert all(
        lag(codec(speech_like(12000), "mp3", rate)[3000:9000], speech_like(12000)[3000:9000]) == 0 for rate in LADDER
    )


def test_what_a_codec_does_not_have_is_named(monkeypatch):
    x = np.ones(100)
    with pytest.raises(ValueError, match="kind .*mp3, .* mp4"):
        codec(x, "mp4")
    with pytest.raises(ValueError, match="opus .*6 to 256 .*300"):
        codec(x, "opus", 300)
    with pytest.raises(ValueError, match="mp3 .*8, 16, .* 50"):
        codec(x, "mp3", 50)
    with pytest.raises(ValueError, match="gsm .*13 .* 64"):
        codec(x, "gsm", 64)
    with pytest.raises(ValueError, match="shape"):
        codec(np.ones((2, 2)), "mp3")
    monkeypatch.setattr(soundfile, "check_format", lambda *names: False)
    with pytest.raises(ValueError, match="libsndfile.* mp3"):
        codec(x, "mp3")


def test_what_a_signal_raises_while_a_codec_works_is_not_lost():
    class Stop(BaseException):
        pass

    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        x = speech_like(64000)
        codec(x, "opus", 16)  # its delay is measured once
        for i in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.03 + 0.01 * i)
            with pytest.raises(Stop):
                for _ in range(30):
                    codec(x, "opus", 16)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
