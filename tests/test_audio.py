"""The reader of audio: every format under every name, unknown lengths, cut files, playlists, hostile content."""

import contextlib
import itertools
import os
import resource
import socket
import struct
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
from conftest import encode as encode_any
from scipy import signal

from common import audio
from common.audio import audio_blocks, header_seconds, load_audio
from common.console import UserError

RATE = 16000
X = 0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 1200, 40000)) / RATE)
X = (X + 0.01 * np.random.default_rng(0).standard_normal(40000)).astype(np.float32)


def encode(path, codec, container, **options):
    return encode_any(path, X, codec, container, **options)


ENCODED = {  # file: codec, container, options
    "x.m4a": ("aac", "ipod", {}),
    "fast.m4a": ("aac", "ipod", {"movflags": "faststart"}),
    "alac.m4a": ("alac", "ipod", {}),
    "fragments.mp4": ("aac", "mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "video.mp4": ("aac", "mp4", {"video": True}),
    "x.mov": ("aac", "mov", {}),
    "x.3gp": ("libopencore_amrnb", "3gp", {"rate": 8000}),
    "x.amr": ("libopencore_amrnb", "amr", {"rate": 8000}),
    "x.aac": ("aac", "adts", {}),
    "x.webm": ("libopus", "webm", {"rate": 48000}),
    "recorder.webm": ("libopus", "webm", {"rate": 48000, "pipe": True}),
    "x.mka": ("pcm_s16le", "matroska", {}),
    "pipe.mka": ("pcm_s16le", "matroska", {"pipe": True}),
    "video.mkv": ("aac", "matroska", {"video": True}),
    "x.wma": ("wmav2", "asf", {}),
    "pipe.wma": ("wmav2", "asf", {"pipe": True}),
    "video.wmv": ("wmav2", "asf", {"video": True}),
    "x.avi": ("pcm_s16le", "avi", {"video": True}),
    "x.ts": ("aac", "mpegts", {}),
    "x.flv": ("aac", "flv", {}),
    "alac.caf": ("alac", "caf", {}),
    "g726.wav": ("adpcm_g726", "wav", {"rate": 8000}),
    "pipe.flac": ("flac", "flac", {"pipe": True}),
    "pipe.wav": ("pcm_s16le", "wav", {"pipe": True}),
    "pipe.caf": ("pcm_s16le", "caf", {"pipe": True}),
    "pipe.au": ("pcm_s16be", "au", {"pipe": True}),
    "pipe.w64": ("pcm_s16le", "w64", {"pipe": True}),
    "pipe.aiff": ("pcm_s16be", "aiff", {"pipe": True}),
}
BY_LIBSNDFILE = {  # file: options
    "x.wav": {},
    "x.flac": {},
    "x.mp3": {},
    "x.ogg": {},
    "x.opus": {"format": "OGG", "subtype": "OPUS"},
    "x.aiff": {},
    "x.caf": {},
    "x.au": {},
    "x.w64": {},
    "x.rf64": {},
}
FORMATS = [*BY_LIBSNDFILE, *ENCODED]


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """A folder of the same waveform in every format."""
    folder = tmp_path_factory.mktemp("formats")
    for name, options in BY_LIBSNDFILE.items():
        soundfile.write(folder / name, X, RATE, **options)
    for name, (codec, container, options) in ENCODED.items():
        encode(folder / name, codec, container, **options)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_under_every_name(formats, tmp_path, name):
    y = load_audio(formats / name)
    assert y.dtype == np.float32 and -1000 <= len(y) - len(X) < 3000
    alike = signal.correlate(y, X)
    delay = np.argmax(alike) - len(X) + 1  # of an encoder whose container does not tell
    assert -600 < delay < 2200 and alike.max() / np.sqrt(np.sum(y**2) * np.sum(X**2)) > 0.95
    assert np.std(y) == pytest.approx(np.std(X), rel=0.1)
    seconds = header_seconds(formats / name)
    assert seconds is None or seconds == pytest.approx(len(X) / RATE, abs=0.2)
    for other in ("x.wav", "x.mp3", "x.raw", "x.m3u8", "noending"):
        (tmp_path / other).write_bytes((formats / name).read_bytes())
        np.testing.assert_array_equal(load_audio(tmp_path / other), y)
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(formats / name))), y)


LOSSLESS = ["x.wav", "x.flac", "x.aiff", "x.caf", "x.au", "x.w64", "x.rf64", "alac.m4a", "x.mka", "x.avi"]
UNKNOWN_LENGTH = [name for name in FORMATS if name.startswith("pipe.") and name != "pipe.wma"]


