"""Download of files from Hugging Face with huggingface_hub. Its cache makes them available offline afterwards."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from checkpoints.pretrained import WEIGHTS, parts_of
from common.console import UserError, shown

# Otherwise the client downloads a list of known agents, to report to the server which of them runs it.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
PREFIX = "hf://"
FORM = "hf://OWNER/NAME/FILE[@REVISION]"
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(/\w[\w.+ -]*)*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_ENDINGS = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
)  # a name with one of these is a local file, not a repository


def fetch(source: str | None, flag: str, encoder: bool = False) -> tuple[str | None, str | None]:
    """Download `source`, the value of `flag`, if needed. Returns (local path, name with its commit).

    source: hf://OWNER/NAME/FILE[@REVISION]. For an encoder also hf://OWNER/NAME[@REVISION], whose config.json and one
    set of weights are downloaded (safetensors preferred to pickles); hf:// may be omitted if there is no such local
    path. Any other source is returned unchanged, twice. Only the named files are downloaded, and a file enters the
    cache only when it is complete. If several processes request the same file, one downloads it and the others wait.

    Raises UserError without network, repository, revision, file, access, or disk space.
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
    from huggingface_hub import hf_hub_download  # importing it takes half a second

    return Path(hf_hub_download(repository, file, revision=revision))


def _download_encoder(repository, revision):
    """Folder with config.json and one set of weights, all from the same commit."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    folder = _download(repository, "config.json", revision).parent
    for name in sorted(
        WEIGHTS, key=lambda name: not (folder / name).exists()
    ):  # cached files first: they need no network
        try:
            path = _download(repository, name, folder.name)
        except RemoteEntryNotFoundError:
            continue
        for part in parts_of(path) if path.suffix == ".json" else ():
            _download(repository, part, folder.name)
        return folder
    raise UserError(f"{PREFIX}{repository}: expected one of {', '.join(WEIGHTS)}, found none")


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
    """Context that turns download errors into one-line UserErrors."""
    from huggingface_hub import constants, errors

    access = "log in with an account that has access (`hf auth login` or HF_TOKEN)"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"{source}: accept the owners' terms on its page, then {access}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{source}: no such local path or repository on Hugging Face; if it is private, {access}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{source}: the repository has no such revision") from error
    except errors.RemoteEntryNotFoundError as error:
        file = str(error.response.url).rpartition("/")[2]
        raise UserError(f"{source}: the repository has no file {shown(file)}") from error
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__
        reason = shown(str(cause or "offline mode is on").partition("\n")[0], 200)
        what = "returned an error" if isinstance(cause, errors.HfHubHTTPError) else "cannot be reached"
        raise UserError(f"{source}: not in the cache, and Hugging Face {what}: {reason}") from error
    except errors.HFValidationError as error:
        raise UserError(f"{source}: not a valid name on Hugging Face: {shown(str(error), 200)}") from error
    except (errors.HTTPError, errors.XetDownloadError, OSError) as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise UserError(f"{source}: no access; {access}") from error
        reason = shown(str(error), 200)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            reason = f"{constants.HF_HUB_CACHE} cannot be written: {error.strerror}; set HF_HOME to another folder"
        raise UserError(f"{source}: download failed: {reason}") from error
