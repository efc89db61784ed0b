"""Reading audio files as waveforms, for all commands. The content of a file decides how it is decoded, not its name.

libsndfile decodes the formats that it knows (WAV, FLAC, MP3, Ogg, AIFF, CAF, AU, ...); FFmpeg's libraries, through
PyAV, decode the others (MP4, WebM, AAC, WMA, AMR, video). Both get an open file without a name, so that no content can
refer them to another file.
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
LONGEST = 4 * 3600  # seconds of audio read into memory (1 GB); small files can decode to any length
RATES = (1000, 1_000_000)  # Hz
PATIENCE = 30  # time limit for FFmpeg's libraries in seconds, plus one second per second of decoded audio
_BLOCK = 1 << 20  # samples of all channels read at once
# Containers of audio and video, without playlists, image lists, scripts and raw samples.
_CONTAINERS = "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav"
_SAY_DURATION = ("matroska,webm", "asf", "flv", "avi", "flac")  # headers with a duration; others have bytes
_SAY_PACKET_SIZES = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "asf", "flv", "avi")  # a shorter packet was cut


def load_audio(path: str | os.PathLike) -> np.ndarray:
    """Read an audio file as float32 (samples,), 16 kHz, full scale 1; channels are averaged.

    Reads all formats of libsndfile and FFmpeg's libraries, and the first audio track of a video. Other sample rates are
    resampled by soxr in high quality, librosa's default. Raises UserError for a file that is missing, not a regular
    file, not audio, truncated or damaged, without samples, with NaN or infinite samples, or longer than LONGEST.
    """
    out = bytearray()  # grows in place: no second copy of hours of audio
    for block in audio_blocks(path, longest=LONGEST):
        out += block.tobytes()
    return np.frombuffer(out, dtype=np.float32)


def audio_blocks(path: str | os.PathLike, longest: float | None = None) -> Iterator[np.ndarray]:
    """Read an audio file in blocks, float32 (samples,), in constant memory; see load_audio.

    longest: seconds; None: any length. Raises the UserErrors of load_audio.
    """
    n_samples, noise = 0, []
    try:
        with _open(path) as file:
            for block in _resampled(_checked(path, file, longest, noise)):
                n_samples += len(block)
                yield block
    except UserError:
        raise
    except (OSError, ValueError) as error:  # errors of the disk; unsupported paths or samples
        if getattr(error, "errno", None) in OF_THE_MACHINE:  # not the file's fault: --skip_bad_audio must not skip it
            raise
        raise UserError(f"{path}: cannot be read as audio: {getattr(error, 'strerror', None) or error}") from error
    if not n_samples:
        raise UserError(f"{path}: expected audio, found a file without samples")
    if noise:  # only for files that were read: otherwise the error says enough
        more = f", and {len(noise) - 1} more lines" if len(noise) > 1 else ""
        warn(f"{path}: read despite messages of the MP3 decoder: {noise[0]}{more}")


def header_seconds(path: str | os.PathLike) -> float | None:
    """Approximate duration in seconds from a file's header; None if the header has none or cannot be read."""
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
        raise UserError(f"{path}: expected an audio file, found something that is not a regular file")
    with open(path, "rb", buffering=0) as file:
        if not os.fstat(file.fileno()).st_size:
            raise UserError(f"{path}: cannot be read as audio: it is empty")
        yield file


def _checked(path, file, longest, noise):
    """Decode an open file: yields (sample rate, float32 (samples,)), channels averaged. Raises UserError.

    noise: list that collects the messages of the decoder.
    """
    sound, why = _libsndfile(file, noise)
    blocks = _by_libsndfile(sound, noise) if sound else _by_ffmpeg(path, file, why)
    seconds = rate = 0
    try:
        for rate, block in blocks:
            if not RATES[0] <= rate <= RATES[1]:
                raise UserError(f"{path}: expected a sample rate of {RATES[0]} to {RATES[1]} Hz, found {rate}")
            if not np.isfinite(block).all():
                raise UserError(f"{path}: expected audio, found NaN or infinite samples")
            seconds += len(block) / rate
            if longest and seconds > longest:
                raise UserError(f"{path}: expected at most {longest // 3600} hours of audio, found more")
            yield rate, block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
    except _DecodingError as error:
        _check_bytes(path, file)
        raise UserError(f"{path}: truncated or damaged: {error}") from error
    if sound and sound.format in ("FLAC", "MP3"):
        _check_length(path, sound.frames / sound.samplerate, seconds, 0.05 if sound.format == "FLAC" else 0.15)
    _check_end(path, file, seconds, rate)


class _DecodingError(Exception):
    """Error of a decoder in the middle of a file."""


def _resampled(pieces):
    """Resample pieces of a waveform, (sample rate, (samples,)), to 16 kHz. The rate may differ between pieces.

    n samples become ceil(n * 16000 / rate), as in librosa; a zero is appended if soxr returns one sample fewer.
    """
    for rate, group in groupby(pieces, key=lambda piece: piece[0]):
        waveforms = (x for _, x in group)
        yield from waveforms if rate == SAMPLE_RATE else _resample(waveforms, rate)


