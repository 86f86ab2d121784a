"""Fetch the files of a data set whose card says where they are."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from geomlib.data.cards import Card, CardFile, download_folders, file_sha256
from geomlib.errors import DataError, FileFormatError

__all__ = ["download"]

_CHUNK = 2**20


def download(card: Card, progress: bool = False) -> Path:
    """Fetch the missing files of a data set into the first folder for downloads.

    A file appears only when its checksum is right.

    Args:
        card: the data set.
        progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        DataError: a file can't be downloaded.
        FileFormatError: a file arrived with another size or checksum.
    """
    folder = download_folders()[0] / card.name
    for file in card.files:
        if card.locate(file.path) is None:
            _fetch(card, file, folder, progress)
    return folder


def _fetch(card: Card, file: CardFile, folder: Path, progress: bool) -> None:
    target = folder / file.path
    if file.url is None or not file.url.startswith(("https://", "http://")):
        origin = f" from {card.source}" if card.source else ""
        raise DataError(
            f"data set '{card.name}': '{file.path}' can't be downloaded; get it{origin} and put it at {target}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    arriving = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with (
            urllib.request.urlopen(file.url, timeout=60) as stream,
            arriving.open("wb") as out,
            tqdm(total=file.bytes, unit="B", unit_scale=True, desc=file.path, disable=not progress) as bar,
        ):
            received = 0
            while chunk := stream.read(_CHUNK):
                received += len(chunk)
                if received > file.bytes:
                    break
                out.write(chunk)
                bar.update(len(chunk))
        if received != file.bytes or file_sha256(arriving) != file.sha256:
            raise FileFormatError(f"{file.url}: what arrived is not the file on the card (size or sha256 differs)")
        arriving.replace(target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"data set '{card.name}': {file.url} can't be reached ({error}); no network?") from None
    finally:
        arriving.unlink(missing_ok=True)
