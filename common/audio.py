"""Audio files to waveforms: the one reader of every command. A file's content decides how it is decoded, not its name.

libsndfile decodes what it knows (WAV, FLAC, MP3, Ogg, AIFF, CAF, AU, ...), FFmpeg's libraries, by PyAV, the rest (MP4,
WebM, AAC, WMA, AMR, video). Both get an open file without a name, so that no content can lead them to another file.
"""

import contextlib
import functools
import os
import stat
import struct
import time
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import soundfile
import soxr

from common.audio_headers import bytes_of_audio, mp3_count, ogg_ends
from common.console import OF_THE_MACHINE, UserError, warn
from common.decoder_noise import caught

SAMPLE_RATE = 16000
LONGEST = 4 * 3600  # seconds of audio that are read into the memory, a GB; a small file may claim any length
RATES = (1000, 1_000_000)
PATIENCE = 30  # seconds that FFmpeg's libraries may take, and one more for each second that they have decoded
_BLOCK = 1 << 20  # samples of all channels that are read at once
# Containers of audio and video: no playlist, no list of pictures, no script, no raw samples.
_CONTAINERS = "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
_SAY_DURATION = ("matroska,webm", "asf", "flv", "avi", "flac")  # of the whole file; the others say it in bytes
_SAY_PACKET_SIZES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv", "avi")  # a shorter one was cut


def load_audio(path: str | os.PathLike) -> np.ndarray:
    """Read an audio file as float32 (samples,), 16 kHz, full scale 1; channels are averaged.

    Any format that libsndfile or FFmpeg's libraries decode; of a video its first sound track. Other rates are
    resampled by soxr at its high quality, librosa's default. Raises UserError for a file that is missing, no regular
    file, no audio, truncated or damaged, or that holds no sample, samples that are no number, or more than LONGEST.
    """
    out = bytearray()  # grows without a second copy of hours of audio
    for block in audio_blocks(path, longest=LONGEST):
        out += block.tobytes()
    return np.frombuffer(out, dtype=np.float32)


def audio_blocks(path: str | os.PathLike, longest: float | None = None) -> Iterator[np.ndarray]:
    """Read an audio file as load_audio does, in blocks: yields float32 (samples,). Memory does not grow with the file.

    longest: seconds; None is any length. Raises UserError as load_audio.
    """
    n_samples, noise = 0, []
    try:
        with _open(path) as file:
            for block in _resampled(_checked(path, file, longest, noise)):
                n_samples += len(block)
                yield block
    except UserError:
        raise
    except (OSError, ValueError) as error:  # the disk; a path or samples of a kind that nobody reads
        if getattr(error, "errno", None) in OF_THE_MACHINE:  # no fault of the file, which is not skipped for it
            raise
        raise UserError(f"{path}: cannot be read as audio: {getattr(error, 'strerror', None) or error}") from error
    if not n_samples:
        raise UserError(f"{path}: expected audio, found a file without a single sample")
    if noise:  # of a file that cannot be read, the error says enough
        more = f", and {len(noise) - 1} lines more" if len(noise) > 1 else ""
        warn(f"{path}: read in spite of what the MP3 decoder says: {noise[0]}{more}")


def header_seconds(path: str | os.PathLike) -> float | None:
    """Seconds of audio by a file's header, about; None if it does not tell or cannot be read."""
    try:
        with _open(path) as file:
            sound, _ = _libsndfile(file, [])
            if sound:
                with sound:
                    return sound.frames / sound.samplerate
            with _ffmpeg(path, _Source(path, file)) as container:
                return container.duration / 1e6 if container.duration else None
    except (OSError, ValueError):  # UserError is one
        return None


