"""What kind of file a checkpoint is, where it is not one of tensors, and how to make it one."""

import zipfile
from pathlib import Path
from typing import IO

SAFE = "save its state_dict with torch.save, or as safetensors"

SUFFIXES = {
    ".onnx": ("an ONNX graph", "take the PyTorch weights that it was exported from"),
    ".tflite": ("a TensorFlow Lite model", "take the PyTorch weights, or convert it"),
    ".h5": ("a Keras HDF5 file", "convert its weights to a PyTorch state_dict"),
    ".keras": ("a Keras model", "convert its weights to a PyTorch state_dict"),
    ".pb": ("a TensorFlow graph", "convert its weights to a PyTorch state_dict"),
    ".msgpack": ("JAX/Flax msgpack", "convert its arrays to a PyTorch state_dict"),
    ".npz": ("an archive of NumPy arrays", "convert them to a PyTorch state_dict"),
    ".npy": ("a NumPy array", "convert it to a PyTorch state_dict"),
    ".gguf": ("a GGUF file", "take the PyTorch weights that it was made from"),
}
"""By the end of the name, where the first bytes do not tell."""

MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file", "run git lfs pull there"),
    (b"\x89HDF", *SUFFIXES[".h5"]),
    (b"\x93NUMPY", *SUFFIXES[".npy"]),
    (b"GGUF", *SUFFIXES[".gguf"]),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"%PDF", "a PDF document", "download the weights themselves"),
)
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--", b"<error")
TORCH = (b"PK\x03\x04", b"\x80")
"""How torch's files begin, those of before 1.6 too."""
OLD_TAR = {b"sys_info", b"pickle", b"storages", b"tensors"}


def foreign(path: str, file: Path | IO[bytes]) -> tuple[str, str] | None:
    """What the file is and the way out, where it holds no tensors that torch or safetensors read
    without running code; None where it may.
    """
    if isinstance(file, Path):
        if file.is_dir():
            return "a folder", f"give the file in it, or the model as timm: local-dir:{path}"
        with file.open("rb") as stream:
            return _foreign(path, stream)
    found = _foreign(path, file)
    file.seek(0)
    return found


def is_index(path: str) -> bool:
    """Whether a file lists the shards of a checkpoint, as Hugging Face writes it."""
    return path.partition("?")[0].endswith(".index.json")


def is_safetensors(path: str, head: bytes) -> bool:
    """By the header's length and the JSON after it, whose first byte may be that of a pickle; or by
    the name, unless it begins as torch's.
    """
    if head[8:9] == b"{" and head[5:8] == bytes(3):
        return True
    return path.partition("?")[0].endswith(".safetensors") and not head.startswith(TORCH)


def _foreign(path: str, stream: IO[bytes]) -> tuple[str, str] | None:
    head = stream.read(512)
    if not head:
        return "empty (0 bytes)", "copy it again"
    for magic, what, fix in MAGIC:
        if head.startswith(magic):
            return what, fix
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGES):
        return (
            "an HTML page, not the file",
            "its address leads to a page; download the weights themselves",
        )
    if head[4:8] == b"TFL3":
        return SUFFIXES[".tflite"]
    if head.startswith(b"PK\x03\x04"):
        stream.seek(0)
        return _foreign_zip(stream)
    if head[257:262] == b"ustar" or head[:8].rstrip(b"\0") in OLD_TAR:
        if head[:100].rstrip(b"\0").rpartition(b"/")[2] in OLD_TAR:
            return (
                "in the tar format of torch before 0.1.10",
                "load it where it is trusted with torch.load(FILE, weights_only=False) and " + SAFE,
            )
        return "a tar archive", "unpack it and give the file in it"
    if is_safetensors(path, head) or is_index(path) or head[:1] == b"\x80":
        return None
    for suffix, known in SUFFIXES.items():
        if path.partition("?")[0].lower().endswith(suffix):
            return known
    if head[:1] in b"{[" and path.partition("?")[0].endswith(".json"):
        return "a JSON file", "give the file of the weights"
    if _is_text(head):
        shown = head.decode(errors="ignore").strip().splitlines()[0][:40]
        return f"text ({shown!r} …), not tensors", "download the weights themselves"
    return None


def _is_text(head: bytes) -> bool:
    """Whether the first bytes are printable ASCII in lines."""
    text = head.decode("ascii", "replace").strip()
    return bool(text) and all(c.isprintable() or c.isspace() for c in text) and "\ufffd" not in text


def _foreign_zip(stream: IO[bytes]) -> tuple[str, str] | None:
    try:
        names = zipfile.ZipFile(stream).namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # damaged: torch says so
    files = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in files:
        return (
            "TorchScript, a program with its weights",
            "where it is trusted, save torch.jit.load(FILE).state_dict() with torch.save",
        )
    if names and all(name.endswith(".npy") for name in names):
        return SUFFIXES[".npz"]
    if "model.weights.h5" in files:
        return SUFFIXES[".keras"]
    if names and "data.pkl" not in files:
        return "a zip archive without torch's data.pkl", "unpack it and give the file in it"
    return None
