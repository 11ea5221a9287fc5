"""The page: nothing of a dataset is ever markup, nothing is loaded from elsewhere, and what is known is told."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from registry.row import RowKind
from training.report import pictures
from training.report.material import Material
from training.report.page import MARKER
from training.report_step import CARD, CURVES, REPORT, build

ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "nav", "footer", "section", "div", "p", "h1", "h2",
    "h3", "a", "strong", "code", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd",
    "ul", "li", "figure", "figcaption", "img",
}  # fmt: skip
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.ids: set[str] = set()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment came from somewhere")

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def read(page: bytes) -> Reader:
    reader = Reader()
    reader.feed(page.decode("utf-8"))
    reader.close()
    assert reader._open == []
    return reader


@pytest.fixture(scope="module", params=[(RowKind.LABELLED, True), (RowKind.PAIRS, False)], ids=["labelled", "pairs"])
def built(request: pytest.FixtureRequest, make_material: Callable[..., Material]) -> tuple[Material, dict[str, bytes]]:
    kind, champion = request.param
    material = make_material(kind, champion)
    return material, build(material)


def test_hostile_texts_and_labels_are_only_ever_text(built: tuple[Material, dict[str, bytes]]) -> None:
    material, files = built
    reader = read(files[REPORT])
    assert reader.tags <= ALLOWED
    assert not {name for _, name, _ in reader.attributes if name.startswith("on")}
    for harmful in ("<script>alert('text')</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}{% raw %}"):
        assert harmful in reader.words
    if material.corpus.labels:
        assert "<script>alert('label')</script>" in reader.words
    assert "\u202e" not in reader.words
    assert "\x00" not in reader.words
    assert "\x1b" not in reader.words


def test_nothing_is_loaded_from_elsewhere(built: tuple[Material, dict[str, bytes]]) -> None:
    _, files = built
    reader = read(files[REPORT])
    for tag, name, value in reader.attributes:
        if name in ("src", "href"):
            assert (tag, name) in (("img", "src"), ("a", "href"))
            assert str(value).startswith("data:image/png;base64," if tag == "img" else "#")
            assert tag == "img" or str(value)[1:] in reader.ids
    page = files[REPORT].decode()
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert f'content="{MARKER}"' in page


def test_long_texts_are_cut(built: tuple[Material, dict[str, bytes]]) -> None:
    _, files = built
    assert not re.search("x{160}", files[REPORT].decode())


def test_what_is_known_is_told(built: tuple[Material, dict[str, bytes]]) -> None:
    material, files = built
    words = read(files[REPORT]).words
    mine = material.evaluation["metrics"]["candidate"]["ndcg_at_10"]
    assert f"nDCG@10 of the candidate is {100 * mine['mean']:.1f} points" in words
    for reason in material.verdict["reasons"]:
        assert reason["text"] in words
    assert material.dataset["digest"] in words
    assert material.lineage["files"]["head.onnx"] in words
    assert "no LoRA was tried: lora_budget_s is 0" in words
    assert material.dataset["warnings"][0] in words
    for name in material.recipe:
        assert name in words
    worst = material.evaluation["errors"]["candidate"]["examples"][0]
    assert f"{worst['margin']:+.3f}".replace("-", "−") in words
    versions = material.evaluation["versions"]
    assert (versions is None) == (material.lineage["parent"] is None)
    if versions is not None:
        assert versions["words"] in words
        assert f"{100 * versions['measures']['jaccard_at_10']['mean']:.1f}" in words
    assert ("Against the champion" in words) == (versions is not None)
    pictures_shown = files[REPORT].count(b"data:image/png;base64,")
    assert pictures_shown == (5 if material.corpus.labels else 4)


def test_equal_material_gives_equal_files(built: tuple[Material, dict[str, bytes]]) -> None:
    material, files = built
    assert build(material) == files


def test_a_figure_that_cannot_be_drawn_costs_no_report(
    make_material: Callable[..., Material], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("<script>alert('text')</script>")

    for name in ("_differences", "_curves", "_reliability", "_robustness", "_map"):
        monkeypatch.setattr(pictures, name, broken)
    files = build(make_material())
    assert files.keys() == {REPORT, CARD}
    assert CURVES not in files
    reader = read(files[REPORT])
    assert "could not be drawn" in reader.words
    assert "img" not in reader.tags
