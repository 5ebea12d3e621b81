"""The report in a headless Chromium: nothing in the console, and what is touched answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.browser import Browser
from tests.small_report import HOSTILE, metrics, report, samples
from vsad.geometry import RigPair
from vsad.report import CalibrationPicture, CurvePoints, Reconstruction, Report, ReportSample, write_report

HEIGHT, WIDTH = 24, 32
# "left" lies 8 pixels to the right of "front"; "right" is seen over "left" alone, 4 pixels below it.
PAIRS = [
    RigPair("front", "left", torch.tensor([[1.0, 0, 8], [0, 1, 0], [0, 0, 1]])),
    RigPair("left", "right", torch.tensor([[1.0, 0, 0], [0, 1, 4], [0, 0, 1]])),
]
PICTURE = "document.querySelectorAll('.card')[0].querySelectorAll('.picture')"
LUMINANCE = """
  const light = text => {
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = text.match(/[\\d.]+/g).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all there is, long names and hostile ones included."""
    intervals = metrics()
    intervals["sample"]["auroc_interval"] = (0.9, 1.0)
    picture = np.full((3, 20, 30), 0.5, np.float32)
    full = report(
        title="A title as long as those of people who describe all of their experiments in it " + 120 * "x",
        calibration=PAIRS,
        size=(HEIGHT, WIDTH),
        metrics=[("vsad", intervals), ("a baseline of a long name", metrics(0.1))],
        roc=[CurvePoints(level, [0, 0.1, 1], [0, 0.9, 1]) for level in ("pixel", "view", "sample")],
        pro=[CurvePoints("pixel", [0, 0.3], [0, 0.9])],
        calibration_pictures=[CalibrationPicture("front", "left", picture, picture)],
        reconstructions=[Reconstruction("good/1", torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8))],
        skipped=[(f"lost-{i}", "cut off " + 90 * "y") for i in range(12)],
        empty_masks=["bad-3"],
        samples=[dataclasses.replace(one, not_registered="no texture") if not i else one
                 for i, one in enumerate(samples())],
    )  # fmt: skip
    return write_report(tmp_path_factory.mktemp("page") / "report.html", full)


def cursors(browser: Browser, group: str = "document.querySelectorAll('.card')[0]") -> list[list[float] | None]:
    """Per view of a card where the cursor is, in pixels of the rig's images; None where it is not."""
    shares: list[list[float] | None] = browser.run(
        f"[...{group}.querySelectorAll('.picture')].map(p => {{"
        "  const c = p.querySelector('.cursor'); if (!c || c.hidden) return null;"
        "  const a = p.getBoundingClientRect(), b = c.getBoundingClientRect();"
        "  return [(b.left + b.width / 2 - a.left) / a.width, (b.top + b.height / 2 - a.top) / a.height]; })"
    )
    return [s and [round(WIDTH * s[0] - 0.5, 1), round(HEIGHT * s[1] - 0.5, 1)] for s in shares]


def at(browser: Browser, view: int, x: float, y: float) -> tuple[float, float]:
    """Where in the window a pixel of a view of the first card is, after scrolling there."""
    left, top, width, height = browser.run(
        f"(() => {{ const p = {PICTURE}[{view}]; p.scrollIntoView({{block: 'center'}});"
        "const r = p.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
    )
    return left + width * (x + 0.5) / WIDTH, top + height * (y + 0.5) / HEIGHT


def names(browser: Browser) -> list[str]:
    """The cards that are shown, in their order."""
    shown: list[str] = browser.run(
        "[...document.querySelectorAll('.card')].filter(c => c.offsetHeight).map(c => c.dataset.name)"
    )
    return shown


def choose(browser: Browser, control: str, value: str) -> None:
    browser.run(
        f"(() => {{ const c = document.getElementById({control!r}); c.value = {value!r};"
        "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.parametrize("look", [{}, {"dark": True}, {"width": 390, "height": 844, "phone": True}])
def test_the_console_stays_empty_and_the_network_silent(browser: Browser, page: Path, look: dict[str, Any]) -> None:
    browser.open(page, **look)
    browser.run("document.querySelectorAll('.enlarge')[1].click()")
    browser.run("document.querySelector('[data-step=\"1\"]').click()")
    browser.run("document.querySelector('[data-heat]').click()")
    browser.run("document.querySelector('[data-close]').click()")
    browser.run("document.querySelectorAll('.tabs button')[1].click()")
    assert browser.problems == []
    assert browser.requests == [page.resolve().as_uri()]


def test_a_problem_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<script>console.error('no'); undefined.x</script><img src='missing.png'>", encoding="utf-8")
    browser.open(broken)
    assert len(browser.problems) >= 2
    assert any("missing.png" in url for url in browser.requests)


def test_the_cursor_is_in_every_view_that_sees_the_place(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert cursors(browser) == [None, None, None]
    browser.move(*at(browser, 0, 10.0, 7.0))
    assert cursors(browser) == [[10.0, 7.0], [18.0, 7.0], [18.0, 11.0]]
    browser.move(*at(browser, 2, 18.0, 11.0))
    assert cursors(browser) == [[10.0, 7.0], [18.0, 7.0], [18.0, 11.0]]
    browser.move(*at(browser, 0, 30.0, 7.0))  # beyond the right rim of the others
    assert cursors(browser) == [[30.0, 7.0], None, None]
    browser.move(*at(browser, 2, 2.0, 2.0))  # above the upper rim of left, left of the left rim of front
    assert cursors(browser) == [None, None, [2.0, 2.0]]
    browser.move(1, 1)
    assert cursors(browser) == [None, None, None]


def test_a_place_behind_a_camera_is_marked_nowhere(browser: Browser, tmp_path: Path) -> None:
    # Z is 1 at the left rim and -1 at the right one; x and y alone would put the place into the picture.
    horizon = torch.tensor([[-1.0, 0, 15.5], [0, -1, 11.5], [-1 / 15.5, 0, 1]])
    path = write_report(tmp_path / "r.html", report(calibration=[RigPair("front", "left", horizon)]))
    browser.open(path)
    browser.move(*at(browser, 0, 20.0, 11.5))
    assert cursors(browser)[:2] == [[20.0, 11.5], None]


def test_a_finger_points_without_switching_the_heat_map(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, height=844, phone=True)
    browser.tap(*at(browser, 0, 10.0, 7.0))
    assert cursors(browser) == [[10.0, 7.0], [18.0, 7.0], [18.0, 11.0]]
    assert browser.run(f"{PICTURE}[0].getAttribute('aria-pressed')") == "true"


def test_arrow_keys_move_the_cursor_and_say_where_it_is(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(f"{PICTURE}[0].focus()")
    browser.press("ArrowLeft")
    assert cursors(browser)[0] == [15.5, 11.5]
    browser.press("ArrowLeft")
    (x, y), (left_x, left_y), _ = cursors(browser)
    assert (x, y) == (14.9, 11.5)
    assert (left_x, left_y) == (22.9, 11.5)
    assert browser.run("document.getElementById('place').value") == "front 15, 12; left 23, 12; right 23, 16"
    browser.press("Escape")
    assert cursors(browser) == [None, None, None]


def test_an_enlarged_view_keeps_the_place_and_shows_the_other_views(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.move(*at(browser, 0, 10.0, 7.0))
    browser.run("document.querySelectorAll('.enlarge')[0].click()")
    zoom = "document.getElementById('zoom')"
    assert cursors(browser, zoom) == [[10.0, 7.0], [18.0, 7.0], [18.0, 11.0]]
    assert browser.run(f"{zoom}.querySelector('output').value") == "bad-2, view front"
    browser.run(f"{zoom}.querySelectorAll('.strip .picture')[1].click()")
    assert browser.run(f"{zoom}.querySelector('output').value") == "bad-2, view right"
    # The enlarged view comes first.
    assert cursors(browser, zoom) == [[18.0, 11.0], [10.0, 7.0], [18.0, 7.0]]


def test_filters_and_galleries_choose_and_sort(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert names(browser) == ["bad-2", "good-2", HOSTILE, "bad-1", "good-1"]
    choose(browser, "outcome", "wrong")
    assert names(browser) == ["bad-2", "good-2"]
    choose(browser, "outcome", "outcome:false alarm")
    assert names(browser) == ["good-2"]
    choose(browser, "outcome", "")
    choose(browser, "kind", "kind:scratch")
    assert names(browser) == [HOSTILE, "bad-1"]
    assert browser.run("document.getElementById('shown').value") == "2 of 5 samples"
    choose(browser, "find", "ALERT")
    assert names(browser) == [HOSTILE]
    choose(browser, "find", "nothing like it")
    assert names(browser) == []
    assert browser.run("document.getElementById('none').hidden") is False
    pressed = "[...document.querySelectorAll('.tabs [aria-pressed=true]')].map(t => t.textContent.trim())"
    for tab, expected, text in (
        (4, ["bad-2", "bad-1", HOSTILE], "Defective, lowest first 3"),
        (2, ["good-2", "good-1"], "Normal, highest first 2"),
        (1, ["bad-2", "good-2"], "Wrong verdicts 2"),
        (0, ["bad-2", "good-2", HOSTILE, "bad-1", "good-1"], "All 5"),
    ):
        browser.run(f"document.querySelectorAll('.tabs button')[{tab}].click()")
        assert names(browser) == expected
        assert browser.run(pressed) == [text]
    choose(browser, "sort", "name")
    assert names(browser)[1:] == ["bad-1", "bad-2", "good-1", "good-2"]


def test_a_click_switches_the_heat_map_and_the_slider_all_of_them(browser: Browser, page: Path) -> None:
    browser.open(page)
    heat = "getComputedStyle(document.querySelector('.heat')).opacity"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert browser.run(heat) == "1"
    browser.run("document.querySelector('.picture').click()")
    assert browser.run(heat) == "0"
    browser.run("document.querySelector('.picture').click()")
    choose(browser, "opacity", "50")
    assert browser.run(heat) == "0.5"


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    background = browser.run(LUMINANCE + "light(getComputedStyle(document.body).backgroundColor)")
    assert background < 0.05 if dark else background > 0.8
    # WCAG asks for a ratio of 4.5 between text and what lies behind it.
    worst = browser.run(
        "(() => {"
        + LUMINANCE
        + """
      const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/rgba\\(.*, 0\\)|color\\(|transparent/.test(c)) return light(c); } return light("rgb(255,255,255)"); };
      let worst = [99, ""];
      const texts = "h1, h2, h3, p, dt, dd, td, th, li span, .verdict, .truth, .tabs button, figcaption, small, label";
      for (const e of document.querySelectorAll(texts)) {
        const [a, b] = [light(getComputedStyle(e).color), behind(e)];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 200)];
      }
      return worst; })()"""
    )
    assert worst[0] >= 4.5, worst


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width, height=800, phone=width < 1000)
    browser.run("scrollTo(0, 1e6)")
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]


@pytest.mark.parametrize("width", [768, 1180, 1920])
def test_no_table_of_a_run_is_cut(browser: Browser, tmp_path: Path, width: int) -> None:
    """``vsad run`` compares five rows of metrics, and its own have intervals of views and samples."""
    own = metrics()
    for level in ("view", "sample"):
        own[level] |= {f"{name}_interval": (1.0, 1.0) for name in ("auroc", "ap", "f1_max")}
    others = ("no alignment", "no registration", "no neighbors", "plain features")
    full = report(metrics=[("vsad", own), *((name, metrics(0.1)) for name in others)])
    browser.open(write_report(tmp_path / "r.html", full), width=width)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    assert browser.run("document.querySelectorAll('.scroll').length") == 4
    assert browser.run(cut) == []


@pytest.mark.parametrize("width", [360, 768, 1180, 1920])
def test_letters_in_charts_are_of_a_readable_size_in_every_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    sizes = browser.run(
        "[...document.querySelectorAll('.chart text')].map(e => parseFloat(getComputedStyle(e).fontSize)"
        " * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert 10 <= min(sizes) <= max(sizes) <= 16


def test_without_scripts_all_of_it_is_there(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        root = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]

        def found(selector: str) -> list[int]:
            nodes: list[int] = browser.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
            return nodes

        assert len(found("article")) == 5
        assert len(found("article img")) == 30
        hidden = browser.call("CSS.getComputedStyleForNode", nodeId=found(".toolbar")[0])["computedStyle"]
        assert {"name": "display", "value": "none"} in hidden
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.slow
def test_two_thousand_samples_stay_small_and_open_in_a_second(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Photographs of noise are the largest there are; a few stand for all.
    photographs = [rng.integers(0, 256, (5, 3, 256, 256), np.uint8) for _ in range(4)]
    views = [f"C{v}" for v in range(5)]
    pairs = [RigPair(a, b, torch.eye(3)) for a in views for b in views if a != b]

    def parts() -> Iterator[ReportSample]:
        for i in range(2000):
            maps = np.zeros((5, 64, 64), np.float32)
            maps[i % 5, 20:30, 20:30] = score = float(rng.gamma(2.0))
            yield ReportSample(f"part-{i}", photographs[i % 4], maps, maps.max((1, 2)), score, label=i % 3 == 0)

    path = write_report(tmp_path / "r.html", Report("Many", views, parts(), 2.0, calibration=pairs))
    assert path.stat().st_size < 30e6
    browser.open(path)
    assert browser.run("document.querySelectorAll('.card').length") == 2000
    assert browser.busy_s < 1
    assert browser.problems == []
