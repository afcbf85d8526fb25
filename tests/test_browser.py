"""The browser that pages are tested in sees what it is meant to see."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "fault",
    [
        "<script>console.log('x')</script>",
        "<script>throw new Error('x')</script>",
        "<img src='https://focalcal.invalid/x.png'>",
    ],
)
def test_a_page_that_misbehaves_is_caught(browser, tmp_path, fault):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><title>x</title>{fault}")
    with pytest.raises(AssertionError), browser.open(path) as page:
        page.wait_for_timeout(50)


def test_a_page_that_behaves_passes(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>x</title><p>hello")
    with browser.open(path, dark=True) as page:
        assert page.inner_text("p") == "hello"
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
