"""Text to tokens, by a tokenizer of the user's.

A transform.  Invariant: the tokenizer sees a whole chunk at once, so that its own threads do
the work; what a text becomes does not depend on its chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from iopipe.errors import DataError, MissingDependency, PipelineError
from iopipe.jobs.transform import Outcome, Sample, Transform

_FIELDS = ("txt", "text")
_Encode: TypeAlias = Callable[[list[str]], list[list[int]]]


def make_tokenise(
    tokenizer: str, field: str | None = None, end_of_text: str | None = None
) -> Transform:
    """A transform that replaces a sample's text by the column `tokens`: uint16, or int32, which
    Megatron's index has for larger ones, where some id is above 65,535.

    `tokenizer` is a file in the format of Hugging Face tokenizers (JSON), or
    'tiktoken:NAME' for one of tiktoken's encodings.  `field` is the text's column, by default
    txt or text.  The token `end_of_text` ends every document, if given.
    """
    encode, num_ids, last = _loaded(tokenizer, end_of_text)
    dtype = np.uint16 if num_ids <= 1 << 16 else np.int32
    ending = [] if last is None else [last]

    def transform(samples: Sequence[Sample]) -> list[Outcome]:
        texts = [_text(sample, field) for sample in samples]
        found = [text for text in texts if isinstance(text, str)]
        tokens = iter(encode(found))
        return [
            text
            if isinstance(text, DataError)
            else [{"__key__": s["__key__"], "tokens": np.array([*next(tokens), *ending], dtype)}]
            for s, text in zip(samples, texts, strict=True)
        ]

    return transform


def _text(sample: Sample, field: str | None) -> str | DataError:
    name = field or next((name for name in _FIELDS if name in sample), None)
    if name is None or name not in sample:
        wanted = field or " or ".join(_FIELDS)
        return DataError(f"it has no field {wanted} among {sorted(sample)}; name its text")
    value: Any = sample[name]
    if isinstance(value, str):
        return value
    try:
        return str(value, "utf-8")
    except (UnicodeDecodeError, TypeError) as error:
        return DataError(f"field {name!r} is no UTF-8 text: {error}")


def _loaded(tokenizer: str, end_of_text: str | None) -> tuple[_Encode, int, int | None]:
    """The batch encoder, the largest token and one, and the token that ends a document."""
    kind, colon, name = tokenizer.partition(":")
    if colon and kind == "tiktoken":
        return _tiktoken(name, end_of_text)
    if not Path(tokenizer).is_file():
        raise PipelineError(f"there is no tokenizer file {tokenizer!r}; give a tokenizers JSON")
    return _hugging_face(tokenizer, end_of_text)


def _hugging_face(path: str, end_of_text: str | None) -> tuple[_Encode, int, int | None]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependency(
            "iopipe.jobs.tokenise needs tokenizers: pip install 'iopipe[tokenise]'"
        ) from error
    try:
        loaded = Tokenizer.from_file(path)
    except Exception as error:  # it raises plain Exception
        raise PipelineError(f"{path!r} is no tokenizer: {error}") from error
    last = None if end_of_text is None else loaded.token_to_id(end_of_text)
    if end_of_text is not None and last is None:
        raise PipelineError(f"the tokenizer has no token {end_of_text!r}")

    def encode(texts: list[str]) -> list[list[int]]:
        encoded = loaded.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    return encode, max(loaded.get_vocab().values(), default=0) + 1, last  # ids may have gaps


def _tiktoken(name: str, end_of_text: str | None) -> tuple[_Encode, int, int | None]:
    try:
        import tiktoken
    except ImportError as error:
        raise MissingDependency(
            "iopipe.jobs.tokenise needs tiktoken: pip install 'iopipe[tokenise]'"
        ) from error
    try:
        loaded = tiktoken.get_encoding(name)
    except ValueError as error:
        raise PipelineError(f"tiktoken has no encoding {name!r}") from error
    last = None
    if end_of_text is not None:
        if end_of_text not in loaded.special_tokens_set:
            raise PipelineError(f"the tokenizer has no token {end_of_text!r}")
        last = loaded.encode_single_token(end_of_text)
    return loaded.encode_ordinary_batch, loaded.n_vocab, last
