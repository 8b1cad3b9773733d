"""What `sottovoce` offers to Python users."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

import sottovoce

FUNCTIONS = [name for name in sottovoce.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_name_is_a_documented_function(name: str) -> None:
    function = getattr(sottovoce, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert inspect.getdoc(function)
    assert "return" in function.__annotations__


def test_dir_shows_what_is_public_and_no_package_hides_a_function() -> None:
    assert dir(sottovoce) == sorted(sottovoce.__all__)
    packages = {module.name for module in pkgutil.iter_modules(sottovoce.__path__)}
    assert not packages & set(sottovoce.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sottovoce.nothing  # type: ignore[attr-defined]
