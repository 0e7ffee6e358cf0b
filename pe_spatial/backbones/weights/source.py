"""From the name of an encoder, a path or a folder to one file on this machine."""

import hashlib
import os
import re
from pathlib import Path

from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.common.errors import few, suggest
from pe_spatial.common.shards import ShardIndex, is_index, looks_like_shard
from pe_spatial.common.tensors import SUFFIXES, WeightsError

FOLDER_VARIABLE = "PE_SPATIAL_WEIGHTS"
# the commit of its repository that an encoder is fetched from; None: the newest, for we know of no commit to pin it to
REVISIONS: dict[str, str | None] = dict.fromkeys(VARIANTS)
# the repository and the file of an encoder whose name does not say both
_PLACES = {"SAM3-L14-1008": ("facebook/sam3", "sam3.pt")}
_SHA256 = re.compile(r"[0-9a-f]{64}")  # the hub's etag of a large file; that of a small one is shorter
_BLOCK = 2**20  # bytes


def find(source: str | Path) -> Path:
    """Return the file that holds the weights, or the index of the files that do.

    Args:
        source: The name of a released encoder (`PE-Spatial-B16-512`), whose file is taken from the folder that the
            environment variable `PE_SPATIAL_WEIGHTS` names, else from the cache of the Hugging Face hub, else
            downloaded to it; or the path of a file, which may be an index of shards (`*.index.json`); or a folder with
            a single checkpoint, in one file or in several with their index.

    Raises:
        FileNotFoundError: Nothing is there; for an encoder, the message says where to put which file.
        WeightsError: A folder with several checkpoints, or a download that is not the file that the hub has.
    """
    if isinstance(source, str) and source in VARIANTS:
        return find_on_machine(source) or _download(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _only_checkpoint(path)
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"no weights at {str(source)!r}: give an existing .pt, .pth or .safetensors file, or the name of a released "
        f"encoder; {suggest(str(source), VARIANTS)}"
    )


def find_on_machine(name: str) -> Path | None:
    """The file of a released encoder in the folder `PE_SPATIAL_WEIGHTS` or the cache of the hub; nothing is fetched."""
    if path := local_copy(name):
        return path
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(*_place(name), revision=REVISIONS[name])
    return Path(cached) if isinstance(cached, str) else None


def local_copy(name: str) -> Path | None:
    """A file of that name, or of that on the hub, with any suffix of weights, in the folder `PE_SPATIAL_WEIGHTS`."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    root = Path(folder).expanduser()
    names = dict.fromkeys((name, Path(_place(name)[1]).stem))
    candidates = [parent / f"{stem}{suffix}" for stem in names for parent in (root, root / name) for suffix in SUFFIXES]
    return next((path for path in candidates if path.is_file()), None)


def _place(name: str) -> tuple[str, str]:
    """The repository on the hub and the file in it."""
    return _PLACES.get(name, (f"facebook/{name}", f"{name}.pt"))


def _download(name: str) -> Path:
    """Fetch the official file; the hub's client caches it, resumes a broken download and shows its progress.

    Raises:
        FileNotFoundError: It cannot be fetched.
        WeightsError: It has another size or another SHA-256 than the hub says; it is removed from the cache.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    (repository, file_name), revision = _place(name), REVISIONS[name]
    try:
        stated = get_hf_file_metadata(hf_hub_url(repository, file_name, revision=revision))
        # of the commit that was described, though a newer one may come in between
        path = Path(hf_hub_download(repo_id=repository, filename=file_name, revision=stated.commit_hash or revision))
    # the client's transport decides what is raised (its own errors, httpx, requests, OSError): each means "not here"
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise FileNotFoundError(
            f"{file_name} is not on this machine and cannot be downloaded from https://huggingface.co/{repository} "
            f"({type(error).__name__}: {reason[0][:200]}). Download it where there is a network, then put {file_name} "
            f"into {suggested_folder()} or pass its path instead of the name {name!r}"
        ) from error
    verify_download(path, stated.size, stated.etag)
    return path


def verify_download(path: Path, size: int | None, etag: str | None) -> None:
    """Compare a file of the hub's cache with what the hub says of it; a wrong one is removed, so that none finds it.

    Args:
        path: The file, or the cache's link to it.
        size: In bytes; None if the hub does not say.
        etag: The SHA-256 of a large file; anything else is not compared.

    Raises:
        WeightsError: It is another file.
    """
    found_size = path.stat().st_size
    wrong = f"{found_size:,} bytes instead of {size:,}" if size not in (None, found_size) else ""
    if not wrong and etag and _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != etag:
            wrong = f"SHA-256 {digest.hexdigest()} instead of {etag}"
    if wrong:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise WeightsError(f"{path}: differs from the file on the hub ({wrong}), so it was removed; download it again")


def suggested_folder() -> str:
    """Where to put a file so that it is found, to stand after "into"."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (
        f"the folder {folder} ({FOLDER_VARIABLE})" if folder else f"a folder and set {FOLDER_VARIABLE} to that folder,"
    )


def _only_checkpoint(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    indexes = [path for path in files if is_index(path)]
    shards = {name for index in indexes for name in ShardIndex(index).files.values()}
    found = [path for path in files if path.suffix in SUFFIXES and path.name not in shards]
    if found and not indexes and all(map(looks_like_shard, found)):
        name = f"{found[0].name.partition('-')[0]}{found[0].suffix}.index.json"
        raise WeightsError(
            f"the folder {folder} contains parts of a checkpoint ({few(path.name for path in found)}), but not their "
            f"index; download {name} into it"
        )
    if not found and len(indexes) > 1:  # the same weights in both formats, as on the hub
        indexes = [path for path in indexes if path.name.endswith(".safetensors.index.json")] or indexes
    found += indexes
    if not found:
        raise FileNotFoundError(f"no .pt, .pth or .safetensors file in the folder {folder}; give the path of the file")
    if len(found) > 1:
        names = few((path.name for path in found), 8)
        raise WeightsError(f"{len(found)} checkpoints in the folder {folder}: {names}; give the path of one of them")
    return found[0]