def _resample(waveforms, rate):
    """Resample the pieces of one waveform to 16 kHz."""
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
    """(SoundFile of an open file, "") or (None, the reason why libsndfile cannot read it)."""
    try:
        with caught(noise):
            sound = soundfile.SoundFile(file.fileno(), closefd=False)  # given a name, it would also use the extension
    except soundfile.SoundFileError as error:
        return None, getattr(error, "error_string", str(error)).strip()
    if _counts_samples(file, sound):
        return sound, ""
    sound.close()  # without a length, libsndfile fails at the end of FLAC, guesses for MP3, and takes WAV for empty
    return None, "no length in the header"


def _counts_samples(file, sound):
    if sound.format == "MP3":
        return mp3_count(file)[0] == b"Xing"
    if sound.format == "WAV" and not sound.frames:  # recorders write 0 first, and may be stopped before they correct it
        (riff,) = struct.unpack("<I", os.pread(file.fileno(), 4, 4))
        return riff + 8 == os.fstat(file.fileno()).st_size
    return sound.format != "FLAC" or 0 < sound.frames < 1 << 62


def _by_libsndfile(sound, noise):
    """Yield blocks (sample rate, float32 (samples, channels)) of a SoundFile."""
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
    """Wrapper of an open file for FFmpeg's libraries: no name, no size, and a time limit.

    From the size, FFmpeg would estimate a duration for containers that have none.
    """

    def __init__(self, path, file):
        self.path, self.file, self.started, self.seconds = path, file, time.monotonic(), 0
        file.seek(0)

    def check_time(self):
        took = time.monotonic() - self.started
        if took > PATIENCE + self.seconds:
            raise UserError(f"{self.path}: cannot be read as audio: {took:.0f} s gave {self.seconds:.0f} s of audio")

    def hand_over(self, rate, held):
        """Yield decoded blocks as one. The time that the caller takes does not count towards the limit."""
        handed_over = time.monotonic()
        yield rate, np.concatenate(held)
        self.started += time.monotonic() - handed_over

    def read(self, size):
        self.check_time()
        return self.file.read(size)

    def seek(self, offset, whence=os.SEEK_SET):
        try:
            return -1 if whence == os.SEEK_END else self.file.seek(offset, whence)
        except (OSError, OverflowError):  # an impossible position
            return -1

    def tell(self):
        return self.file.tell()


@functools.cache
def _audio_codecs():
    """Names of all audio decoders, separated by commas. No other decoder is opened, not even to probe a video."""
    import av

    codecs = [av.codec.Codec(name, "r") for name in sorted(av.codecs_available) if _is_decoder(name)]
    return ",".join(codec.name for codec in codecs if codec.type == "audio")


def _is_decoder(name):
    import av

    try:
        return bool(av.codec.Codec(name, "r"))
    except av.codec.codec.UnknownCodecError:
        return False


def _ffmpeg(path, source, why="cannot read it"):
    """Open a file with FFmpeg's libraries. Raises UserError. why: the error of libsndfile, for the message."""
    import av

    def refuse(url, flags, options):
        raise UserError(f"{path}: expected audio, found a reference to another file")

    options = {"format_whitelist": _CONTAINERS, "codec_whitelist": _audio_codecs(), "protocol_whitelist": ""}
    try:
        return av.open(source, "r", options=options, metadata_errors="replace", buffer_size=1 << 16, io_open=refuse)
    except av.FFmpegError as error:
        _check_bytes(path, source.file)
        reason = "not a supported format" if error.errno == 22 else error.strerror
        raise UserError(f"{path}: cannot be read as audio: FFmpeg: {reason}; libsndfile: {why}") from error


def _by_ffmpeg(path, file, why):
    """Yield blocks (sample rate, float32 (samples, channels)) of the first audio stream."""
    import av

    source = _Source(path, file)
    with _ffmpeg(path, source, why) as container:
        if not container.streams.audio:
            raise UserError(f"{path}: expected audio, found a {container.format.name} file without an audio track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise UserError(f"{path}: cannot be read as audio: unknown codec")
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
    """Yield the decoded, non-empty frames of a stream.

    A packet that cannot be decoded is an error, except the first one, which may be cut (recordings of broadcasts), and
    data after the last frame of an MP3 file, such as tags. Raises UserError for a file that ends too early.
    """
    import av

    failure, n_failures, reached = None, 0, 0
    for packet in container.demux():
        source.check_time()
        if packet.is_corrupt and container.format.name in _SAY_PACKET_SIZES:
            raise UserError(f"{path}: truncated: expected more audio, found {source.seconds:.2f} s")
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
        _check_length(path, container.duration / 1e6, reached, 0.25)  # some packets have no duration


def _samples(frame):
    """Convert a decoded frame to float32 (samples, channels), full scale 1."""
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
    """Raise UserError if a file is shorter than its header says. seconds, rate: of the decoded audio."""
    kind, n_frames = mp3_count(file)
    if kind == b"VBRI" and rate:
        _check_length(path, n_frames * (1152 if rate >= 32000 else 576) / rate, seconds, 0.15)
    if not ogg_ends(file):
        raise UserError(f"{path}: truncated: expected the last page of an Ogg stream after {seconds:.2f} s")
    _check_bytes(path, file, (1 / 20) / seconds if seconds else 1)  # headers are often off by a few bytes


def _check_bytes(path, file, tolerance=0):
    """Raise UserError if audio bytes are missing. tolerance: allowed share of the present bytes."""
    whole, present = bytes_of_audio(file)
    if whole - present > tolerance * present:
        raise UserError(f"{path}: truncated: expected {whole} bytes of data, found {present}")