@pytest.mark.parametrize("name", LOSSLESS + UNKNOWN_LENGTH)
def test_lossless_formats_agree_to_the_last_sample_whether_or_not_they_say_how_many_there_are(formats, name):
    y = load_audio(formats / name)
    assert len(y) == len(X)
    np.testing.assert_allclose(y, X, atol=1.01 / 32768)


def test_a_flac_header_that_counts_no_samples_changes_nothing(tmp_path):
    soundfile.write(tmp_path / "known.flac", X, RATE)
    data = bytearray((tmp_path / "known.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "unknown.flac").write_bytes(data)
    np.testing.assert_array_equal(load_audio(tmp_path / "unknown.flac"), load_audio(tmp_path / "known.flac"))


def test_a_wav_header_that_counts_no_samples_changes_nothing(tmp_path):
    soundfile.write(tmp_path / "x.wav", X, RATE)
    data = (tmp_path / "x.wav").read_bytes()
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        rewritten = data[:40] + size.to_bytes(4, "little") + data[44:]
        (tmp_path / "y.wav").write_bytes(rewritten[:4] + size.to_bytes(4, "little") + rewritten[8:])
        np.testing.assert_array_equal(load_audio(tmp_path / "y.wav"), load_audio(tmp_path / "x.wav"))


SAY_NO_LENGTH = {"recorder.webm", "x.aac", "x.amr", "x.ts", *UNKNOWN_LENGTH} - {"pipe.flac"}


@pytest.mark.parametrize("name", sorted(set(FORMATS) - SAY_NO_LENGTH))
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_a_file_that_was_cut_is_named_as_truncated(formats, tmp_path, name, share):
    data = (formats / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=f"{name}: truncated"):
        load_audio(tmp_path / name)


@pytest.mark.parametrize("name", sorted(SAY_NO_LENGTH))
def test_a_file_that_says_no_length_is_read_as_far_as_it_goes(formats, tmp_path, name):
    data = (formats / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    try:
        assert len(load_audio(tmp_path / name)) == pytest.approx(len(X) / 2, abs=3000)
    except UserError as error:  # the cut went through a packet
        assert f"{name}: truncated" in str(error)


def test_mp3_files_without_a_count_of_frames_or_with_tags_at_their_end_are_whole(tmp_path):
    encode(tmp_path / "x.mp3", "libmp3lame", "mp3", pipe=True)
    data = (tmp_path / "x.mp3").read_bytes()
    for tail in (b"", b"TAG" + bytes(125), b"APETAGEX" + bytes(100_000), bytes(3000)):
        (tmp_path / "x.mp3").write_bytes(data + tail)
        assert len(load_audio(tmp_path / "x.mp3")) == pytest.approx(len(X), abs=3000)


def test_a_vbri_header_counts_frames(tmp_path):
    encode(tmp_path / "x.mp3", "libmp3lame", "mp3", pipe=True)
    data = (tmp_path / "x.mp3").read_bytes()[45:]  # without its ID3 tag
    for n_frames, whole in ((60, True), (200, False)):
        header = b"VBRI" + bytes(10) + n_frames.to_bytes(4, "big")
        (tmp_path / "x.mp3").write_bytes(data[:36] + header + data[36 + len(header) :])
        if whole:
            assert len(load_audio(tmp_path / "x.mp3")) > 30000
        else:
            with pytest.raises(UserError, match="truncated: expected 7.20 s"):
                load_audio(tmp_path / "x.mp3")


def test_the_rate_may_change_within_a_stream(tmp_path):
    parts = [encode(tmp_path / f"{rate}.aac", "aac", "adts", rate=rate) for rate in (16000, 48000)]
    (tmp_path / "both.aac").write_bytes(b"".join(part.read_bytes() for part in parts))
    found = len(load_audio(tmp_path / "both.aac"))
    assert found == pytest.approx(sum(len(load_audio(part)) for part in parts), abs=100)


def test_damage_in_the_middle_is_an_error(tmp_path):
    path = encode(tmp_path / "x.aac", "aac", "adts")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x.aac: .* 1\.\d+ s"):
        load_audio(path)


def test_tags_in_any_encoding_are_no_obstacle(tmp_path):
    path = encode(tmp_path / "x.mka", "pcm_s16le", "matroska", metadata={"title": "caf\u00e9"})
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    assert len(load_audio(path)) == len(X)


def test_a_video_without_sound_is_named(tmp_path):
    with av.open(str(tmp_path / "x.mkv"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        frame = av.VideoFrame(64, 64, "yuv420p")
        out.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(UserError, match="x.mkv: .* matroska,webm "):
        load_audio(tmp_path / "x.mkv")


def test_nothing_is_written_to_the_disk(formats, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    for name in ("x.m4a", "x.webm", "x.flac"):
        assert len(load_audio(formats / name)) >= len(X)


# ---------------------------------------------------------------------------------------------------------- hostile

HLS = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n{}#EXTINF:2.5,\n{}\n#EXT-X-ENDLIST\n"
MPD = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S">'
    '<Period><AdaptationSet mimeType="audio/wav"><Representation id="0" bandwidth="1"><BaseURL>{0}</BaseURL>{1}'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"
LISTS = {  # name: what would make FFmpeg, or another player, read {0}
    "hls": HLS.format("", "{0}"),
    "hls_key": HLS.format('#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n', "{0}"),
    "hls_map": HLS.format('#EXT-X-MAP:URI="{0}"\n', "{0}"),
    "hls_range": HLS.format("#EXT-X-BYTERANGE:9000@0\n", "{0}"),
    "hls_variants": '#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="mp4a.40.2"\n{0}\n',
    "hls_media": '#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{0}"\n#EXT-X-STREAM-INF:BANDWIDTH=1,'
    'AUDIO="a"\n{0}\n',
    "hls_bom": "\ufeff" + HLS.format("", "{0}"),
    "hls_lines": "\n\n" + HLS.format("", "{0}"),
    "hls_carriage": HLS.format("", "{0}").replace("\n", "\r\n"),
    "hls_id3": "ID3\3\0\0\0\0\0\0" + HLS.format("", "{0}"),
    "hls_nul": "\0\0\0\0" + HLS.format("", "{0}"),
    "m3u": "#EXTM3U\n{0}\n",
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "ffconcat_duration": "ffconcat version 1.0\nfile '{0}'\nduration 1\nfile '{0}'\n",
    "concat": "file '{0}'\n",
    "dash": MPD.format("{0}", '<SegmentBase indexRange="0-9"/>'),
    "dash_list": MPD.format(
        "", '<SegmentList><Initialization sourceURL="{0}"/><SegmentURL media="{0}"/></SegmentList>'
    ),
    "sdp": SDP,
    "sdp_control": SDP + "a=control:{0}\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{0}</Id>'
    "</CompositionPlaylist>",
    "ism": '<SmoothStreamingMedia MajorVersion="2" Duration="9"><StreamIndex Type="audio" Url="{0}"/>'
    "</SmoothStreamingMedia>",
    "f4m": '<manifest xmlns="http://ns.adobe.com/f4m/1.0"><media url="{0}"/></manifest>',
    "pls": "[playlist]\nNumberOfEntries=1\nFile1={0}\n",
    "xspf": '<playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track><location>{0}</location></track>'
    "</trackList></playlist>",
    "asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
    "wax": "[Reference]\nRef1={0}\n",
    "smil": '<smil><body><audio src="{0}"/></body></smil>',
    "ram": "{0}\n",
    "cue": 'FILE "{0}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "qtl": '<?xml version="1.0"?><?quicktime type="application/x-quicktime-media-link"?><embed src="{0}"/>',
    "rtsptext": "rtsptext\n{0}\n",
    "lavfi": "amovie={0}\n",
    "avisynth": 'WavSource("{0}")\n',
    "webvtt": "WEBVTT\n\n00:00.000 --> 00:02.000\n{0}\n",
    "ted": '{{"captions":[{{"duration":1,"content":"{0}","startOfParagraph":false,"startTime":0}}]}}',
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n{0}\n",
    "ffmetadata": ";FFMETADATA1\ntitle={0}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{0}"/></svg>',
    "sbg": "-SE\n-o {0}\nx: 1+2/3\nNOW x\n",
    "rpl": "ARMovie\n{0}\n",
}


def mp4_with_data_elsewhere(reference, kind, count=20000, per_chunk=20000, size=2):
    """An M4A file whose sound lies in another file: a data reference of kind b"url " or b"alis", not to itself."""

    def box(name, *parts, full=None):
        content = b"".join(parts) if full is None else struct.pack(">I", full) + b"".join(parts)
        return struct.pack(">I4s", 8 + len(content), name) + content

    path = reference.encode()
    if kind == b"alis":
        name = path.split(b"/")[-1]
        fixed = bytes(6) + struct.pack(">HH", 0, 2) + bytes(2) + bytes(28) + bytes(12) + bytes(64) + bytes(16)
        fixed += struct.pack(">HH", 1, 1) + bytes(16)
        extra = struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0, len(name)) + name
        path = fixed + extra + struct.pack(">H", 0xFFFF)
    entry = struct.pack(">I4s6xHHHIHHHHI", 36, b"sowt", 1, 0, 0, 0, 1, 16, 0, 0, RATE << 16)
    table = [
        box(b"stsd", struct.pack(">I", 1), entry, full=0),
        box(b"stts", struct.pack(">III", 1, count, 1), full=0),
        box(b"stsc", struct.pack(">IIII", 1, 1, per_chunk, 1), full=0),
        box(b"stsz", struct.pack(">II", size, count), full=0),
        box(b"stco", struct.pack(">II", 1, 44), full=0),
    ]
    references = box(b"dinf", box(b"dref", struct.pack(">I", 1), box(kind, path, full=0), full=0))
    media = box(b"minf", box(b"smhd", bytes(4), full=0), references, box(b"stbl", *table))
    times = box(b"mdhd", struct.pack(">IIIIHH", 0, 0, RATE, 20000, 0, 0), full=0)
    handler = box(b"hdlr", struct.pack(">I4s12x", 0, b"soun"), b"\0", full=0)
    head = box(b"tkhd", struct.pack(">IIIII8xHHHH36xII", 0, 0, 1, 0, 20000, 0, 0, 256, 0, 0, 0), full=7)
    track = box(b"trak", head, box(b"mdia", times, handler, media))
    movie = box(b"mvhd", struct.pack(">IIIIIH10x36x24xI", 0, 0, RATE, 20000, 0x10000, 0x100, 2), full=0)
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", movie, track)


@pytest.fixture
def listener():
    """(port, connections): who listens on this machine, and a list of those who came."""
    connections = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            connections.append(address)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], connections
    server.close()


def test_no_content_leads_to_another_file_or_a_socket(tmp_path, listener):
    port, connections = listener
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.full(RATE, 0.5), RATE)
    os.mkfifo(tmp_path / "fifo.wav")  # whoever opens it waits for ever
    references = [
        "secret.wav",
        "./secret.wav",
        str(secret),
        f"file:{secret}",
        f"file://{secret}",
        f"subfile,,start,0,end,0,,:{secret}",
        f"concat:{secret}",
        f"async:{secret}",
        f"crypto+file:{secret}",
        f"http://127.0.0.1:{port}/secret.wav",
        f"tcp://127.0.0.1:{port}",
        str(tmp_path / "fifo.wav"),
    ]
    names = itertools.cycle(["x.wav", "x.m4a", "x.mp3", "x.m3u8", "x.flac", "x.mpd", "x.mp4", "x.sdp", "x", "x.ogg"])
    contents = [
        text.format(reference, port=port).encode()
        for text, reference in itertools.product(LISTS.values(), references)
        if text is not SDP or reference == references[0]
    ]
    contents += [mp4_with_data_elsewhere(reference, kind) for kind in (b"url ", b"alis") for reference in references]
    assert len(contents) > 450
    for content in contents:
        path = tmp_path / next(names)
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}: "):
            load_audio(path)
        assert header_seconds(path) is None or content[4:8] == b"ftyp"
        path.unlink()
    assert not connections


@pytest.mark.parametrize("per_chunk", [1, 1 << 30])
def test_a_small_file_that_claims_much_takes_little_memory(tmp_path, per_chunk):
    data = mp4_with_data_elsewhere("", b"url ", 1 << 30, per_chunk, 1)
    (tmp_path / "x.m4a").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(UserError):
        assert len(load_audio(tmp_path / "x.m4a")) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_the_time_for_a_file_is_bounded(formats, tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "PATIENCE", -1e9)
    with pytest.raises(UserError, match="x.m4a: .* s .* 0 s "):
        load_audio(formats / "x.m4a")
    assert header_seconds(formats / "x.m4a") is None
    assert len(load_audio(formats / "x.flac")) == len(X)


def test_scoring_takes_none_of_the_time_for_decoding(formats, monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(audio, "time", SimpleNamespace(monotonic=lambda: next(now) / 1000))
    monkeypatch.setattr(audio, "_BLOCK", 1000)
    n_samples = 0
    for block in audio_blocks(formats / "x.m4a"):
        n_samples += len(block)
        for _ in range(100_000):  # a slow detector
            next(now)
    assert n_samples >= len(X)