@contextlib.contextmanager
def _open(path):
    """Open a regular file for reading, unbuffered."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for its writer
        raise UserError(f"{path}: expected an audio file, found no regular file")
    with open(path, "rb", buffering=0) as file:
        if not os.fstat(file.fileno()).st_size:
            raise UserError(f"{path}: cannot be read as audio: it is empty")
        yield file


def _checked(path, file, longest, noise):
    """Decode an open file: yields (sample rate, float32 (samples,)), channels averaged. Raises UserError.

    noise: list that what the decoder prints is added to.
    """
    sound, why = _libsndfile(file, noise)
    blocks = _by_libsndfile(sound, noise) if sound else _by_ffmpeg(path, file, why)
    seconds = rate = 0
    try:
        for rate, block in blocks:
            if not RATES[0] <= rate <= RATES[1]:
                raise UserError(f"{path}: expected a sample rate of {RATES[0]} to {RATES[1]} Hz, found {rate}")
            if not np.isfinite(block).all():
                raise UserError(f"{path}: expected audio, found samples that are no finite number")
            seconds += len(block) / rate
            if longest and seconds > longest:
                raise UserError(f"{path}: expected audio of at most {longest // 3600} hours; cut it")
            yield rate, block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
    except _DecodingError as error:
        _check_bytes(path, file)
        raise UserError(f"{path}: truncated or damaged: {error}") from error
    if sound and sound.format in ("FLAC", "MP3"):
        _check_length(path, sound.frames / sound.samplerate, seconds, 0.05 if sound.format == "FLAC" else 0.15)
    _check_end(path, file, seconds, rate)


class _DecodingError(Exception):
    """What a decoder says of a file that it had begun to decode."""


def _resampled(pieces):
    """Pieces of a waveform, (sample rate, (samples,)), at 16 kHz. The rate may change from piece to piece.

    n samples become ceil(n * 16000 / rate), as with librosa: a zero stands where soxr gives one sample fewer.
    """
    for rate, group in groupby(pieces, key=lambda piece: piece[0]):
        waveforms = (x for _, x in group)
        yield from waveforms if rate == SAMPLE_RATE else _resample(waveforms, rate)


def _resample(waveforms, rate):
    """The pieces of one waveform at 16 kHz."""
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    n_in = n_out = 0
    for x in waveforms:
        n_in += len(x)
        y = resampler.resample_chunk(x)
        n_out += len(y)
        yield y
    y = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    n_left = -(-n_in * SAMPLE_RATE // rate) - n_out
    yield np.pad(y, (0, max(n_left - len(y), 0)))[:n_left]


# -------------------------------------------------------------------------------------------------------- libsndfile


def _libsndfile(file, noise):
    """(SoundFile of an open file, "") or (None, why libsndfile does not read it)."""
    try:
        with caught(noise):
            sound = soundfile.SoundFile(file.fileno(), closefd=False)  # by a name it would go by its ending, too
    except soundfile.SoundFileError as error:
        return None, getattr(error, "error_string", str(error)).strip()
    if _counts_samples(file, sound):
        return sound, ""
    sound.close()  # libsndfile fails at the end of such a FLAC file, guesses in MP3, and finds a WAV file empty
    return None, "no length in the header"


def _counts_samples(file, sound):
    if sound.format == "MP3":
        return mp3_count(file)[0] == b"Xing"
    if sound.format == "WAV" and not sound.frames:  # 0 is what a recorder writes before it knows better
        (riff,) = struct.unpack("<I", os.pread(file.fileno(), 4, 4))
        return riff + 8 == os.fstat(file.fileno()).st_size
    return sound.format != "FLAC" or 0 < sound.frames < 1 << 62


def _by_libsndfile(sound, noise):
    """Yields (sample rate, float32 (samples, channels))."""
    with sound:
        n_block = max(_BLOCK // sound.channels, 1)
        try:
            while True:
                with caught(noise) if sound.format == "MP3" else contextlib.nullcontext():
                    block = sound.read(n_block, dtype="float32", always_2d=True)
                if not len(block):
                    break
                yield sound.samplerate, block
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise _DecodingError(getattr(error, "error_string", str(error)).strip()) from error


# ------------------------------------------------------------------------------------------------ FFmpeg's libraries


class _Source:
    """An open file as FFmpeg's libraries may read it: without a name or a size, up to a deadline.

    If it knew the size, a container that does not say its duration would be given an estimate.
    """

    def __init__(self, path, file):
        self.path, self.file, self.started, self.seconds = path, file, time.monotonic(), 0
        file.seek(0)

    def check_time(self):
        took = time.monotonic() - self.started
        if took > PATIENCE + self.seconds:
            raise UserError(f"{self.path}: cannot be read as audio: {took:.0f} s gave {self.seconds:.0f} s of audio")

    def hand_over(self, rate, held):
        """Yield decoded blocks as one; what is done with it takes none of the time."""
        handed_over = time.monotonic()
        yield rate, np.concatenate(held)
        self.started += time.monotonic() - handed_over

    def read(self, size):
        self.check_time()
        return self.file.read(size)

    def seek(self, offset, whence=os.SEEK_SET):
        try:
            return -1 if whence == os.SEEK_END else self.file.seek(offset, whence)
        except (OSError, OverflowError):  # a place that no file has
            return -1

    def tell(self):
        return self.file.tell()


@functools.cache
def _audio_codecs():
    """Names of all decoders of audio, with commas: no other is opened, not even to look at a video."""
    import av

    codecs = [av.codec.Codec(name, "r") for name in sorted(av.codecs_available) if _is_decoder(name)]
    return ",".join(codec.name for codec in codecs if codec.type == "audio")


def _is_decoder(name):
    import av

    try:
        return bool(av.codec.Codec(name, "r"))
    except av.codec.codec.UnknownCodecError:
        return False


def _ffmpeg(path, source, why="libsndfile does not read it"):
    """Open a file with FFmpeg's libraries. Raises UserError; why: what libsndfile had said."""
    import av

    def refuse(url, flags, options):
        raise UserError(f"{path}: expected audio, found a reference to another file")

    options = {"format_whitelist": _CONTAINERS, "codec_whitelist": _audio_codecs(), "protocol_whitelist": ""}
    try:
        return av.open(source, "r", options=options, metadata_errors="replace", buffer_size=1 << 16, io_open=refuse)
    except av.FFmpegError as error:
        _check_bytes(path, source.file)
        reason = "not one of the formats that are read" if error.errno == 22 else error.strerror
        raise UserError(f"{path}: cannot be read as audio: FFmpeg: {reason}; libsndfile: {why}") from error


