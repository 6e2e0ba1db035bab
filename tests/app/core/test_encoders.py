"""Every encoder has one entry, and one rule says what codes a module."""

from __future__ import annotations

import pytest

from bitbudget.app.core.encoders import (
    ENCODERS,
    Encoder,
    effective_encoder,
    encoder_by_weights,
    sqnr_floor_of,
    usable_encoder,
)
from bitbudget.app.core.formats import FLOAT_FORMATS, LOSSY_FORMATS, parse_format
from bitbudget.app.core.sensitivity import Sensitivity

FOUR = parse_format("affine4g64")


@pytest.mark.parametrize("encoder", Encoder)
def test_what_stands_in_needs_nothing_and_codes_everything(encoder: Encoder) -> None:
    entry = ENCODERS[encoder]
    last = ENCODERS[entry.stands_in or encoder]
    assert entry.label
    assert entry.description
    assert not last.needs_statistics
    assert last.formats == LOSSY_FORMATS


def test_statistics_are_used_where_there_are_any_and_the_format_is_coded() -> None:
    for encoder in (Encoder.GPTQ, Encoder.YAQA):
        assert effective_encoder(encoder, FOUR, has_statistics=True) is encoder
        assert effective_encoder(encoder, FOUR, has_statistics=False) is Encoder.CAREFUL
        for format_ in FLOAT_FORMATS:
            assert effective_encoder(encoder, format_, has_statistics=True) is Encoder.CAREFUL
        assert encoder_by_weights(encoder) is Encoder.CAREFUL
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        for format_ in LOSSY_FORMATS:
            assert effective_encoder(encoder, format_, has_statistics=False) is encoder


def test_only_fisher_collects_statistics() -> None:
    assert usable_encoder(Encoder.YAQA, Sensitivity.FISHER) is Encoder.YAQA
    for sensitivity in (Sensitivity.PROBE, Sensitivity.WEIGHTS):
        assert usable_encoder(Encoder.YAQA, sensitivity) is Encoder.CAREFUL
        assert usable_encoder(Encoder.MINMAX, sensitivity) is Encoder.MINMAX


def test_floor_is_stated_for_minmax_and_0_is_off_for_all() -> None:
    assert sqnr_floor_of(Encoder.MINMAX, 9) == 9
    assert sqnr_floor_of(Encoder.CAREFUL, 9) == 11
    assert all(sqnr_floor_of(encoder, 0) == 0 for encoder in Encoder)
