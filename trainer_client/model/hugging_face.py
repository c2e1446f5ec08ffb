"""Building a causal LM from its Hugging Face configuration.

`transformers` takes seconds to import, so the functions here import it when they are called.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from tst_data.contract.description import RunDescription
from tst_data.errors import InvalidInputError
from tst_data.given_files import read_small_file

__all__ = ["build_config", "build_model"]

MAX_CONFIG_BYTES = 1 << 24


def build_config(model: dict[str, Any] | str, description: RunDescription) -> Any:
    """The Hugging Face configuration of a model for a run.

    Keys that were not given are filled in from the run: vocabulary size, end-of-text id, and room for the longest
    sequence. Raises NotFoundError for a missing file, InvalidInputError for keys that are unknown or values that are
    wrong or too small for the run.
    """
    import transformers

    given, config = _given_config(transformers, model)
    longest = max(phase.sequence_length for phase in description.phases)
    if "vocab_size" not in given:
        config.vocab_size = description.vocabulary_size
    if config.vocab_size < description.vocabulary_size:
        raise InvalidInputError(
            f"model.vocab_size: is {config.vocab_size}, but run '{description.name}' has a vocabulary of "
            f"{description.vocabulary_size}; raise it or leave it out"
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < longest:
        if "max_position_embeddings" in given:
            raise InvalidInputError(
                f"model.max_position_embeddings: is {positions}, but run '{description.name}' has sequences of "
                f"{longest} positions; raise it or leave it out"
            )
        config.max_position_embeddings = longest
    if "eos_token_id" not in given:
        config.eos_token_id = description.end_of_text_id
    for key in ("bos_token_id", "pad_token_id"):  # the token stream has neither
        if key not in given:
            setattr(config, key, None)
    return config


def build_model(config: Any) -> Any:
    """A causal LM with new weights in float32. Raises InvalidInputError where there is none for a configuration."""
    import transformers

    factory: Any = transformers.AutoModelForCausalLM  # partly untyped
    try:
        return factory.from_config(config).float()
    except Exception as error:  # each model raises errors of other types
        reason = " ".join(str(error).split())[:300]
        raise InvalidInputError(
            f"model: no causal language model of type {config.model_type!r} can be built ({reason}); "
            "choose another model_type or correct its keys"
        ) from None


def _given_config(transformers: ModuleType, model: dict[str, Any] | str) -> tuple[dict[str, Any], Any]:
    """The keys that were given, and the configuration with the model type's defaults for all others."""
    if isinstance(model, str):
        file = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
        text = read_small_file(
            file, place=f"model '{file}'", wanted="a config.json or of its folder", limit=MAX_CONFIG_BYTES
        )
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"model '{file}': is not JSON ({error}); give a Hugging Face config.json") from None
        if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
            raise InvalidInputError(f"model '{file}': has no model_type; give a Hugging Face config.json")
    else:
        given = model
    values = {key: value for key, value in given.items() if key != "model_type"}
    try:
        default = transformers.AutoConfig.for_model(given["model_type"])
    except ValueError:
        raise InvalidInputError(
            f"model.model_type: {given['model_type']!r} is not known to transformers {transformers.__version__}; "
            "give the name in a model's config.json, such as llama or qwen3"
        ) from None
    try:
        config = transformers.AutoConfig.for_model(given["model_type"], **values)
    except Exception as error:  # transformers 5 raises its own types for a value of the wrong type
        reason = " ".join(str(error).split())[:300]
        raise InvalidInputError(
            f"model: is not a configuration of {given['model_type']} ({reason}); correct its values"
        ) from None
    if not isinstance(model, str):  # transformers keeps a misspelled key as an attribute and says nothing
        known = default.to_dict()
        unknown = [key for key in values if key not in known and not hasattr(default, key) and hasattr(config, key)]
        if unknown:
            raise InvalidInputError(
                f"model.{unknown[0]}: is not a key of model_type {given['model_type']}; correct its spelling"
            )
    return given, config
