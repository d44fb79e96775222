"""Imports and mappings that cannot be are found before a worker has to make them."""

import pytest

from shardd.cli.start import check_contexts
from shardd.config.load import load_text
from shardd.errors import ConfigError

ACCOUNTS = """accounts {
  A { users: [{user: a, password: x}], exports: [{stream: "s.*"}, {service: "q.*"}] }
  B { users: [{user: b, password: x}], imports: [%s] }
}"""
STREAM = '{stream: {account: A, subject: "s.*"}, %s}'


@pytest.mark.parametrize(
    "more", ['to: "t.$2"', 'to: "t..x"', 'to: "t.{{nope(1)}}"', 'prefix: "x.>"'], ids=str
)
def test_an_import_that_leads_nowhere_is_refused(more: str) -> None:
    config = load_text(ACCOUNTS % (STREAM % more), "test.conf", {}).config
    with pytest.raises(ConfigError):
        check_contexts(config)


def test_an_import_that_can_be_is_not() -> None:
    config = load_text(ACCOUNTS % (STREAM % 'to: "t.$1"'), "test.conf", {}).config
    check_contexts(config)
