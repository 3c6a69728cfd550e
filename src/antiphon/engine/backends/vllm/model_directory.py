"""Writes a model as a directory that vLLM reads.

``python -m antiphon.engine.backends.vllm.model_directory NAME DIRECTORY``

Runs in vLLM's environment. The weights are those of the GGUF file, dequantized to bfloat16, so vLLM serves the same
model as our own engine; texts may differ where two tokens are nearly equally probable.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from antiphon.engine import weights


def write(gguf: Path, directory: Path) -> None:
    """Convert the file. What is under ``directory`` afterwards is whole: it is written beside it and renamed.

    Raises:
        OSError: it cannot be written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where: dict[str, Any] = {"gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.bfloat16, **where)
    # A model that was loaded from GGUF refuses to be saved; one made anew from its configuration does not.
    configuration = loaded.config.to_dict()
    configuration.pop("quantization_config", None)
    fresh: Any = LlamaForCausalLM(LlamaConfig.from_dict(configuration))
    fresh.to(torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    beside = directory.with_name(directory.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    fresh.save_pretrained(beside)
    AutoTokenizer.from_pretrained(str(gguf.parent), **where).save_pretrained(beside)
    shutil.rmtree(directory, ignore_errors=True)
    beside.rename(directory)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m antiphon.engine.backends.vllm.model_directory")
    parser.add_argument("model", help="a model's name, or the path of a GGUF file of a Llama")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    path = Path(options.model) if options.model.endswith(".gguf") else weights.pull(options.model)
    options.directory.parent.mkdir(parents=True, exist_ok=True)
    write(path, options.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
