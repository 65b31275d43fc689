"""Bodies: Python objects to JSON and back, with or without a type.

Untyped bodies are plain JSON values, bytes too (base64 on the wire). Typed ones are msgspec
Structs, attrs classes, dataclasses and whatever cattrs knows. A body that does not fit its
type is a `BodyMismatch` that says where; nothing is coerced, "5" is no int.
"""

import base64
import json
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from msg.client.errors import BodyMismatch

if TYPE_CHECKING:
    from cattrs import Converter

Decode = Callable[[msgspec.Raw], Any]

decode_json = msgspec.json.Decoder().decode
_PRIMITIVES = (int, str, bool, float)


def encoder(converter: "Converter | None") -> Callable[[Any], bytes]:
    """How bodies become JSON: as `encode` does, or as the given converter says."""
    if converter is None:
        return encode

    def encode_converted(body: Any) -> bytes:
        return encode(converter.unstructure(body))

    return encode_converted


def encode(body: Any) -> bytes:
    """One line of JSON. Raises TypeError or ValueError for what JSON cannot say."""
    data = _encode(body)
    if b"null" in data:  # msgspec writes NaN and the infinities as null: never by mistake
        _refuse_nan(body)
    return data


def encode_binary(body: bytes | bytearray | memoryview) -> bytes:
    """The JSON string that carries these bytes, for `encoding: base64`."""
    return b'"%b"' % base64.b64encode(body)


def decoder(type_: Any, converter: "Converter | None") -> Decode:
    """How bodies of this type are read. None: any JSON."""
    if type_ is None and converter is None:
        return decode_json
    name = getattr(type_, "__name__", str(type_))
    if converter is None and isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        decode_struct = msgspec.json.Decoder(type_).decode

        def decode_typed(raw: msgspec.Raw) -> Any:
            try:
                return decode_struct(raw)
            except msgspec.ValidationError as error:
                raise BodyMismatch(f"the body is no {name}: {error}") from error

        return decode_typed
    return _structured(type_, name, converter or _converter())


def _structured(type_: Any, name: str, converter: "Converter") -> Decode:
    from cattrs import transform_error

    def decode_structured(raw: msgspec.Raw) -> Any:
        value = decode_json(raw)
        if type_ is None:
            return value
        try:
            return converter.structure(value, type_)
        # a hook may raise whatever it likes: it is the body that does not fit
        except Exception as error:
            reasons = "; ".join(transform_error(error, format_exception=_why))
            raise BodyMismatch(f"the body is no {name}: {reasons}") from error

    return decode_structured


def _why(error: BaseException, type_: type | None) -> str:
    if isinstance(error, KeyError):
        return "a required field is missing"
    return str(error) or type(error).__name__


@cache
def _converter() -> "Converter":
    """cattrs for JSON, made strict: a number stays a number. Imported by the first use."""
    from cattrs.preconf.json import make_converter

    converter = make_converter()
    for primitive in _PRIMITIVES:
        converter.register_structure_hook(primitive, _strict(primitive))
    return converter


def _strict(primitive: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is primitive or (primitive is float and type(value) is int):
            return value
        raise TypeError(f"expected {primitive.__name__}, not {type(value).__name__}")

    return structure


def _otherwise(value: Any) -> Any:
    """What msgspec does not know is cattrs' business."""
    plain = _converter().unstructure(value)
    if type(plain) is type(value):
        raise TypeError(f"a body must be JSON, and {type(value).__name__} is not")
    return plain


_encode = msgspec.json.Encoder(enc_hook=_otherwise).encode


def _refuse_nan(body: Any) -> None:
    try:
        # the standard library knows them, and tells them from None
        json.dumps(msgspec.to_builtins(body, enc_hook=_otherwise), allow_nan=False)
    except ValueError as error:
        raise ValueError(f"a body must be JSON: {error}") from None


def decode_binary(text: Any) -> bytes:
    """The bytes of a body that came with `encoding: base64`."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise BodyMismatch(f"the body says base64 and is not: {error}") from error