def _by_ffmpeg(path, file, why):
    """Yields (sample rate, float32 (samples, channels)) of the first stream of audio."""
    import av

    source = _Source(path, file)
    with _ffmpeg(path, source, why) as container:
        if not container.streams.audio:
            raise UserError(f"{path}: expected audio, found a {container.format.name} file without any")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise UserError(f"{path}: cannot be read as audio: its codec is not known")
        stream.codec_context.thread_count = 1
        held, rate = [], None
        try:
            for frame in _frames(path, source, container, stream):
                block = _samples(frame)
                if held and (rate, held[0].shape[1]) != (frame.sample_rate, block.shape[1]):
                    yield from source.hand_over(rate, held)
                    held = []
                rate = frame.sample_rate
                held.append(block)
                if sum(part.size for part in held) >= _BLOCK:
                    yield from source.hand_over(rate, held)
                    held = []
        except av.FFmpegError as error:
            raise _DecodingError(f"{error.strerror} after {source.seconds:.2f} s") from error
    if held:
        yield rate, np.concatenate(held)


def _frames(path, source, container, stream):
    """Yields the decoded frames of a stream, none of them empty.

    What cannot be decoded is an error, except a first packet, cut where a recording of a broadcast began, and what
    follows the last frame of an MP3 file, such as tags. Raises UserError for a file that ends too early.
    """
    import av

    failure, n_failures, reached = None, 0, 0
    for packet in container.demux():
        source.check_time()
        if packet.is_corrupt and container.format.name in _SAY_PACKET_SIZES:
            raise UserError(f"{path}: truncated: expected more than the {source.seconds:.2f} s of audio that are there")
        if packet.pts is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream:
            continue
        try:
            frames = [frame for frame in packet.decode() if frame.samples]
        except av.FFmpegError as error:
            failure, n_failures = failure or error, n_failures + 1
            continue
        if frames and failure and (source.seconds or n_failures > 1):
            raise failure
        for frame in frames:
            failure = None
            source.seconds += frame.samples / max(frame.sample_rate, 1)
            yield frame
    if failure and (container.format.name != "mp3" or not source.seconds):
        raise failure
    if container.format.name in _SAY_DURATION and container.duration:
        _check_length(path, container.duration / 1e6, reached, 0.25)  # not every packet says how long it lasts


def _samples(frame):
    """A decoded frame as float32 (samples, channels), full scale 1."""
    x = frame.to_ndarray()
    x = x.T if frame.format.is_planar else x.reshape(frame.samples, -1)
    if x.dtype.kind == "u":
        return (x.astype(np.float32) - 128) / 128
    return x.astype(np.float32) / (np.float32(2) ** (8 * x.itemsize - 1) if x.dtype.kind == "i" else 1)


# -------------------------------------------------------------------------------------------------------- truncation


def _check_length(path, expected, found, tolerance):
    if expected - found > tolerance:
        raise UserError(f"{path}: truncated: expected {expected:.2f} s, found {found:.2f} s")


def _check_end(path, file, seconds, rate):
    """Raises UserError for a file that ends before its header says. seconds, rate: of what was decoded."""
    kind, n_frames = mp3_count(file)
    if kind == b"VBRI" and rate:
        _check_length(path, n_frames * (1152 if rate >= 32000 else 576) / rate, seconds, 0.15)
    if not ogg_ends(file):
        raise UserError(f"{path}: truncated: expected the last page of an Ogg stream after {seconds:.2f} s")
    _check_bytes(path, file, (1 / 20) / seconds if seconds else 1)  # headers that are off by some bytes are common


def _check_bytes(path, file, tolerance=0):
    """tolerance: as a share of those that are there."""
    whole, present = bytes_of_audio(file)
    if whole - present > tolerance * present:
        raise UserError(f"{path}: truncated: expected {whole} bytes of data, found {present}")
