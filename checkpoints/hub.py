"""Files on Hugging Face by name, through huggingface_hub and its own cache: downloaded once, then read offline too."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from checkpoints.pretrained import WEIGHTS, parts_of
from common.console import UserError, shown

# Else the client asks for a list of programs it may be called by, to tell the server which.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
PREFIX = "hf://"
FORM = "hf://OWNER/NAME/FILE[@REVISION]"
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(/\w[\w.+ -]*)*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # of a local file, which no repository has


def fetch(source: str | None, flag: str, encoder: bool = False) -> tuple[str | None, str | None]:
    """The local path of `source`, what a flag names, downloaded if need be; and its name with the commit it is of.

    source: hf://OWNER/NAME/FILE[@REVISION]. Of an encoder also hf://OWNER/NAME[@REVISION], whose config.json and one
    set of weights are fetched (safetensors rather than pickles), and the same without hf:// if there is no such local
    path. Anything else is returned as it is, twice. Nothing that is not named is downloaded, and a file is in the cache
    whole or not at all. Processes that ask for one file at once wait for the first.

    Raises UserError: no network, no such repository, revision or file, no access, a full disk.
    """
    if source is not None and re.match("https?://|hf:(?!//)", source, re.IGNORECASE) and not os.path.exists(source):
        raise UserError(f"{flag}: expected a file or {FORM}, found {shown(source)}")
    if source is None or not (source.startswith(PREFIX) or (encoder and _names_repository(source))):
        return source, source
    name = source.removeprefix(PREFIX)
    match = _NAME.fullmatch(name)
    if not match or not (match["file"] or encoder):
        raise UserError(f"{flag}: expected {FORM}{' or hf://OWNER/NAME' if encoder else ''}, found {shown(source)}")
    repository, file, revision = match["repository"], match["file"].removeprefix("/"), match["revision"]
    with _explained(f"{flag} {source}"):
        if file:
            path = _download(repository, file, revision)
            commit = path.parents[file.count("/")].name  # snapshots/COMMIT/FILE
        else:
            path = _download_encoder(repository, revision)
            commit = path.name
    return str(path), f"{PREFIX}{repository}{match['file']}@{commit}"


def _names_repository(source):
    match = _NAME.fullmatch(source)
    return match and not match["file"] and not source.endswith(_ENDINGS) and not Path(source).exists()


def _download(repository, file, revision):
    from huggingface_hub import hf_hub_download  # takes half a second

    return Path(hf_hub_download(repository, file, revision=revision))


def _download_encoder(repository, revision):
    """The folder of config.json and one set of weights, all of one commit."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    folder = _download(repository, "config.json", revision).parent
    for name in sorted(WEIGHTS, key=lambda name: not (folder / name).exists()):  # what is there needs no network
        try:
            path = _download(repository, name, folder.name)
        except RemoteEntryNotFoundError:
            continue
        for part in parts_of(path) if path.suffix == ".json" else ():
            _download(repository, part, folder.name)
        return folder
    raise UserError(f"{PREFIX}{repository}: expected one of {', '.join(WEIGHTS)} in it, found none")


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Within, what goes wrong with a download is a UserError, in one line."""
    from huggingface_hub import constants, errors

    access = "an account that may read it logs in by `hf auth login`, or HF_TOKEN"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"{source}: its owners ask to agree to terms, on its page; then {access}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{source}: no such repository, here or on Hugging Face, or a private one: {access}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{source}: the repository has no such revision") from error
    except errors.RemoteEntryNotFoundError as error:
        file = str(error.response.url).rpartition("/")[2]
        raise UserError(f"{source}: the repository has no file {shown(file)}") from error
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        reason = shown(str(cause or "it was told to stay offline").partition("\n")[0], 200)
        what = "answers" if isinstance(cause, errors.HfHubHTTPError) else "cannot be reached"
        raise UserError(f"{source}: not downloaded before, and Hugging Face {what}: {reason}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{source}: no name that Hugging Face could have: {shown(str(error), 200)}") from error
    except (errors.HTTPError, errors.XetDownloadError, OSError) as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise UserError(f"{source}: no access: {access}") from error
        reason = shown(str(error), 200)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            reason = f"{constants.HF_HUB_CACHE} cannot take it: {error.strerror}; HF_HOME names another place"
        raise UserError(f"{source}: download failed: {reason}") from error
