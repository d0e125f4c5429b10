"""Networks that a metric needs and this library does not ship: read from where the user put them."""

from pathlib import Path

import torch


class MissingFile(FileNotFoundError):
    """A file that a judgement needs is not there or is not what it should be."""


def load_backbone(path: Path, contract: str) -> torch.jit.ScriptModule:
    """A TorchScript module, in evaluation mode.

    contract: what the file should be and where people get it; it ends the message of MissingFile, which is
      raised where the file is missing or is no TorchScript.
    """
    if not path.is_file():
        raise MissingFile(f"{path} is missing; it should be {contract}")
    try:
        backbone = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingFile(f"{path} is no TorchScript module ({reason}); it should be {contract}") from None
    return backbone.eval()
