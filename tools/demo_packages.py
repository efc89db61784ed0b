"""Debian's packages of recordings and speech synthesisers, unpacked beside the demo corpus, never installed."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from common.console import UserError, progress

# package, its folder, the person who speaks, the split that the person belongs to
RECORDINGS = [
    ("asterisk-core-sounds-en-wav", "en_US_f_Allison", "Allison Smith", "train"),
    ("asterisk-core-sounds-es-wav", "es_MX_f_Allison", "Allison Smith", "train"),
    ("asterisk-core-sounds-fr-wav", "fr_CA_f_June", "June Wallack", "train"),
    ("asterisk-core-sounds-it-wav", "it_IT_m_Carlo", "Carlo Flora", "train"),
    ("asterisk-core-sounds-ru-wav", "ru_RU_f_IvrvoiceRU", "IvrvoiceRU", "dev"),
    ("asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi", "Paola Dal Zot", "eval"),
]
# Sounds that are no speech, single letters, and jokes.
NOT_SPEECH = (
    "silence/",
    "letters/",
    "beep",
    "2tone",
    "tt-monkeys",
    "tt-weasels",
    "confbridge-join",
    "confbridge-leave",
)
SYNTHESISERS = [
    "espeak-ng",
    "flite",
    "festival",
    "festvox-us-slt-hts",
    "festvox-ca-ona-hts",
    "festvox-italp16k",
    "festvox-itapc16k",
    "festvox-kdlpc16k",
    "codec2",
]


def unpack_packages(cache):
    """Download and unpack the recordings and the synthesisers below `cache`; needs apt-get and dpkg, no root.

    Returns (root folder, {package: reason} of what could not be had). Raises UserError without the recordings.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise UserError("the recordings are Debian packages, and there is no apt-get here: give --speech_dir instead")
    recordings = [package for package, *_ in RECORDINGS]
    missing = _unpack(cache, recordings) | _unpack(cache, SYNTHESISERS, dependencies=True)
    absent = [package for package in recordings if package in missing]
    if absent:
        raise UserError(
            f"{len(absent)} packages of recordings cannot be had: {', '.join(absent)} ({missing[absent[0]]}); "
            "is the network up? --speech_dir builds from your own recordings"
        )
    return cache / "root", missing


def _unpack(cache, packages, dependencies=False):
    """Download and unpack packages, one by one where not all can be had. Returns {package: reason} of those."""
    stamps = [cache / "unpacked" / package for package in packages]
    if all(stamp.exists() for stamp in stamps):
        return {}
    apt = _Apt(cache)
    try:
        wanted = apt.with_dependencies(packages) if dependencies else packages
        for file in progress(apt.download(wanted), desc="unpacking", unit="package"):
            subprocess.run(["dpkg", "-x", file, cache / "root"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        if len(packages) > 1:
            return {name: why for package in packages for name, why in _unpack(cache, [package], dependencies).items()}
        said = error.stderr.decode(errors="replace").strip().splitlines()
        return {packages[0]: said[-1] if said else str(error)}
    for stamp in stamps:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return {}


class _Apt:
    """apt-get without root: falls back to package lists of its own where the system has none."""

    def __init__(self, cache):
        self.downloads, self.lists = cache / "downloads", (cache / "apt").resolve()
        self.downloads.mkdir(parents=True, exist_ok=True)
        self.options = []

    def _run(self, *arguments, cwd=None):
        command = ["apt-get", *self.options, *arguments]
        try:
            return subprocess.run(command, cwd=cwd, capture_output=True, check=True)
        except subprocess.CalledProcessError:
            if self.options:
                raise
        (self.lists / "lists/partial").mkdir(parents=True, exist_ok=True)
        self.options = ["-o", f"Dir::State::lists={self.lists}/lists", "-o", f"Dir::Cache={self.lists}"]
        self._run("update")
        return self._run(*arguments, cwd=cwd)

    def with_dependencies(self, packages):
        """The packages and their dependencies that this system lacks."""
        plan = self._run("--simulate", "--no-install-recommends", "install", *packages).stdout.decode()
        return sorted({*packages, *(line.split()[1] for line in plan.splitlines() if line.startswith("Inst "))})

    def download(self, packages):
        absent = [package for package in packages if not list(self.downloads.glob(f"{package}_*.deb"))]
        if absent:
            print(f"downloading {len(absent)} Debian packages", flush=True)
            with tempfile.TemporaryDirectory(dir=self.downloads) as folder:  # a file under its final name is complete
                self._run("download", *absent, cwd=folder)
                for path in Path(folder).glob("*.deb"):
                    os.replace(path, self.downloads / path.name)
        return [file for package in packages for file in self.downloads.glob(f"{package}_*.deb")]


def unpacked_tools(root):
    """Programs and settings for the synthesisers that were unpacked below `root`."""
    root = root.resolve()
    libraries = sorted({str(path.parent) for path in root.rglob("*.so*")})
    tools = {path.name: str(path) for path in (root / "usr/bin").glob("*")}
    for data in root.rglob("espeak-ng-data"):
        tools["espeak_flags"] = [f"--path={data.parent}"]
    scheme = str(root / "usr/share/festival")
    return {**tools, "libraries": ":".join(libraries), "festival_flags": ["--datadir", scheme, "--libdir", scheme]}
